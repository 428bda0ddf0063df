"""Whole documents packed into flat batches of exactly N tokens; attention never crosses from one to the next.

One packer decides the micro-batches of every step for all ranks, from the documents' lengths alone, so that a run's
data is the same on any number of them; a rank reads only the tokens of its own.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openk2.errors import UserError
from openk2.train.data import Key, Stream

_POOL = 128  # documents waiting for a batch in which they fit
_FILLER = 64  # length of the empty documents that fill a batch up


@dataclass(frozen=True)
class Batch:
    """ids [N] int64; lengths of its documents in order; rows [M] of the tokens to learn; real tokens (not filler)."""

    ids: Tensor
    lengths: list[int]
    rows: Tensor
    tokens: int
    keys: list[Key]  # its documents

    def to(self, device: torch.device) -> Batch:
        return replace(self, ids=self.ids.to(device), rows=self.rows.to(device))


@dataclass(frozen=True)
class Step:
    """One rank's micro-batches of a step, and the data's position after it.

    Of all ranks: the real tokens, and the length of the document that a token stands in, on average over them.
    """

    batches: list[Batch]
    tokens: int
    context: float
    epoch: float
    state: dict[str, Any]


class Packer:
    """Fills each micro-batch from a pool of waiting documents, longest fitting first after the oldest one.

    Every one has N tokens, the last few being filler: oneDNN prepares a kernel for each new shape, so one shape is much
    faster than many. A document is never split.
    """

    def __init__(self, stream: Stream, size: int, parts: int = 1, rank: int = 0, ranks: int = 1) -> None:
        """A step is `parts` micro-batches of `size` tokens, of which `rank` gets every `ranks`-th from its own on."""
        self.stream, self.size, self.parts = stream, size, parts
        self.own = range(rank, parts, ranks)
        self.pool: list[Key] = []

    def step(self) -> Step:
        """The next optimizer step."""
        plans = [self.plan() for _ in range(self.parts)]
        lengths = [key.length for plan in plans for key in plan]
        context = sum(n * n for n in lengths) / sum(lengths)
        return Step(
            [self._batch(plans[i]) for i in self.own], sum(lengths), context, self.stream.epochs(), self.state()
        )

    def plan(self) -> list[Key]:
        """The documents of the next micro-batch."""
        chosen, free = [], self.size
        while True:
            while len(self.pool) < _POOL:
                self.pool.append(self.stream.next())
            # The oldest first, so that none waits for ever; near the end the longest that still fits.
            if free > self.size // 8:
                at = next((i for i, key in enumerate(self.pool) if key.length <= free), None)
            else:
                fits = [(-key.length, i) for i, key in enumerate(self.pool) if key.length <= free]
                at = min(fits)[1] if fits else None
            if at is None:
                return chosen
            chosen.append(self.pool.pop(at))
            free -= chosen[-1].length

    def _batch(self, keys: list[Key]) -> Batch:
        ids = np.zeros(self.size, np.int64)
        mask = np.zeros(self.size, bool)
        lengths, at = [], 0
        for key in keys:
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
        return Batch(torch.from_numpy(ids), lengths, torch.from_numpy(np.flatnonzero(mask)), tokens, keys)

    def state(self) -> dict[str, Any]:
        return {"stream": self.stream.state(), "pool": [list(key) for key in self.pool]}

    def restore(self, state: dict[str, Any]) -> None:
        self.stream.restore(state["stream"])
        self.pool = [Key(*key) for key in state["pool"]]


class Prefetch:
    """A packer's steps on a device, the next one made by a thread while this one is trained on."""

    def __init__(self, packer: Packer, vocabulary: int, device: torch.device) -> None:
        self.packer, self.vocabulary, self.device = packer, vocabulary, device
        self._thread = ThreadPoolExecutor(1, "data")
        self._next: Future[Step] = self._thread.submit(self._make)

    def next(self) -> Step:
        """Raises UserError when a token is outside of the vocabulary."""
        step = self._next.result()
        self._next = self._thread.submit(self._make)
        return step

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self) -> Step:
        step = self.packer.step()
        for batch in step.batches:
            if (largest := int(batch.ids.max())) >= self.vocabulary:
                names = ", ".join(self.packer.stream.name(key) for key in batch.keys[:3])
                raise UserError(
                    f"The data has token {largest}, but the vocabulary {self.vocabulary} entries (near {names}); make "
                    "the shards with the run's own tokenizer."
                )
        return replace(step, batches=[batch.to(self.device) for batch in step.batches])
