"""The latent cache: what multi-head latent attention keeps of each position, in blocks that forks share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

BLOCK = 128  # positions of one block


class Memory(Protocol):
    """Where blocks live: arrays that an executor computes on, of `itemsize` bytes a value."""

    itemsize: int

    def empty(self, shape: tuple[int, ...]) -> Any: ...

    def to_host(self, block: Any) -> np.ndarray:
        """The block's values, float32."""
        ...

    def from_host(self, values: np.ndarray) -> Any: ...


class HostMemory:
    """Float32 numpy arrays: what kernels and their numpy twin compute on."""

    itemsize = 4

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.float32)

    def to_host(self, block: np.ndarray) -> np.ndarray:
        return block

    def from_host(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, np.float32)


HOST = HostMemory()


class LatentCache:
    """Rows [kv_lora_rank + qk_rope_head_dim] of every layer: the normed latent, then the rotated shared key.

    A block holds BLOCK positions of all layers, [layers, BLOCK, width]. Rows are only ever appended, so a full block
    never changes and a fork points to it instead of copying it.
    """

    def __init__(self, layers: int, width: int, memory: Memory = HOST) -> None:
        self.length = 0
        self.blocks: list[Any] = []
        self.addresses = np.empty(8, np.uint64)  # of the blocks, for the kernels
        self._layers, self._width, self._memory = layers, width, memory

    @property
    def block_shape(self) -> tuple[int, int, int]:
        return self._layers, BLOCK, self._width

    @property
    def block_bytes(self) -> int:
        return self._memory.itemsize * math.prod(self.block_shape)

    @property
    def nbytes(self) -> int:
        """What the blocks take, shared ones included."""
        return self.block_bytes * len(self.blocks)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions."""
        while len(self.blocks) * BLOCK < length:
            self.add(self._memory.empty(self.block_shape))

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
        twin = LatentCache(self._layers, self._width, self._memory)
        whole, rest = divmod(length, BLOCK)
        for block in self.blocks[:whole]:
            twin.add(block)
        twin.length = whole * BLOCK
        if rest:
            twin.copy(self.blocks[whole], rest)
        return twin

    def add(self, block: Any) -> None:
        """Go on with another block, a new one or a full one that others read as well; `length` is not changed."""
        if len(self.blocks) == len(self.addresses):
            self.addresses = np.concatenate((self.addresses, np.empty_like(self.addresses)))
        self.blocks.append(block)
        self.replace(len(self.blocks) - 1, block)

    def replace(self, index: int, block: Any) -> None:
        """Read a block of the same values in place of an own one."""
        self.blocks[index] = block
        if isinstance(block, np.ndarray):
            self.addresses[index] = block.ctypes.data

    def copy(self, block: Any, count: int) -> None:
        """Append the first `count` positions of another text's block, where this text's last block is full."""
        self.reserve(self.length + 1)
        self.blocks[-1][:, :count] = block[:, :count]
        self.length += count
