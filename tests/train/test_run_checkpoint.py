"""Checkpoints: whole or not there, of this run or refused, and the same run after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from openk2.errors import UserError

pytest.importorskip("torch")
import torch
from test_training import metrics, run, shards, stage

from openk2.model.config import ModelConfig
from openk2.train.checkpoint import Checkpoints, folders, initial_weights
from openk2.train.data import Source
from openk2.train.loop import Pace, build, make_optimizer, train
from openk2.train.parallel import World

KILLS = int(os.environ.get("OPENK2_KILLS", "3"))
TIMED = {"seconds", "tokens_per_second", "mfu", "optimizer_share"}


def untimed(out: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in metrics(out)]


def weights_are_equal(a: Path, b: Path) -> bool:
    (_, one), (_, other) = initial_weights(a), initial_weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_killed_again_and_again_a_run_ends_as_if_never_killed(tmp_path: Path) -> None:
    """Checkpoints are written after every step, so that kills fall into the writing as well as into steps."""
    data = shards(tmp_path / "data")
    command = [
        sys.executable, "-m", "openk2", "train", "sft", "--data", str(data), "--vocab-size", "64", "--depth", "2",
        "--tokens", f"{16 + 8 * KILLS}k", "--batch", "512", "--parts", "2", "--checkpoint-minutes", "1e-6",
        "--threads", "1", "--log-every", "1", "--out",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    rng, parts, made, partial = random.Random(0), tmp_path / "parts", 0, 0
    while made < KILLS:
        before = [folder.name for folder in folders(parts)]
        child = subprocess.Popen(
            [*command, str(parts)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while [folder.name for folder in folders(parts)] == before and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.random() * 0.6)
        child.send_signal(signal.SIGKILL)
        _, err = child.communicate()
        assert child.returncode in (-signal.SIGKILL, 0), err
        made += 1
        partial += bool(list(parts.glob(".step-*")))
        if child.returncode == 0:
            break
    assert made >= min(KILLS, 3), "the run ended before it was killed often enough"
    subprocess.run([*command, str(parts)], check=True, env=environment, capture_output=True)
    assert untimed(parts) == untimed(tmp_path / "whole")
    assert weights_are_equal(parts, tmp_path / "whole")
    assert not list(parts.glob(".step-*"))
    print(f"{made} kills, {partial} of them while a checkpoint was written")


def test_the_last_ones_stay_and_a_kill_while_writing_leaves_nothing(tmp_path: Path) -> None:
    data = shards(tmp_path / "data")
    half = tmp_path / "run/.step-00000099"
    half.mkdir(parents=True)
    (half / "__0_0.distcp").write_bytes(b"half")
    for step in (2, 4, 6):
        run(data, tmp_path / "run", stage(), max_steps=step)
    assert [folder.name for folder in folders(tmp_path / "run")] == ["step-00000006", "step-00000004"]
    assert not half.exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    data, out, said = shards(tmp_path / "data"), tmp_path / "run", list[str]()
    run(data, tmp_path / "whole", stage(), max_steps=9)
    run(data, out, stage(), max_steps=3)
    run(data, out, stage(), max_steps=6)
    file = out / "step-00000006/__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    file.write_bytes(content)
    model = build(ModelConfig.from_depth(2, vocab_size=64), 0)
    train(model, [Source(data)], [stage()], out, say=said.append, pace=Pace(max_steps=9))
    assert (
        said[0]
        == "step-00000006 is damaged (__0_0.distcp is not what was written); going back to the checkpoint before it"
    )
    assert said[1].startswith("resumed at step 3")
    assert untimed(out) == untimed(tmp_path / "whole") and weights_are_equal(out, tmp_path / "whole")
    assert (out / "damaged-step-00000006").exists()
    for folder in folders(out):
        (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"No checkpoint in .* is whole"):
        initial_weights(out)


def test_another_network_recipe_or_data_is_refused_by_name(tmp_path: Path) -> None:
    data, out = shards(tmp_path / "data"), tmp_path / "run"
    run(data, out, stage(), max_steps=2)
    with pytest.raises(UserError, match=r"has pretrain: lr 0\.01, not 0\.02, pretrain: seed 0, not 3; give the same"):
        run(data, out, stage(lr=0.02, seed=3))
    other = build(ModelConfig.from_depth(4, vocab_size=64), 0)
    with pytest.raises(UserError, match=r"has hidden_size 64, not 128, num_hidden_layers 2, not 4"):
        train(other, [Source(data)], [stage()], out, say=lambda line: None)
    with pytest.raises(UserError, match="data or seed changed"):
        run(shards(tmp_path / "more", 400), out, stage())
    with pytest.raises(UserError, match="adamw for all of them"):
        run(data, out, stage(), stage(optimizer="adamw"))
    run(data, out, stage(), stage(name="more"), max_steps=3)  # what is still to come may change


def test_a_full_disk_keeps_the_last_good_one(tmp_path: Path) -> None:
    data, out = shards(tmp_path / "data"), tmp_path / "run"
    run(data, out, stage(), max_steps=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(
            UserError, match=r"step-00000004 could not be written \(.*\); the last good one is step-00000002"
        ):
            run(data, out, stage(), max_steps=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [folder.name for folder in folders(out)] == ["step-00000002"] and not list(out.glob(".step-*"))
    run(data, out, stage(), max_steps=4)
    assert len(folders(out)) == 2


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/never",)


def test_a_strangers_checkpoint_runs_no_code(tmp_path: Path) -> None:
    data, out = shards(tmp_path / "data"), tmp_path / "run"
    run(data, out, stage(), max_steps=1)
    (folder,) = folders(out)
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    state = json.loads((folder / "state.json").read_text())
    del state["checksums"][".metadata"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="No checkpoint"):
        initial_weights(out)
    assert not Path("/tmp/never").exists()


def test_weights_and_optimizer_come_back_bit_for_bit(tmp_path: Path) -> None:
    config = ModelConfig.from_depth(2, vocab_size=64)
    model = build(config, 0)
    optimizer = make_optimizer(model, stage())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    with Checkpoints(tmp_path, World.single()) as checkpoints:
        state = {"config": config.to_hf(), "position": {"step": 1, "stage": 0}, "stages": [dataclasses.asdict(stage())]}
        checkpoints.save(model, optimizer, state)
        with torch.no_grad():  # what changes after `save` is not in it
            saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            for parameter in model.parameters():
                parameter.zero_()
    expected, twin = torch.get_rng_state(), build(config, 1)
    other = make_optimizer(twin, stage())
    torch.manual_seed(5)
    assert Checkpoints(tmp_path, World.single()).restore(twin, other, [stage()]) is not None
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in twin.state_dict().items())
    for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        assert other.state[mine].keys() == optimizer.state[theirs].keys()
        for key, value in optimizer.state[theirs].items():
            assert torch.equal(torch.as_tensor(other.state[mine][key]), torch.as_tensor(value)), key
