"""openk2's engine: what a step of its scheduler runs, without requests and sampling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openk2 import __version__
from openk2.bench.systems import Pass, Settings
from openk2.engine import kernels
from openk2.engine.cache import LatentCache
from openk2.engine.forward import Forward
from openk2.engine.weights import Weights
from openk2.model import checkpoint
from openk2.model.config import ModelConfig

_PAGE = 4096


class Loaded:
    def __init__(self, path: Path, settings: Settings) -> None:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # what the kernels go by
        self.config = ModelConfig.from_folder(path)
        stored = checkpoint.load(path, self.config)
        for name in stored:  # a page that is not in memory would be read within a round
            np.ascontiguousarray(stored[name].bits).view(np.uint8).reshape(-1)[::_PAGE].sum()
        self.forward = Forward(self.config, Weights(self.config, stored))
        self.about = f"{__version__}, {kernels.status()[1]}"
        self.cache_bytes = self.config.cache_bytes_per_token(self.forward.memory.itemsize)

    def logits(self, ids: Sequence[int], alone: int) -> np.ndarray:
        cache = self.forward.cache()
        self.forward.run(ids[: len(ids) - alone], cache)
        return np.stack(
            [self.forward.logits(self.forward.run([token], cache)[-1]) for token in ids[len(ids) - alone :]]
        )

    def decode(self, texts: Sequence[Sequence[int]], steps: np.ndarray) -> Pass:
        forward, rows = self.forward, steps.tolist()
        caches: list[LatentCache] = []
        for ids in texts:
            caches.append(forward.cache())
            forward.run(ids, caches[-1])

        def once() -> None:
            for cache in caches:
                cache.length = len(texts[0])
            for row in rows:
                hidden = forward.run_many([([token], cache) for token, cache in zip(row, caches, strict=True)])
                forward.logits(np.concatenate(hidden))

        return once

    def prefill(self, ids: Sequence[int]) -> Pass:
        forward = self.forward

        def once() -> None:
            forward.logits(forward.run(ids, forward.cache())[-1])

        return once
