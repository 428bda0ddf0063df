"""Many processes train the network that one trains: losses, gradients and weights, whatever is shared among whom."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import numpy as np
import torch
from ranks import exact_float32, run
from torch import Tensor

from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.optim.distributed import clip_gradients_, local, sharded
from openk2.optim.muon import MuonAdamW, parameter_groups
from openk2.optim.qk_clip import qk_clip_all_
from openk2.train.estimate import Layout, states
from openk2.train.int4 import rounded
from openk2.train.packing import Batch
from openk2.train.parallel import World, balance, gradients, held, parallelise
from openk2.train.samples import greedy
from openk2.train.watch import explain
from openk2.train.workers import Workers

CONFIG = ModelConfig.from_depth(4, vocab_size=96, q_lora_rank=24)
PARTS, STEPS = 4, 3


def network(dtype: torch.dtype = torch.float32) -> Transformer:
    model = Transformer(CONFIG, dtype)
    model.initialise(0)
    model.alpha = 0.01  # with the balance loss
    for attention in model.attentions():
        attention.track_logits = True
    return model.train()


def parts(step: int) -> list[Batch]:
    """A step's micro-batches; each has another number of tokens to learn, one of them none."""
    ids = torch.randint(0, 96, (PARTS, 120), generator=torch.Generator().manual_seed(step))
    rows = [torch.arange(1, 1 if part == step else 30 + 10 * part) for part in range(PARTS)]
    return [Batch(ids[part], [50, 70], rows[part], 120, []) for part in range(PARTS)]


def full(tensor: Tensor) -> np.ndarray:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().numpy().copy()  # type: ignore[operator]


def learn(world: World, experts: int = 1, recompute: int = 0) -> dict[str, Any]:
    """A few steps of the whole recipe: what a rank sees of the losses, and the weights at the end."""
    exact_float32()
    world = World.from_env(experts=experts)
    model = network()
    parallelise(model, world, recompute)
    groups = parameter_groups(model)
    groups[1]["lr"] = 0.0015
    optimizer = MuonAdamW(groups, lr=0.005, ns_dtype=torch.float32)  # bf16 makes much of little
    seen: dict[str, Any] = {"losses": [], "norms": [], "logits": [], "clipped": [], "loads": []}
    for step in range(STEPS):
        batch = parts(step)
        own = sum(len(b.rows) for b in batch)
        int4 = step == 0  # later a rounding may fall elsewhere
        with rounded(model.experts() if int4 else ()):
            if world.size > 1:
                loss = gradients(model, batch[world.rank :: world.size], own, world)
            else:
                loss = Workers(1).gradients(model, batch, own)
        seen["losses"] += world.sum(torch.tensor(loss)).tolist()  # and the balance loss
        seen["norms"].append(float(clip_gradients_(model.parameters(), 0.5, world.sum)))
        optimizer.step()
        seen["bytes"] = held(model, optimizer)
        optimizer.zero_grad()
        logits, clipped = qk_clip_all_(model.attentions(), 0.2, world.max)
        seen["logits"].append(logits)
        seen["clipped"].append(clipped)
        seen["loads"].append(balance(model, 0.01, world))
    seen["weights"] = {name: full(tensor) for name, tensor in model.named_parameters()}
    seen["biases"] = [full(moe.gate.e_score_correction_bias) for moe in model.moe_layers()]
    return seen


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return learn(World.single())


def look(world: World) -> dict[str, Any]:
    """What is done beside learning: samples, a search for what is not finite, and weights that travel in bf16."""
    model = network()
    parallelise(model, world)
    seen: dict[str, Any] = {"said": greedy(model, [[5, 6, 7], [8, 9]], 5, set())}
    assert all(sharded(p) == (world.size > 1) for p in model.parameters())
    with torch.no_grad():
        weight = local(model.model.layers[2].mlp.gate.weight)  # type: ignore[union-attr]
        if world.rank == world.size - 1:
            weight[-1, 3] = torch.nan
    batch = parts(1)
    gradients(model, batch[world.rank :: world.size], 1, world)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stopped.json"
        names = [f"document {world.rank}"]
        seen["first"] = explain(model, batch[world.rank :: world.size], names, file, {"loss": 0.0}, world)
        assert file.exists() == world.is_main
        if world.is_main:
            assert json.loads(file.read_text())["documents"] == [f"document {rank}" for rank in range(world.size)]
    coarse = network(torch.bfloat16)
    parallelise(coarse, world, gather=torch.bfloat16)
    batch = parts(0)
    own = sum(len(b.rows) for b in batch)
    loss = world.sum(torch.tensor(gradients(coarse, batch[world.rank :: world.size], own, world)))
    seen["coarse"] = [*loss.tolist(), float(clip_gradients_(coarse.parameters(), 1.0, world.sum))]
    return seen


def learn_each(world: World, ways: list[tuple[int, int]]) -> list[dict[str, Any]]:
    return [learn(world, experts, recompute) for experts, recompute in ways] + [look(world)]


RANKS, WAYS = 4, [(1, 2), (2, 1), (4, 0)]  # (ranks that share experts, recompute every n-th block)


def test_many_learn_what_one_learns(alone: dict[str, Any]) -> None:
    assert sum(map(sum, alone["clipped"])) > 0  # the threshold is low enough for QK-Clip to act
    beside = look(World.single())
    for rank, (*results, looked) in enumerate(run(RANKS, learn_each, WAYS)):
        assert looked["said"] == beside["said"] and looked["first"] == beside["first"], rank
        assert looked["coarse"] == pytest.approx(beside["coarse"], rel=1e-3), rank
        for way, seen in zip(WAYS, results, strict=True):
            assert seen["losses"] == pytest.approx(alone["losses"], rel=1e-6), (way, rank)
            assert seen["norms"] == pytest.approx(alone["norms"], rel=1e-5), (way, rank)
            assert np.allclose(seen["logits"], alone["logits"], rtol=1e-5), (way, rank)
            assert seen["clipped"] == alone["clipped"] and seen["loads"] == alone["loads"], (way, rank)
            estimate = states(CONFIG, Layout(dp=RANKS, ep=way[0]))
            assert seen["bytes"] == pytest.approx(estimate, rel=0.15), (way, rank)
            for mine, other in zip(seen["biases"], alone["biases"], strict=True):
                assert np.array_equal(mine, other)
            for name, weight in alone["weights"].items():
                assert np.abs(seen["weights"][name] - weight).max() < 1e-6, (way, rank, name)
