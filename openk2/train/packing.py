"""Whole documents packed into flat batches of exactly N tokens; attention never crosses from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openk2.train.data import Stream

_POOL = 128  # documents waiting for a batch in which they fit
_FILLER = 64  # length of the empty documents that fill a batch up


@dataclass(frozen=True)
class Batch:
    """ids [N] int64; lengths of its documents in order; rows [M] of the tokens to learn; real tokens (not filler)."""

    ids: Tensor
    lengths: list[int]
    rows: Tensor
    tokens: int


class Packer:
    """Fills each batch from a pool of waiting documents, longest fitting first after the oldest one.

    Every batch has N tokens, the last few being filler: oneDNN prepares a kernel for each new shape, so one shape is
    much faster than many. A document is never split.
    """

    def __init__(self, stream: Stream, size: int, parts: int = 1) -> None:
        """A step is `parts` batches of `size` tokens. The stream's documents must fit into one of them."""
        self.stream = stream
        self.parts = parts
        self.size = size
        self.pool: list[tuple[int, int]] = []

    def step(self) -> list[Batch]:
        """The batches of one optimizer step."""
        return [self.next() for _ in range(self.parts)]

    def next(self) -> Batch:
        chosen, free = [], self.size
        while True:
            while len(self.pool) < _POOL:
                self.pool.append(self.stream.next())
            # The oldest first, so that none waits for ever; near the end the longest that still fits.
            fits = [i for i, key in enumerate(self.pool) if self.stream.length(key) <= free]
            if not fits:
                break
            at = fits[0] if free > self.size // 8 else max(fits, key=lambda i: self.stream.length(self.pool[i]))
            key = self.pool.pop(at)
            chosen.append(key)
            free -= self.stream.length(key)
        return self._batch(chosen)

    def _batch(self, chosen: list[tuple[int, int]]) -> Batch:
        ids = np.zeros(self.size, np.int64)
        mask = np.zeros(self.size, bool)
        lengths, at = [], 0
        for key in chosen:
            document = self.stream.document(key)
            end = at + len(document.ids)
            ids[at:end], mask[at:end] = document.ids, document.mask
            mask[at] = False  # nothing predicts a first token
            lengths.append(end - at)
            at = end
        tokens = at
        while at < self.size:
            lengths.append(min(_FILLER, self.size - at))
            at += lengths[-1]
        return Batch(torch.from_numpy(ids), lengths, torch.from_numpy(np.flatnonzero(mask)), tokens)

    def state(self) -> dict[str, Any]:
        return {"stream": self.stream.state(), "pool": [list(key) for key in self.pool]}

    def restore(self, state: dict[str, Any]) -> None:
        self.stream.restore(state["stream"])
        self.pool = [(int(f), int(i)) for f, i in state["pool"]]
