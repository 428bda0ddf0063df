"""Whole runs of several processes: checkpoints that any number of them goes on from, and torchrun's command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from ranks import exact_float32, run
from test_training import losses, metrics, shards

from openk2.model.config import ModelConfig
from openk2.optim.muon import MuonAdamW
from openk2.train import loop
from openk2.train.checkpoint import initial_weights
from openk2.train.data import Source
from openk2.train.parallel import World
from openk2.train.recipe import Stage
from openk2.train.workers import tune_allocator

CONFIG = ModelConfig.from_depth(2, vocab_size=64)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
STAGE = Stage(tokens=4500, batch=512, parts=4, context=128, warmup=0.1, decay=0.3, aux_loss=0.01, qk_clip=0.2)


def go(world: World, data: Path, out: Path, until: int | None, experts: int = 1, recompute: int = 0) -> dict[str, Any]:
    """Go on with the run in `out`. In float32 throughout: bf16 makes much of the little by which sums differ."""
    loop.tune_allocator = exact_float32
    if world.size > 1:
        world = World.from_env(experts=experts)
    model = loop.build(CONFIG, STAGE.seed)
    model.dtype = torch.float32
    made = loop.make_optimizer

    def make(*args: Any) -> MuonAdamW:
        optimizer = made(*args)
        optimizer.ns_dtype = torch.float32
        return optimizer

    loop.make_optimizer = make
    try:
        pace = loop.Pace(max_steps=until, recompute=recompute)
        return loop.train(model, [Source(data)], [STAGE], out, world, lambda line: None, pace)
    finally:
        loop.make_optimizer, loop.tune_allocator = made, tune_allocator


def go_both(world: World, data: Path, first: Path, second: Path) -> None:
    go(world, data, first, 6)
    go(world, data, second, 5)


def test_any_number_of_processes_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    data = shards(tmp_path / "data")
    whole, four, one = tmp_path / "whole", tmp_path / "four-two-one", tmp_path / "one-two-one"
    go(World.single(), data, whole, None)
    assert len(losses(whole)) > 8 and sum(metrics(whole)[0]["clipped"]) > 0
    last = run(4, go, data, four, 3, 2, 1)  # experts among two and two, every block computed again
    assert all((row["step"], row["loss"]) == (3, last[0]["loss"]) for row in last)
    go(World.single(), data, one, 2)
    run(2, go_both, data, four, one)
    for out in (four, one):
        go(World.single(), data, out, None)
        assert losses(out) == pytest.approx(losses(whole), rel=1e-6)
        _, expected = initial_weights(whole)
        _, found = initial_weights(out)
        for name, weight in expected.items():
            assert (found[name] - weight).abs().max() < 1e-6, (out.name, name)


def torchrun(data: Path, out: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "openk2", "train",
        "sft", "--data", str(data), "--vocab-size", "64", "--depth", "2", "--batch", "512", "--device", "cpu",
        "--tokens", "20M", "--log-every", "1", "--out", str(out), *options,
    ]  # fmt: skip


def test_torchrun_speaks_once_and_saves_when_interrupted(tmp_path: Path) -> None:
    data, out = shards(tmp_path / "data"), tmp_path / "run"
    command, pipe = torchrun(data, out, "--context", "128"), subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True) as process:
        deadline = time.monotonic() + 200
        while not (out / "metrics.jsonl").exists() or len(losses(out)) < 3:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=100)
    last = metrics(out)[-1]["step"]
    assert said.count("parameters") == said.count("step      1 ") == said.count(f"stopped at step {last}") == 1, said
    assert [folder.name for folder in out.glob("step-*")] == [f"step-{last:08d}"]


def test_torchrun_says_an_error_once(tmp_path: Path) -> None:
    data = shards(tmp_path / "data")
    command = torchrun(data, tmp_path / "run", "--parts", "1")
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=250)
    assert done.returncode != 0 and done.stderr.count("do not divide among 2 processes") == 1, done.stderr
