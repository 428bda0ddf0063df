"""Training as a whole: it learns, it resumes bit for bit after a kill, and bad input is told in a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openk2.errors import UserError

pytest.importorskip("torch")
import torch

from openk2.model.config import ModelConfig
from openk2.train.checkpoint import folders, initial_weights
from openk2.train.data import Source, Stream
from openk2.train.loop import Pace, build, train
from openk2.train.options import amount, source
from openk2.train.packing import Packer
from openk2.train.recipe import Stage


def shards(folder: Path, documents: int = 300, seed: int = 0, longest: int = 40) -> Path:
    """Copy task: 1, random tokens, 2, the same tokens again, which alone are to be learned. Two shards."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for part in range(2):
        ids, masks, lengths = [], [], []
        for _ in range(documents // 2):
            n = int(rng.integers(3, longest // 2))
            text = rng.integers(3, 64, n)
            ids.append(np.concatenate(([1], text, [2], text)))
            masks.append(np.concatenate((np.zeros(n + 2), np.ones(n))))
            lengths.append(2 * n + 2)
        np.concatenate(ids).astype(np.uint16).tofile(folder / f"part-{part}.bin")
        np.concatenate(masks).astype(np.uint8).tofile(folder / f"part-{part}.mask")
        np.array(lengths, np.int32).tofile(folder / f"part-{part}.idx")
    return folder


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in metrics(out)]


def stage(**values: Any) -> Stage:
    short: dict[str, Any] = {"tokens": 10_000, "batch": 512, "parts": 2, "context": 256}
    return Stage(**(short | values))


def run(data: Path, out: Path, *stages: Stage, max_steps: int | None = None) -> dict[str, Any]:
    config = ModelConfig.from_depth(2, vocab_size=64)
    model = build(config, stages[0].seed)
    return train(model, [Source(data)], stages, out, say=lambda line: None, pace=Pace(max_steps=max_steps))


def test_loss_falls_with_int4_at_the_end(tmp_path: Path) -> None:
    last = run(shards(tmp_path / "data"), tmp_path / "run", stage(tokens=12_000, warmup=0.05, decay=0.3, qat=0.3))
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    assert rows[0]["qat"] == 0 and last["qat"] == 1
    assert len(last["max_logits"]) == len(last["clipped"]) == 2 and len(last["load"]) == 1


@pytest.mark.parametrize("optimizer", ["muonclip", "muon", "adamw"])
def test_optimizers(tmp_path: Path, optimizer: str) -> None:
    one = stage(tokens=6000, optimizer=optimizer, lr=5e-3, qk_clip=0.3)
    run(shards(tmp_path / "data"), tmp_path / "run", one)
    rows = metrics(tmp_path / "run")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (sum(sum(row["clipped"]) for row in rows) > 0) == (optimizer == "muonclip")


def test_resuming_gives_the_same_losses(tmp_path: Path) -> None:
    data = shards(tmp_path / "data")
    whole = (stage(seed=3, tokens=7000), stage(seed=4, name="long", yarn=2.0, tokens=3000))
    run(data, tmp_path / "whole", *whole)
    for pause in (4, 9, 14, 15):
        run(data, tmp_path / "parts", *whole, max_steps=pause)
    assert run(data, tmp_path / "parts", *whole, max_steps=15) == {}  # nothing is left to do
    run(data, tmp_path / "parts", *whole)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    (_, a), (_, b) = (initial_weights(tmp_path / name) for name in ("parts", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    data = shards(tmp_path / "data")
    command = [
        sys.executable, "-m", "openk2", "train", "sft", "--data", str(data), "--vocab-size", "64", "--depth", "2",
        "--tokens", "16k", "--batch", "512", "--parts", "2", "--checkpoint-minutes", "0.0001", "--threads", "1",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "parts")], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not folders(tmp_path / "parts") and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    subprocess.run([*command, "--out", str(tmp_path / "parts")], check=True, env=environment, capture_output=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_nan_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    data = shards(tmp_path / "data")
    run(data, tmp_path / "run", stage(), max_steps=3)
    model = build(ModelConfig.from_depth(2, vocab_size=64), 0)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match="--init"):
        train(model, [Source(data)], [stage()], tmp_path / "other", say=lambda line: None)
    assert not folders(tmp_path / "other")


def test_packing_keeps_documents_whole_and_fills_batches(tmp_path: Path) -> None:
    data = shards(tmp_path / "data", 400)
    stream = Stream([Source(data)], "", 7, 512)
    packer = Packer(stream, 512)
    seen, tokens = set(), 0
    originals = {tuple(stream.folders[0].document(i).ids.tolist()) for i in range(stream.folders[0].size)}
    batches = 20
    for _ in range(batches):
        batch = packer.step().batches[0]
        assert len(batch.ids) == sum(batch.lengths) == 512
        tokens += batch.tokens
        at = 0
        for length in batch.lengths:
            document = batch.ids[at : at + length].tolist()
            if at < batch.tokens:
                assert tuple(document) in originals
                seen.add(tuple(document))
                learned = [int(r) - at for r in batch.rows if at <= r < at + length]
                assert learned == list(range(length // 2 + 1, length))
            at += length
    assert tokens > 0.98 * batches * 512
    again = Packer(Stream([Source(data)], "", 7, 512), 512)
    for _ in range(5):
        again.step()
    state = json.loads(json.dumps(again.state()))
    third = Packer(Stream([Source(data)], "", 7, 512), 512)
    third.restore(state)
    assert torch.equal(third.step().batches[0].ids, again.step().batches[0].ids)


def test_folders_are_mixed_by_weight(tmp_path: Path) -> None:
    a, b = shards(tmp_path / "a"), shards(tmp_path / "b", seed=1)
    stream = Stream([Source(a, 3.0), Source(b, 1.0)], "", 0, 512)
    drawn = [stream.next().folder for _ in range(400)]
    assert drawn.count(0) == 300
    assert source(f"{a}:2.5") == Source(a, 2.5) and source(str(a)) == Source(a)


def test_bad_data_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no token shards"):
        Stream([Source(tmp_path / "empty")], "", 0, 512)
    data = shards(tmp_path / "data")
    (data / "part-1.mask").write_bytes(b"")
    with pytest.raises(UserError, match="make the shard again"):
        Stream([Source(data)], "", 0, 512)
    with pytest.raises(UserError, match="longer than 4 tokens"):
        Stream([Source(shards(tmp_path / "long"))], "", 0, 4)
    for text in ("many", "", "0", "-3", "infM", "nank"):
        with pytest.raises(UserError, match="not an amount"):
            amount(text)
    assert (amount("1.5k"), amount("20M"), amount("8192")) == (1500, 20_000_000, 8192)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--depth", "3"], "INT4 needs widths that are multiples of 32; take an even --depth"),
        (["--depth", "2", "--warmup", "0.6", "--decay", "0.6"], "do not fit into one stage"),
        (["--depth", "2", "--tokens", "0"], "'0' is not an amount"),
        (["--depth", "2", "--log-every", "0"], "--log-every"),
        (["--depth", "1"], "A depth of 1 is too small"),
    ],
)
def test_bad_options_are_told_before_the_work(
    tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from openk2.cli.main import run as k2

    data = shards(tmp_path / "data")
    out = ["--out", str(tmp_path / "run"), "--vocab-size", "64", "--batch", "512"]
    assert k2(["train", "sft", "--data", str(data), *out, *options]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
    assert not folders(tmp_path / "run")


def test_parts_on_threads_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    from openk2.model.attention import Packing
    from openk2.train.workers import Workers

    config = ModelConfig.from_depth(2, vocab_size=64)
    model = build(config, 0)
    model.dtype = torch.float32
    packer = Packer(Stream([Source(shards(tmp_path / "data"))], "", 0, 256), 256, 3)
    batches = packer.step().batches
    loss = Workers(3).gradients(model, batches, sum(len(batch.rows) for batch in batches))
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    ids = torch.cat([b.ids for b in batches])
    rows = torch.cat([b.rows + 256 * i for i, b in enumerate(batches)])
    whole = model.loss(ids, Packing([n for b in batches for n in b.lengths]), rows)
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        expected, given = parameter.grad, gradients[name]
        assert expected is not None and given is not None
        assert torch.allclose(given, expected, atol=1e-6), name
