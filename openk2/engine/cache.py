"""The latent cache: what multi-head latent attention keeps of each position, one growing array a layer."""

from __future__ import annotations

import numpy as np

FIRST_CAPACITY = 512


class LatentCache:
    """`rows(layer, n)` is float32 [n, kv_lora_rank + qk_rope_head_dim]: normed latent, then the rotated shared key."""

    def __init__(self, layers: int, width: int) -> None:
        self.length = 0
        self._width = width
        self._layers = [np.empty((0, width), np.float32) for _ in range(layers)]

    def reserve(self, length: int) -> None:
        """Make room for `length` positions; capacity doubles, so that appending costs constant time a token."""
        capacity = len(self._layers[0])
        if length <= capacity:
            return
        capacity = max(length, 2 * capacity, FIRST_CAPACITY)
        for i, old in enumerate(self._layers):
            new = np.empty((capacity, self._width), np.float32)
            new[: self.length] = old[: self.length]
            self._layers[i] = new

    def rows(self, layer: int, length: int) -> np.ndarray:
        """A view of the first `length` rows of a layer; reserve them first."""
        return self._layers[layer][:length]

    def fork(self, length: int) -> LatentCache:
        """A copy of the first `length` positions."""
        twin = LatentCache(len(self._layers), self._width)
        twin.reserve(length)
        for i, rows in enumerate(self._layers):
            twin._layers[i][:length] = rows[:length]
        twin.length = length
        return twin
