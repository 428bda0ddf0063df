"""INT4 on disk, as compressed-tensors' pack-quantized lays it out. numpy only: the engine reads what training wrote.

Eight integers in [-8, 7] make one int32 along the input dimension: plus 8, the first one in the lowest four bits. On
disk (little end first) that is two integers a byte, so that bytes are what is worked on here.
"""

from __future__ import annotations

import numpy as np

GROUP = 32
_PER_WORD = 8
_SMALLEST = np.float32(1e-30)  # of `quant.int4`, as the two numbers below
_DROPPED = np.int32((1 << 19) - 1)
_HALF = np.int32(1 << 18)


def quantize(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numpy twin of `quant.int4.quantize`, equal to the bit, for where torch is not at hand.

    weight float32 [..., in] -> q int8 [..., in] in [-8, 7] and scale float32 [..., in/32], exact in bf16.
    Raises ValueError when `in` is not a multiple of 32.
    """
    if weight.shape[-1] % GROUP:
        raise ValueError(f"the input dimension {weight.shape[-1]} is not a multiple of the group size {GROUP}")
    groups = np.ascontiguousarray(weight, np.float32).reshape(*weight.shape[:-1], -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    magnitude = np.maximum(np.maximum(-low, high), _SMALLEST) / np.float32(8)
    magnitude = _rounded(magnitude)
    scale = np.where(high > -low, -magnitude, magnitude)
    q = groups / scale[..., None]
    np.rint(q, out=q)
    np.clip(q, -8, 7, out=q)
    return q.astype(np.int8).reshape(weight.shape), scale


def scale_bits(scale: np.ndarray) -> np.ndarray:
    """Any float32 scales, rounded as `quantize` rounds its own (5 significant bits) -> their bf16 bits, uint16."""
    return (_rounded(np.ascontiguousarray(scale, np.float32)).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _rounded(scale: np.ndarray) -> np.ndarray:
    return ((scale.view(np.int32) + _HALF) & ~_DROPPED).view(np.float32)


def pack(q: np.ndarray) -> np.ndarray:
    """q [..., in] (int8 in [-8, 7]) -> int32 [..., ceil(in/8)]. Raises ValueError for an integer outside the range."""
    if q.size and (q.min() < -8 or q.max() > 7):
        raise ValueError(f"INT4 holds -8 to 7, got {q.min()} to {q.max()}")
    raised = (q.astype(np.int8) + np.int8(8)).view(np.uint8)
    if short := -q.shape[-1] % _PER_WORD:
        raised = np.concatenate((raised, np.zeros((*q.shape[:-1], short), np.uint8)), -1)
    return (raised[..., ::2] | (raised[..., 1::2] << np.uint8(4))).view("<i4")


def nibbles(packed: np.ndarray) -> np.ndarray:
    """int32 [..., words] -> uint8 [..., 8 * words] in [0, 15]: the integers plus 8."""
    pairs = np.ascontiguousarray(packed, "<i4").view(np.uint8)
    both = np.empty((*pairs.shape, 2), np.uint8)
    np.bitwise_and(pairs, np.uint8(15), out=both[..., 0])
    np.right_shift(pairs, np.uint8(4), out=both[..., 1])
    return both.reshape(*pairs.shape[:-1], -1)


def unpack(packed: np.ndarray, size: int) -> np.ndarray:
    """int32 [..., words] -> int8 [..., size] in [-8, 7]; the inverse of `pack`."""
    return nibbles(packed)[..., :size].view(np.int8) - np.int8(8)


def dequantize(packed: np.ndarray, scale: np.ndarray, size: int) -> np.ndarray:
    """packed int32 [..., out, in/8], scale [..., out, in/group] (float32 values) -> float32 [..., out, in], exact."""
    q = unpack(packed, size).astype(np.float32)
    groups = q.reshape(*q.shape[:-1], scale.shape[-1], -1)
    groups *= scale.astype(np.float32)[..., None]
    return groups.reshape(q.shape)
