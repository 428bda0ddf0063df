"""QK-Clip: bound the attention logits by rescaling query and key weights after a step (Kimi K2, arXiv 2507.20534).

The weights are the float32 masters, from which every forward pass makes its own copies: there is no other to rescale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from openk2.model.attention import LatentAttention
from openk2.optim.distributed import local, local_rows


@torch.no_grad()
def qk_clip_(attention: LatentAttention, max_logits: Tensor, threshold: float) -> int:
    """Clip the heads whose largest logit [N] (scale and YaRN's m^2 included) exceeded `threshold`; returns how many.

    gamma = threshold / max logit; the non-rotary query and key rows are multiplied by sqrt(gamma), the rotary query
    rows by gamma; the rotary key is shared by all heads and is left alone (Algorithm 1). A logit that is negative or
    not finite clips nothing.
    """
    c = attention.config
    over = (max_logits > threshold) & max_logits.isfinite()
    gamma = torch.where(over, threshold / max_logits, 1.0).float()[:, None]
    clipped = int(over.sum())
    if clipped:
        root = gamma.sqrt().expand(-1, c.qk_nope_head_dim)
        query = torch.cat((root, gamma.expand(-1, c.qk_rope_head_dim)), 1)
        key = torch.cat((root, torch.ones(len(gamma), c.v_head_dim)), 1)
        _scale_rows_(attention.query_projection().weight, query)
        _scale_rows_(attention.kv_b_proj.weight, key)
    return clipped


def _scale_rows_(weight: Tensor, factors: Tensor) -> None:
    """Multiply row r by factors.flatten()[r], on the rows that this rank holds."""
    mine = local(weight)
    mine *= factors.reshape(-1)[local_rows(weight)].to(mine.device)[:, None]


def qk_clip_all_(
    attentions: Iterable[LatentAttention], threshold: float, largest: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[list[float], list[int]]:
    """Clip every layer by the logits tracked since the last call.

    Returns each layer's largest logit before the clip (-inf where none was tracked) and its number of clipped heads.
    `largest` takes the maxima [layers, N] over the ranks, so that all of them rescale alike.
    """
    layers = list(attentions)
    if not layers:
        return [], []
    shape = (layers[0].config.num_attention_heads,)
    device = layers[0].kv_b_proj.weight.device
    untracked = torch.full(shape, -torch.inf, device=device)
    peaks = largest(torch.stack([untracked if a.max_logits is None else a.max_logits for a in layers])).cpu()
    for attention in layers:
        attention.max_logits = None
    return peaks.amax(1).tolist(), [qk_clip_(a, peak, threshold) for a, peak in zip(layers, peaks, strict=True)]
