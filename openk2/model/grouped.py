"""The routed experts on an accelerator: all experts' products in one grouped call, and nothing waits for a count.

Shape letters as in moe.py: T tokens, H hidden, E experts, K experts a token, I expert width, S = T*K token copies
sorted by expert. `offsets` [E] (int32, on the device) are where each expert's rows end: the host never learns them, so
that it can go on giving work to the device. Gathers both ways, not additions by index, keep every result deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIGNED = 16  # bytes: rows of every operand must be a multiple of this


class Routing:
    """Where each token copy lies among the rows sorted by expert: source [S] (token), slot [T, K] (row), counts [E]."""

    def __init__(self, index: Tensor, experts: int) -> None:
        """index [T, K]: the experts of each token."""
        flat = index.reshape(-1)
        order = flat.argsort(stable=True)
        # Not bincount: on an accelerator it waits for the largest value.
        self.counts = torch.zeros(experts, dtype=torch.int64, device=flat.device)
        self.counts.scatter_add_(0, flat, torch.ones_like(flat))
        self.offsets = self.counts.cumsum(0).int()
        self.source = torch.div(order, index.shape[1], rounding_mode="floor")
        self.slot = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=flat.device))
        self.slot = self.slot.view_as(index)

    def combine(self, rows: Tensor) -> Tensor:
        """Sum over a token's copies: [S, H] -> [T, H]."""
        return rows[self.slot].sum(1)


class _GroupedSwiGLU(torch.autograd.Function):
    """Rows sorted by expert: down_e(w silu(gate_e x) * up_e x). Keeps the products before the activation.

    The matrices are kept as they were given and cast once more in the backward pass: a copy of theirs would stay in
    memory for every layer, also where FSDP drops a layer's weights between the two.
    """

    @staticmethod
    def forward(
        ctx: Any, xs: Tensor, w: Tensor, gate: Tensor, up: Tensor, down: Tensor, offsets: Tensor
    ) -> Tensor:  # fmt: skip
        w = w.to(xs.dtype)[:, None]
        g = F.grouped_mm(xs, gate.to(xs.dtype).mT, offs=offsets)  # [S, I]
        u = F.grouped_mm(xs, up.to(xs.dtype).mT, offs=offsets)
        ctx.save_for_backward(xs, w, g, u, gate, up, down, offsets)
        return F.grouped_mm(F.silu(g) * u * w, down.to(xs.dtype).mT, offs=offsets)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        xs, w, g, u, gate, up, down, offsets = ctx.saved_tensors
        dout = grads[0].contiguous()  # an expanded gradient has rows of no length
        silu = F.silu(g)
        active = silu * u
        da = F.grouped_mm(dout, down.to(xs.dtype), offs=offsets)  # of active * w
        dw = (da * active).sum(-1, dtype=torch.float32)
        d_down = F.grouped_mm(dout.mT, active * w, offs=offsets).float()
        da = da * w
        dg, du = torch.ops.aten.silu_backward(da * u, g), da * silu
        d_gate = F.grouped_mm(dg.mT, xs, offs=offsets).float()
        d_up = F.grouped_mm(du.mT, xs, offs=offsets).float()
        dx = F.grouped_mm(dg, gate.to(xs.dtype), offs=offsets) + F.grouped_mm(du, up.to(xs.dtype), offs=offsets)
        return dx, dw, d_gate, d_up, d_down, None


def swiglu(
    xs: Tensor, w: Tensor, gate: Tensor, up: Tensor, down: Tensor, offsets: Tensor
) -> Tensor:  # fmt: skip
    """Each expert on its own rows. xs [S, H] sorted by expert, w [S] their weights, offsets [E] -> [S, H].

    Products are in the type of xs; gradients of the matrices are float32. Raises ValueError when a row is no
    multiple of 16 bytes.
    """
    for size in (xs.shape[1], down.shape[2]):
        if size * xs.element_size() % _ALIGNED:
            raise ValueError(f"grouped products need widths of a multiple of 16 bytes; {size} of {xs.dtype} is none")
    return _GroupedSwiGLU.apply(xs, w, gate, up, down, offsets)  # type: ignore[return-value]


class _Spread(torch.autograd.Function):
    """x [T, H] -> its copies sorted by expert [S, H]; backward the sum over copies, by a gather."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return x[routing.source]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.routing.combine(grads[0]), None


class _Combine(torch.autograd.Function):
    """Copies [S, H] -> the sum of each token's [T, H]; backward a gather."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return routing.combine(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0][ctx.routing.source], None


class _Sort(torch.autograd.Function):
    """weights [T, K] -> [S] in the order of the rows; backward a gather."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, routing: Routing) -> Tensor:
        ctx.routing = routing
        return torch.empty_like(weights.view(-1)).scatter_(0, routing.slot.view(-1), weights.reshape(-1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0][ctx.routing.slot], None


def routed(
    x: Tensor, index: Tensor, weights: Tensor, gate: Tensor, up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """sum_k weights_k expert_{index_k}(x): x [T, H], index, weights [T, K] -> [T, H] and each expert's tokens [E]."""
    routing = Routing(index, gate.shape[0])
    xs: Any = _Spread.apply(x, routing)
    w: Any = _Sort.apply(weights, routing)
    rows = swiglu(xs, w, gate, up, down, routing.offsets)
    return _Combine.apply(rows, routing), routing.counts  # type: ignore[return-value]
