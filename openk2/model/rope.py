"""Rotary position embedding with YaRN, in Hugging Face's DeepSeek-V3 layout (interleaved pairs in, halves out)."""

from __future__ import annotations

import torch
from torch import Tensor

from openk2.model.config import ModelConfig


def rope_tables(config: ModelConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [T, qk_rope_head_dim/2] (float32, YaRN's multiplier included) of integer `positions` [T].

    Raises UserError when the configuration names a rope_scaling other than YaRN. arXiv 2309.00071, 2104.09864.
    """
    inverse, multiplier = config.rope_frequencies()
    angles = positions.float()[:, None] * torch.from_numpy(inverse).float().to(positions.device)
    return angles.cos() * multiplier, angles.sin() * multiplier


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[2i], x[2i+1]) of x [T, heads, d] by the angles of cos, sin [T, d/2].

    The result holds all first members, then all second ones: queries and keys get the same order, so that only the
    memory layout differs from the paper, and it is that of transformers. Computed in float32, returned in x's type.
    """
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def rotate_back(y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The transpose of `rotate`: from halves [T, heads, d] to pairs, by the opposite angles (its gradient)."""
    first, second = y.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((first * cos + second * sin, second * cos - first * sin), -1).flatten(-2).to(y.dtype)
