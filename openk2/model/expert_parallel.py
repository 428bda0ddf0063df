"""Expert parallelism: the experts of a layer divided among ranks, each token copy sent to the rank of its expert.

Two all-to-alls forward (tokens there, results back) and two backward, as in GShard (arXiv 2006.16668) and torchtitan.
The experts' own code is the same as without: a rank computes on the copies it received as on tokens of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def held(stack: Tensor) -> Tensor:
    """The experts [n, ...] of a stack that lie on this rank, with gradient: all of an ordinary tensor."""
    return stack.to_local() if hasattr(stack, "to_local") else stack  # type: ignore[operator]


class _AllToAll(torch.autograd.Function):
    """Rows to and from every rank of the group; the gradients go the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.received, ctx.sent, ctx.group = received, sent, group
        out = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _AllToAll.apply(grads[0], ctx.sent, ctx.received, ctx.group), None, None, None


class ExpertExchange:
    """Rank r of `group` holds experts r n to (r + 1) n - 1, n = experts / ranks."""

    def __init__(self, group: dist.ProcessGroup, experts: int) -> None:
        """Raises ValueError when the experts do not divide evenly."""
        if experts % group.size():
            raise ValueError(f"{experts} experts do not divide among {group.size()} ranks")
        self.group, self.experts = group, experts

    def __call__(
        self, compute: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, index: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x [T, H], index and weights [T, K] -> [T, H] and this rank's tokens by expert [E] (int64).

        `compute` gives the weighted outputs [R, H] of received copies [R, H] for local experts [R, 1], weights [R, 1].
        """
        tokens, k = index.shape
        flat = index.reshape(-1)
        order = flat.argsort(stable=True)  # by expert, and so by rank
        counts = torch.bincount(flat, minlength=self.experts)
        incoming = torch.empty_like(counts)
        dist.all_to_all_single(incoming, counts, group=self.group)
        incoming = incoming.view(self.group.size(), -1)  # [ranks, local experts]
        sent, received = torch.stack((counts.view_as(incoming).sum(1), incoming.sum(1))).tolist()

        copies = _AllToAll.apply(x.index_select(0, order // k), received, sent, self.group)
        shares = _AllToAll.apply(weights.reshape(-1).index_select(0, order), received, sent, self.group)
        expert = torch.arange(incoming.shape[1], device=x.device).repeat(len(incoming))
        expert = expert.repeat_interleave(incoming.reshape(-1), output_size=len(copies))
        out = compute(copies, expert[:, None], shares[:, None])
        out = _AllToAll.apply(out, sent, received, self.group)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order), device=x.device)
        return out.index_select(0, slot).view(tokens, k, -1).sum(1), counts
