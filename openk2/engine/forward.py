"""One forward pass over new tokens: on the kernels where they are built, else on their numpy twin.

Both read the same stored weights and write the same caches. Which one runs is settled when a text begins.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from openk2.engine import kernels
from openk2.engine.cache import HOST, LatentCache, Memory
from openk2.engine.kernels.native import Native
from openk2.engine.twin import Twin
from openk2.engine.weights import Weights
from openk2.model.config import ModelConfig

CHUNK = 256  # tokens of a text in one step: more multiply more of what the causal mask throws away
SCORE_BYTES = 64 << 20  # of one step's attention scores in numpy

Part = tuple[Sequence[int], LatentCache]  # new ids and the cache of what comes before them


class Executor(Protocol):
    """What computes. `turns`: complex64 [positions, qk_rope_head_dim / 2], the rotation of each position.

    One whose blocks are not numpy arrays says so by a `memory` (cache.Memory).
    """

    def run(self, parts: Sequence[Part], turns: np.ndarray) -> np.ndarray: ...

    def logits(self, hidden: np.ndarray) -> np.ndarray: ...


class Forward:
    """Stateless apart from weights and tables: what it knows of a text is in the cache it is given."""

    def __init__(self, config: ModelConfig, weights: Weights, executor: Executor | None = None) -> None:
        self.config = config
        self.weights = weights
        self._fixed = executor is not None
        self._executor = executor
        self.memory: Memory = getattr(executor, "memory", HOST)
        self._lock = threading.Lock()
        self._angles, self._rope_multiplier = config.rope_frequencies()
        self._turns = np.empty((0, config.qk_rope_head_dim // 2), np.complex64)

    def cache(self) -> LatentCache:
        """An empty cache for a text of this model."""
        config = self.config
        width = config.kv_lora_rank + config.qk_rope_head_dim
        return LatentCache(config.num_hidden_layers, width, self.memory)

    def run(self, ids: Sequence[int], cache: LatentCache) -> np.ndarray:
        """Append ids to the cache; return their last hidden states, normed, float32 [T, H]."""
        return self.run_many([(ids, cache)])[0]

    def run_many(self, parts: Sequence[Part]) -> list[np.ndarray]:
        """Append each part's ids to its cache, all in the same steps, so that a weight is read once for all of them.

        Returns the hidden states of each part, normed, float32 [T, H]. No cache may be given twice.
        """
        executor = self._choose(min((cache.length for _, cache in parts), default=0))
        turns = self._reserve_turns(max((cache.length + len(ids) for ids, cache in parts), default=0))
        outputs: list[list[np.ndarray]] = [[] for _ in parts]
        done = [0] * len(parts)
        while True:
            step, owners, room = [], [], 2 * CHUNK
            for i, (ids, cache) in enumerate(parts):
                longest = SCORE_BYTES // (4 * self.config.num_attention_heads * (cache.length + CHUNK))
                chunk = ids[done[i] : done[i] + min(room, CHUNK, max(1, longest))]
                if len(chunk) > 0 and room > 0:
                    cache.reserve(cache.length + len(chunk))
                    step.append((chunk, cache))
                    owners.append(i)
                    room -= len(chunk)
            if not step:
                break
            hidden, start = executor.run(step, turns), 0
            for i, (chunk, cache) in zip(owners, step, strict=True):
                outputs[i].append(hidden[start : start + len(chunk)])
                start += len(chunk)
                done[i] += len(chunk)
                cache.length += len(chunk)
        empty = np.empty((0, self.config.hidden_size), np.float32)
        return [np.concatenate(o) if len(o) > 1 else o[0] if o else empty for o in outputs]

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden [H] or [T, H] -> float32 [vocab] or [T, vocab]."""
        executor = self._choose(1)
        return executor.logits(hidden[None])[0] if hidden.ndim == 1 else executor.logits(hidden)

    def _choose(self, length: int) -> Executor:
        """The executor for texts of which at least `length` positions are known: a new text may meet built kernels."""
        executor = self._executor
        if executor is not None and (self._fixed or length > 0):
            return executor
        with self._lock:
            library = kernels.library()
            if library is not None:
                self._executor, self._fixed = Native(library, self.config, self.weights), True
            elif self._executor is None:
                self._executor = Twin(self.config, self.weights)
            assert self._executor is not None
            return self._executor

    def _reserve_turns(self, length: int) -> np.ndarray:
        """Rotations of at least the first `length` positions: pairs (x0, x1), (x2, x3), ... are complex numbers."""
        turns = self._turns
        if length > len(turns):
            positions = np.arange(max(length, 2 * len(turns), CHUNK), dtype=np.float64)
            angles = np.outer(positions, self._angles)
            turns = self._turns = (self._rope_multiplier * np.exp(1j * angles)).astype(np.complex64)
        return turns
