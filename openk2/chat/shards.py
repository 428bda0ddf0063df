"""Shards of tokens: what data is made into, and what `k2 train` reads.

`NAME.bin` holds token ids (uint16, or uint32 where the vocabulary needs it), `NAME.mask` a byte for each, 1 where the
token is to be learned (or one byte for all of them), and `NAME.idx` the documents' lengths (int32). A shard exists once
its `.idx` does.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

Tokens = tuple[list[int], list[int]]  # ids and mask of one document


class ShardWriter:
    """Writes one shard a document at a time. Raises OSError when the disk is full."""

    def __init__(self, path: Path, vocabulary: int, masked: bool = True) -> None:
        """`path` without suffix. Unless `masked`, every token is to be learned."""
        self.path = path
        self.type = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        self.masked = masked
        self.tokens = 0
        self._lengths = array("i")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".idx").unlink(missing_ok=True)
        self._files: dict[str, BinaryIO] = {s: path.with_suffix(s).open("wb") for s in (".bin", ".mask")}

    def add(self, ids: Sequence[int], mask: Sequence[int] = ()) -> None:
        # Not ndarray.tofile, whose error for a full disk does not say so.
        self._files[".bin"].write(np.asarray(ids, self.type).tobytes())
        if self.masked:
            self._files[".mask"].write(np.asarray(mask, np.uint8).tobytes())
        self._lengths.append(len(ids))
        self.tokens += len(ids)

    def close(self) -> None:
        """Finish the shard: from now on it exists."""
        if not self.masked:
            self._files[".mask"].write(b"\1")
        for file in self._files.values():
            file.close()
        part = self.path.with_suffix(".part")
        part.write_bytes(np.asarray(self._lengths, np.int32).tobytes())
        part.replace(self.path.with_suffix(".idx"))


def write_tokens(path: Path, documents: Iterable[Tokens], vocabulary: int) -> int:
    """Write one shard; returns the number of tokens."""
    shard = ShardWriter(path, vocabulary)
    for ids, mask in documents:
        shard.add(ids, mask)
    shard.close()
    return shard.tokens
