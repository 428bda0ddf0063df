"""Optimizing a network whose parameters are shards (DTensors of FSDP2): every rank steps its own rows.

Only Newton-Schulz needs whole matrices. Each matrix has one owner, chosen so that all ranks have equal work: an
all-to-all brings the rows of its update to the owner, which orthogonalises it, and a second one takes the rows of the
direction back (owner-compute, as Moonlight's distributed Muon, arXiv 2502.16982 §2.3, but no matrix is made twice).
Rows travel in the type of the products (bf16), so that the result is that of one process to the bit. Stacks of experts
are sharded by expert: their matrices are whole and do not travel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch.distributed.tensor is not imported: it takes as long as torch itself, and one process has no use for it.


def sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which a rank holds a part."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: its shard of a DTensor (changes in place are seen there), or all of it."""
    return tensor.to_local() if sharded(tensor) else tensor  # type: ignore[operator]


def rows_of(length: int, rank: int, size: int) -> slice:
    """The rows of rank `rank` when `length` rows are shared among `size` ranks as torch shards them."""
    chunk = -(-length // size)
    return slice(min(rank * chunk, length), min((rank + 1) * chunk, length))


def local_rows(tensor: Any) -> slice:
    """Which rows of the whole tensor `local(tensor)` is. Raises ValueError where ranks share anything but rows."""
    if not sharded(tensor):
        return slice(0, len(tensor))
    mesh, placements = tensor.device_mesh, tensor.placements
    if mesh.ndim != 1 or not placements[0].is_shard(0):
        raise ValueError(f"a matrix placed as {placements} on {mesh} is not shared by rows")
    return rows_of(len(tensor), mesh.get_local_rank(), mesh.size())


@torch.no_grad()
def clip_gradients_(
    parameters: Iterable[Tensor], limit: float, total: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Scale all gradients so that their joint Euclidean norm is at most `limit`; returns the norm before (a scalar).

    `total` adds up a scalar over the ranks, each of which holds other elements.
    """
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    norm = total(torch.nn.utils.get_total_norm(gradients).square()).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient *= scale
    return norm


def owners(shapes: Sequence[tuple[int, int]], ranks: int) -> list[int]:
    """The owner of each matrix: the dearest first, each to the rank with least to do (n m min(n, m) operations)."""
    load, chosen = [0] * ranks, [0] * len(shapes)
    for i in sorted(range(len(shapes)), key=lambda i: -math.prod(shapes[i]) * min(shapes[i])):
        chosen[i] = min(range(ranks), key=lambda r: load[r])
        load[chosen[i]] += math.prod(shapes[i]) * min(shapes[i])
    return chosen


class OwnerCompute:
    """Orthogonalises row-sharded matrices: one exchange there, one back, whatever their number."""

    def __init__(self, group: dist.ProcessGroup, shapes: Sequence[tuple[int, int]]) -> None:
        """`shapes` of the whole matrices, in the same order on every rank."""
        self.group, self.shapes = group, list(shapes)
        self.rank, self.size = group.rank(), group.size()
        self.of: list[list[int]] = [[] for _ in range(self.size)]  # the matrices of each owner
        for i, owner in enumerate(owners(shapes, self.size)):
            self.of[owner].append(i)

    def _elements(self, matrices: Sequence[int], rank: int) -> int:
        """Elements of `matrices` that rank `rank` holds."""
        return sum(self._held(i, rank) * self.shapes[i][1] for i in matrices)

    def _held(self, matrix: int, rank: int) -> int:
        rows = rows_of(self.shapes[matrix][0], rank, self.size)
        return rows.stop - rows.start

    def __call__(
        self, shards: Sequence[Tensor], orthogonalise: Callable[[list[Tensor]], list[Tensor]], dtype: torch.dtype
    ) -> list[Tensor]:
        """This rank's rows [rows, m] of each matrix -> its rows of the directions, in `dtype`.

        `orthogonalise` takes and gives a list of whole matrices.
        """
        mine = self.of[self.rank]
        sizes = [self._elements(matrices, self.rank) for matrices in self.of]  # what goes to each owner
        received = [self._elements(mine, rank) for rank in range(self.size)]
        send = torch.cat([shards[i].reshape(-1).to(dtype) for matrices in self.of for i in matrices])
        rows = send.new_empty(sum(received))
        dist.all_to_all_single(rows, send, received, sizes, group=self.group)
        pieces: list[list[Tensor]] = [[] for _ in mine]
        by_rank = rows.split(received)
        for rank, block in enumerate(by_rank):
            counts = [self._held(i, rank) * self.shapes[i][1] for i in mine]
            for piece, part, i in zip(pieces, block.split(counts), mine, strict=True):
                piece.append(part.view(-1, self.shapes[i][1]))
        directions = orthogonalise([torch.cat(piece) for piece in pieces])
        back = [
            direction[rows_of(len(direction), rank, self.size)].reshape(-1).to(dtype)
            for rank in range(self.size)
            for direction in directions
        ]
        rows = torch.cat(back) if back else rows
        dist.all_to_all_single(send, rows, sizes, received, group=self.group)
        result: list[Tensor] = [send] * len(self.shapes)
        order = [i for matrices in self.of for i in matrices]
        counts = [self._held(i, self.rank) * self.shapes[i][1] for i in order]
        for i, part in zip(order, send.split(counts), strict=True):
            result[i] = part.view(-1, self.shapes[i][1])
        return result
