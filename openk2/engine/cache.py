"""The latent cache: what multi-head latent attention keeps of each position, in blocks that forks share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 128  # positions of one block


class LatentCache:
    """Float32 rows [kv_lora_rank + qk_rope_head_dim] of every layer: the normed latent, then the rotated shared key.

    A block holds BLOCK positions of all layers, [layers, BLOCK, width]. Rows are only ever appended, so a full block
    never changes and a fork points to it instead of copying it.
    """

    def __init__(self, layers: int, width: int) -> None:
        self.length = 0
        self.blocks: list[np.ndarray] = []
        self.addresses = np.empty(8, np.uint64)  # of the blocks, for the kernels
        self._layers, self._width = layers, width

    @property
    def nbytes(self) -> int:
        """What the blocks take, shared ones included."""
        return 4 * self._layers * BLOCK * self._width * len(self.blocks)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions."""
        while len(self.blocks) * BLOCK < length:
            self._add(np.empty((self._layers, BLOCK, self._width), np.float32))

    def write(self, layer: int, start: int, rows: np.ndarray) -> None:
        """Put rows [n, width] at positions start, start + 1, ...; reserve them first."""
        done = 0
        while done < len(rows):
            block, offset = divmod(start + done, BLOCK)
            count = min(BLOCK - offset, len(rows) - done)
            self.blocks[block][layer, offset : offset + count] = rows[done : done + count]
            done += count

    def pieces(self, layer: int, length: int) -> Iterator[np.ndarray]:
        """The first `length` rows of a layer, block by block, as views [n, width]."""
        for start in range(0, length, BLOCK):
            yield self.blocks[start // BLOCK][layer, : length - start]

    def rows(self, layer: int, length: int) -> np.ndarray:
        """The first `length` rows of a layer in one array [length, width]."""
        pieces = list(self.pieces(layer, length))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def fork(self, length: int) -> LatentCache:
        """The first `length` positions: full blocks are shared, the rest of the last one is copied."""
        twin = LatentCache(self._layers, self._width)
        whole, rest = divmod(length, BLOCK)
        for block in self.blocks[:whole]:
            twin._add(block)
        if rest:
            twin.reserve(length)
            twin.blocks[-1][:, :rest] = self.blocks[whole][:, :rest]
        twin.length = length
        return twin

    def _add(self, block: np.ndarray) -> None:
        if len(self.blocks) == len(self.addresses):
            self.addresses = np.concatenate((self.addresses, np.empty_like(self.addresses)))
        self.addresses[len(self.blocks)] = block.ctypes.data
        self.blocks.append(block)
