"""Grouped products of the experts against the CPU path: outputs, gradients, experts without a token."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from openk2.model import grouped
from openk2.model.config import ModelConfig
from openk2.model.moe import Experts

CONFIG = dataclasses.replace(ModelConfig.from_depth(4), n_routed_experts=6, num_experts_per_tok=3)
NAMES = ("gate_proj", "up_proj", "down_proj")


def _experts(seed: int = 0) -> Experts:
    torch.manual_seed(seed)
    experts = Experts(CONFIG)
    for p in experts.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return experts


def _tokens(count: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """x [T, H], index and weights [T, K]; `skewed` leaves most experts without a token."""
    index = torch.stack([torch.randperm(6)[:3] for _ in range(count)])
    if kind == "skewed":
        index = torch.tensor([[5, 0, 2]]).expand(count, 3)
    return torch.randn(count, CONFIG.hidden_size), index, torch.rand(count, 3)


def _both(experts: Experts, tokens: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> list[list[Tensor]]:
    """Output, counts and all gradients: of Experts (CPU path), then of the grouped products."""
    weight = torch.randn(tokens[0].shape)
    results = []
    for which in ("cpu", "grouped"):
        experts.zero_grad()
        x, index, weights = tokens[0].clone().requires_grad_(), tokens[1], tokens[2].clone().requires_grad_()
        if which == "cpu":
            out, counts = experts(x.to(dtype), index, weights)
        else:
            stacks = (getattr(experts, name) for name in NAMES)
            out, counts = grouped.routed(x.to(dtype), index, weights, *stacks)
        (out.float() * weight).sum().backward()
        grads = [x.grad, weights.grad, *(p.grad for p in experts.parameters())]
        assert all(g is not None and (g.dtype == torch.float32) for g in grads)
        results.append([out.detach().float(), counts, *(g.clone() for g in grads if g is not None)])
    return results


@pytest.mark.parametrize("kind", ["even", "skewed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_of_the_cpu_path(kind: str, dtype: torch.dtype) -> None:
    mine, other = _both(_experts(), _tokens(150, kind), dtype)
    assert torch.equal(mine[1], other[1]) and int(mine[1].sum()) == 450
    if kind == "skewed":
        assert mine[1].tolist() == [150, 0, 150, 0, 0, 150]
        assert all(bool((g[[1, 3, 4]] == 0).all()) for g in other[4:])
    for a, b in zip(mine, other, strict=True):
        if a.is_floating_point():
            size = float(a.abs().max())
            torch.testing.assert_close(b, a, atol=size * (1e-5 if dtype == torch.float32 else 2e-2), rtol=0)


def test_one_token_and_a_gradient_of_no_strides() -> None:
    experts, (x, index, weights) = _experts(), _tokens(1, "even")
    x.requires_grad_()
    out, _ = grouped.routed(x, index, weights, experts.gate_proj, experts.up_proj, experts.down_proj)
    out.sum().backward()  # its gradient is one number, expanded
    assert x.grad is not None and bool(x.grad.isfinite().all())
    rows = grouped.swiglu(
        torch.randn(4, CONFIG.hidden_size), torch.ones(4), experts.gate_proj, experts.up_proj, experts.down_proj,
        torch.tensor([0, 0, 4, 4, 4, 4], dtype=torch.int32),
    )  # fmt: skip
    rows.sum().backward()
    assert experts.down_proj.grad is not None and bool(experts.down_proj.grad[2].any())


def test_the_routing_sorts_by_expert_and_keeps_order() -> None:
    index = torch.tensor([[2, 0], [1, 2], [0, 1]])
    routing = grouped.Routing(index, 4)
    assert routing.counts.tolist() == [2, 2, 2, 0] and routing.offsets.tolist() == [2, 4, 6, 6]
    assert routing.source.tolist() == [0, 2, 1, 2, 0, 1]
    assert routing.slot.tolist() == [[4, 0], [2, 5], [1, 3]]


def test_the_host_never_waits() -> None:
    """Fake tensors have shapes and no values: whatever asks for a value raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        index = mode.from_tensor(torch.zeros(8, 3, dtype=torch.int64))
        routing = grouped.Routing(index, 6)
        assert routing.slot.shape == (8, 3) and routing.offsets.shape == (6,)
        assert routing.combine(torch.empty(24, 5)).shape == (8, 5)


def test_widths_that_the_kernel_cannot_take_are_named() -> None:
    with pytest.raises(ValueError, match="16 bytes; 12"):
        grouped.swiglu(
            torch.randn(4, 12, dtype=torch.bfloat16), torch.ones(4), torch.empty(1, 8, 12), torch.empty(1, 8, 12),
            torch.empty(1, 12, 8), torch.tensor([4], dtype=torch.int32),
        )  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the accelerator's own kernels need one")
@pytest.mark.parametrize("kind", ["even", "skewed"])
def test_on_an_accelerator(kind: str) -> None:
    experts, (x, index, weights) = _experts(), _tokens(150, kind)
    expected, counts = experts(x.bfloat16(), index, weights)
    expected.float().square().sum().backward()
    grads = [p.grad for p in experts.parameters()]
    there = _experts().cuda()
    out, found = there(x.bfloat16().cuda(), index.cuda(), weights.cuda())
    out.float().square().sum().backward()
    assert torch.equal(found.cpu(), counts)
    for a, b in zip([expected, *grads], [out, *(p.grad for p in there.parameters())], strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(b.cpu().float(), a.float(), atol=3e-2 * float(a.abs().max()), rtol=0)


def test_it_compiles_to_one_graph() -> None:
    """Traced whole, forward and backward: nothing in it depends on a value, or leaves the graph."""
    experts, (x, index, weights) = _experts(), _tokens(60, "even")
    results = []
    for function in (grouped.routed, torch.compile(grouped.routed, backend="aot_eager", fullgraph=True)):
        experts.zero_grad()
        inputs = x.bfloat16().requires_grad_()
        out, counts = function(inputs, index, weights, experts.gate_proj, experts.up_proj, experts.down_proj)
        out.float().square().sum().backward()
        results.append([out.detach(), counts, inputs.grad, *(p.grad for p in experts.parameters())])
    for a, b in zip(*results, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
