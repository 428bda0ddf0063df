"""Training as a whole: it learns, it resumes bit for bit after a kill, and bad input is told in a sentence."""

from __future__ import annotations

import json
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
    loss, _ = Workers(3).gradients(model, batches, sum(len(batch.rows) for batch in batches))
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


def test_the_whole_way_from_text_to_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of docs/training.md: shards, three stages with YaRN, conversations, an export that loads."""
    from openk2.cli.main import run as k2
    from openk2.paths import NANO

    def command(*words: object) -> str:
        assert k2([str(word) for word in words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    rng = np.random.default_rng(0)
    words = "the of and to in a is that it was for on are as with his they at be this".split()
    texts = [{"text": " ".join(rng.choice(words, 60))} for _ in range(80)]
    turns = [{"role": "user", "content": "Say the."}, {"role": "assistant", "content": "the"}]
    for name, rows in (("text", texts), ("talk", [{"messages": turns}] * 40)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command("train", "prepare", tmp_path / f"{name}.jsonl", "--tokenizer", NANO, "--out", tmp_path / name)
    common = ["--tokenizer", NANO, "--threads", 1, "--depth", 2, "--batch", 256, "--log-every", 1]
    base = ["train", "pretrain", "--data", tmp_path / "text", *common, "--out", tmp_path / "base", "--tokens", "6k"]
    base += ["--context", 32, "--yarn", 4]
    said = command(*base, "--prompt", "the of", "--sample-every", 10)
    assert all(f"{name}: " in said for name in ("pretrain", "anneal", "long")) and "done: 0.01M tokens" in said
    rows = metrics(tmp_path / "base")
    assert list(dict.fromkeys(row["stage"] for row in rows)) == ["pretrain", "anneal", "long"]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["aux_loss"] > 0
    samples = [json.loads(line) for line in (tmp_path / "base/samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [10, 20] and samples[0]["prompt"] == "the of"
    config, _ = initial_weights(tmp_path / "base")
    assert config.max_position_embeddings == 128 and config.rope_scaling is not None
    sft = ["train", "sft", "--data", tmp_path / "talk", *common, "--init", tmp_path / "base", "--tokens", "2k"]
    command(*sft, "--out", tmp_path / "sft", "--qat", 0.5)
    assert metrics(tmp_path / "sft")[-1]["qat"] == 1
    assert "parameters" in command("model", "export", tmp_path / "sft", tmp_path / "model", "--tokenizer", NANO)
    exported, _ = initial_weights(tmp_path / "model")
    assert exported.max_position_embeddings == 128
