"""INT4 on disk, as compressed-tensors' pack-quantized lays it out. numpy only: the engine reads what training wrote.

Eight integers in [-8, 7] make one int32 along the input dimension: plus 8, the first one in the lowest four bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

GROUP = 32
_PER_WORD = 8
_SHIFTS = np.arange(0, 32, 4, dtype=np.uint32)


def pack(q: np.ndarray) -> np.ndarray:
    """q [..., in] (int8 in [-8, 7]) -> int32 [..., ceil(in/8)]. Raises ValueError for an integer outside the range."""
    if q.size and (q.min() < -8 or q.max() > 7):
        raise ValueError(f"INT4 holds -8 to 7, got {q.min()} to {q.max()}")
    nibbles = (q.astype(np.int16) + 8).astype(np.uint32)
    if short := -q.shape[-1] % _PER_WORD:
        nibbles = np.concatenate((nibbles, np.zeros((*q.shape[:-1], short), np.uint32)), -1)
    words = nibbles.reshape(*q.shape[:-1], -1, _PER_WORD) << _SHIFTS
    return np.bitwise_or.reduce(words, -1).view(np.int32)


def unpack(packed: np.ndarray, size: int) -> np.ndarray:
    """int32 [..., words] -> int8 [..., size] in [-8, 7]; the inverse of `pack`."""
    nibbles = (np.ascontiguousarray(packed).view(np.uint32)[..., None] >> _SHIFTS) & np.uint32(15)
    return (nibbles.reshape(*packed.shape[:-1], -1)[..., :size].astype(np.int16) - 8).astype(np.int8)


def dequantize(packed: np.ndarray, scale: np.ndarray, size: int) -> np.ndarray:
    """packed int32 [..., out, in/8] and scale [..., out, in/32] (float32 values) -> float32 [..., out, in], exact."""
    q = unpack(packed, size).astype(np.float32)
    groups = q.reshape(*q.shape[:-1], scale.shape[-1], -1) * scale.astype(np.float32)[..., None]
    return groups.reshape(q.shape)


class Readable(Protocol):
    """A tensor of a checkpoint, as `model.checkpoint.load` gives it."""

    @property
    def bits(self) -> np.ndarray: ...

    def float32(self) -> np.ndarray: ...


def read_packed(stored: Mapping[str, Readable], name: str) -> np.ndarray:
    """The float32 values of `name`, which a checkpoint stores as `name_packed`, `name_scale` and `name_shape`."""
    columns = int(stored[f"{name}_shape"].bits[1])
    return dequantize(stored[f"{name}_packed"].bits, stored[f"{name}_scale"].float32(), columns)
