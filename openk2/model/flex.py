"""Attention of packed documents on an accelerator: FlexAttention with a mask by blocks, and each head's largest logit.

The kernel returns the maxima that QK-Clip needs beside its output, so that they cost no second pass over the scores. It
takes keys and values of different sizes, which the other fused kernels of torch do not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

_BLOCK = 128  # rows and columns that the kernel skips or takes at once


def document_mask(lengths: Sequence[int], device: torch.device | str) -> BlockMask:
    """Which keys each query sees: those before it, in its own document. One row of blocks at a time, never T x T.

    A query's keys are one run, from the start of its document to itself. So block j of keys holds some for block i of
    queries when the document of i's first query begins in j or before it, and only such when that of its last query
    begins at j's first key or before, and j lies before i.
    """
    total, blocks = sum(lengths), -(-sum(lengths) // _BLOCK)
    sizes = torch.tensor(lengths)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)  # of each token's document
    first = starts[::_BLOCK]
    last = starts[torch.arange(1, blocks + 1).mul_(_BLOCK).clamp_(max=total) - 1]
    i, j = torch.arange(blocks)[:, None], torch.arange(blocks)[None]
    some = (j <= i) & ((j + 1) * _BLOCK > first[:, None])
    whole = (j < i) & (j * _BLOCK >= last[:, None])
    part_count, part_index = _listed(some & ~whole, device)
    whole_count, whole_index = _listed(whole, device)
    starts = starts.to(device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= starts[query])

    return BlockMask.from_kv_blocks(
        part_count, part_index, whole_count, whole_index, BLOCK_SIZE=_BLOCK, mask_mod=visible,
        seq_lengths=(total, total),
    )  # fmt: skip


def _listed(mask: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """mask [I, J] -> how many columns are set in each row [1, 1, I], and which ones first [1, 1, I, J] (int32)."""
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    return mask.sum(1).int()[None, None].to(device), order.int()[None, None].to(device)


@functools.cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    """FlexAttention; compiled wherever it is to be fast, once for each number of tokens, whatever their documents.

    Uncompiled it makes the whole T x T matrix.
    """
    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: BlockMask, track: bool = False
) -> tuple[Tensor, Tensor]:
    """As `attention.attend`, with the mask of the batch's documents.

    q, k [T, N, D], v [T, N, V] -> output [T, N, V] and the largest scaled logit of each head [N] (float32, no gradient;
    -inf unless `track`).
    """
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, N, T, D]
    aux = AuxRequest(max_scores=True) if track else None
    out = _kernel(q.is_cuda)(q, k, v, block_mask=mask, scale=scale, return_aux=aux)
    if not track:
        return out[0].transpose(0, 1), torch.full((q.shape[1],), -torch.inf, device=q.device)
    out, found = out
    return out[0].transpose(0, 1), found.max_scores.detach()[0].amax(-1).float()
