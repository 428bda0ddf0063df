"""Shards of tokens, as `k2 train` reads them.

`NAME.bin` (uint16 ids), `NAME.mask` (uint8, 1 on what is to be learned) and `NAME.idx` (int32 document lengths).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError

Tokens = tuple[list[int], list[int]]  # ids and mask of one document


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises UserError when it is missing or too large for shards."""
    tokenizer = Tokenizer.load(path)
    if tokenizer.n_vocab > 1 << 16:
        raise UserError(
            f"Shards hold ids below 65,536 and this tokenizer has {tokenizer.n_vocab:,}; use a smaller one."
        )
    return tokenizer


def write_tokens(path: Path, documents: list[Tokens]) -> int:
    """Write one shard; it exists once its `.idx` does. Returns the number of tokens."""
    # Not ndarray.tofile, whose error for a full disk does not say so.
    path.with_suffix(".bin").write_bytes(np.asarray([i for ids, _ in documents for i in ids], np.uint16).tobytes())
    path.with_suffix(".mask").write_bytes(np.asarray([m for _, mask in documents for m in mask], np.uint8).tobytes())
    part = path.with_suffix(".part")
    part.write_bytes(np.asarray([len(ids) for ids, _ in documents], np.int32).tobytes())
    part.replace(path.with_suffix(".idx"))
    return sum(len(ids) for ids, _ in documents)
