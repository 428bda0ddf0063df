"""Muon on shards is Muon: to the bit what one process makes of the same gradients."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")
import numpy as np
import torch
from ranks import run
from torch import Tensor, nn

from openk2.optim.distributed import clip_gradients_, local_rows, owners, rows_of
from openk2.optim.muon import MuonAdamW
from openk2.train.parallel import World

# Rows that do not divide among four ranks, fewer rows than ranks, equal shapes, and stacks of whole matrices.
SHAPES = [(64, 32), (64, 32), (30, 70), (7, 33), (3, 16), (6, 24, 16), (2, 16, 24), (1, 8, 8)]


def values(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in [*SHAPES, (37,), (50, 12)]]


def spread(world: World, tensor: Tensor) -> Tensor:
    if world.size == 1:
        return tensor
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(tensor, init_device_mesh("cpu", (world.size,)), [Shard(0)])


def whole(tensor: Tensor) -> np.ndarray:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().numpy()  # type: ignore[operator]


def learn(world: World, optimizer: torch.optim.Optimizer, parameters: dict[int, nn.Parameter]) -> list[np.ndarray]:
    """A few steps from equal gradients, parameter i being the i-th of `values`; whole weights and optimizer state."""
    for step in range(1, 4):
        gradients = values(step)
        for i, parameter in parameters.items():
            parameter.grad = spread(world, gradients[i])
        optimizer.step()
    states = [t for p in parameters.values() for t in optimizer.state[p].values()]
    return [whole(t) for t in [*parameters.values(), *(t for t in states if isinstance(t, Tensor) and t.ndim)]]


def ours(world: World) -> list[np.ndarray]:
    parameters = {i: nn.Parameter(spread(world, v)) for i, v in enumerate(values(0))}
    tensors = list(parameters.values())
    groups = [{"params": tensors[:-2], "muon": True}, {"params": tensors[-2:], "muon": False}]
    return learn(world, MuonAdamW(groups, lr=0.02), parameters)


def torchs(world: World) -> list[np.ndarray]:
    """torch's own Muon, which gathers every matrix on every rank and wants a row of it on each."""
    parameters = {i: nn.Parameter(spread(world, values(0)[i])) for i in range(4)}
    named = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    return learn(world, torch.optim.Muon(parameters.values(), **named), parameters)


def both(world: World) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return ours(world), torchs(world)


def test_equal_to_one_process_to_the_bit() -> None:
    alone = ours(World.single())
    for mine, theirs in run(4, both):
        for a, b in zip(mine, alone, strict=True):
            assert np.array_equal(a, b)
        # torch's M = mu M + (1 - mu) G differs by a factor, which bf16 rounds in another place.
        for a, b in zip(mine[:4], theirs[:4], strict=True):
            assert np.abs(a - b).max() < 0.02 * 0.2 * math.sqrt(max(a.shape)) * 0.1


def test_owners_have_equal_work() -> None:
    shapes = [(1536, 7168), (12288, 1536), (576, 7168), (16384, 512), (7168, 8192)] * 61  # Kimi K2's attention
    of = owners(shapes, 16)
    work = [0.0] * 16
    for owner, (n, m) in zip(of, shapes, strict=True):
        work[owner] += n * m * min(n, m)
    assert max(work) < 1.05 * sum(work) / 16


@pytest.mark.parametrize(("length", "size"), [(8, 4), (7, 4), (5, 4), (3, 4), (1, 2)])
def test_rows_are_shared_as_torch_shares_them(length: int, size: int) -> None:
    chunks = torch.arange(length).chunk(size)
    for rank in range(size):
        rows = rows_of(length, rank, size)
        expected = chunks[rank].tolist() if rank < len(chunks) else []
        assert list(range(length))[rows] == expected


def test_the_gradient_norm_is_torchs() -> None:
    parameters = [nn.Parameter(v) for v in values(0)]
    for parameter, gradient in zip(parameters, values(1), strict=True):
        parameter.grad = gradient.clone()
    norm = clip_gradients_(parameters, 2.0)
    others = [nn.Parameter(v) for v in values(0)]
    for parameter, gradient in zip(others, values(1), strict=True):
        parameter.grad = gradient.clone()
    assert float(norm) == pytest.approx(float(torch.nn.utils.clip_grad_norm_(others, 2.0)), rel=1e-6)
    for mine, theirs in zip(parameters, others, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-5)
    assert float(clip_gradients_([nn.Parameter(torch.ones(2))], 1.0)) == 0  # no gradient at all


def test_a_whole_tensor_has_all_rows() -> None:
    assert local_rows(torch.zeros(5, 2)) == slice(0, 5)
