"""QK-Clip: bound the attention logits by rescaling query and key weights after a step (Kimi K2, arXiv 2507.20534)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from openk2.model.attention import LatentAttention


@torch.no_grad()
def qk_clip_(attention: LatentAttention, max_logits: Tensor, threshold: float) -> int:
    """Clip the heads whose largest logit [N] (scale and YaRN's m^2 included) exceeded `threshold`; returns how many.

    gamma = threshold / max logit; the non-rotary query and key rows are multiplied by sqrt(gamma), the rotary query
    rows by gamma; the rotary key is shared by all heads and is left alone (Algorithm 1).
    """
    c = attention.config
    gamma = (threshold / max_logits.clamp_min(threshold)).to(torch.float32)
    over = int((gamma < 1).sum())
    if over:
        nope = c.qk_nope_head_dim
        queries = attention.query_projection().weight.view(c.num_attention_heads, c.qk_head_dim, -1)
        keys = attention.kv_b_proj.weight.view(c.num_attention_heads, nope + c.v_head_dim, -1)
        root = gamma.sqrt()[:, None, None]
        queries[:, :nope] *= root
        queries[:, nope:] *= gamma[:, None, None]
        keys[:, :nope] *= root
    return over


def qk_clip_all_(attentions: Iterable[LatentAttention], threshold: float) -> tuple[list[float], list[int]]:
    """Clip every layer by the logits tracked since the last call.

    Returns each layer's largest logit before the clip (-inf where none was tracked) and its number of clipped heads.
    """
    largest, clipped = [], []
    for attention in attentions:
        peak, attention.max_logits = attention.max_logits, None
        largest.append(-float("inf") if peak is None else float(peak.max()))
        clipped.append(qk_clip_(attention, peak, threshold) if largest[-1] > threshold and peak is not None else 0)
    return largest, clipped
