"""The one function that quantises: INT4, symmetric, groups of 32 along the input dimension (Kimi K2 Thinking's format).

Training (`fake_quantize`), export and tests all call `quantize` and `dequantize` here, so that the network that was
trained and the one that is exported have the same weights, to the bit.

Scale: the bf16 value nearest to absmax/7.5, and integers in [-8, 7], as the minmax observer of compressed-tensors
chooses. Rounding uses that stored bf16 scale, not the float32 one it came from. A weight is q * scale, which float32
holds exactly; loaders that work in bf16 round that product once, and so does a bf16 forward pass here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GROUP = 32


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [..., out, in] -> q [..., out, in] (int8 in [-8, 7]) and scale [..., out, in/32] (bf16, positive).

    Raises ValueError when `in` is not a multiple of 32.
    """
    if weight.shape[-1] % GROUP:
        raise ValueError(f"the input dimension {weight.shape[-1]} is not a multiple of the group size {GROUP}")
    groups = weight.float().unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1) / 7.5).clamp_min(1e-8).bfloat16()  # a group of zeros keeps a harmless scale
    q = torch.round(groups / scale.float()[..., None]).clamp_(-8, 7)
    return q.flatten(-2).to(torch.int8), scale


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """q [..., out, in] and scale [..., out, in/32] -> weight q * scale [..., out, in], float32 and exact."""
    return (q.unflatten(-1, (-1, GROUP)) * scale.float()[..., None]).flatten(-2)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return dequantize(*quantize(weight)).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


def fake_quantize(weight: Tensor) -> Tensor:
    """The values that an INT4 export of `weight` will have, in its own type; the gradient passes straight through."""
    return _StraightThrough.apply(weight)  # type: ignore[return-value]
