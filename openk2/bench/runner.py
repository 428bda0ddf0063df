"""A system with one model, opened when its turn comes: kept open where all fit in memory, else closed after it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.bench.process import Process
from openk2.bench.systems import KNOWN


@dataclass(frozen=True)
class Case:
    """What a round does: `prepare` is the message before it. `tokens`: of one pass."""

    prepare: dict[str, Any]
    tokens: int


class Runner:
    """Every call raises rounds.Failed when the system cannot."""

    def __init__(self, name: str, path: Path, threads: int, texts: int, positions: int) -> None:
        self.name, self.path, self.threads = name, path, threads
        self._opening = {"path": str(path), "threads": threads, "texts": texts, "positions": positions}
        self._process: Process | None = None
        self._ready: Case | None = None
        self.about = ""
        self.cache_bytes = 0

    @property
    def process(self) -> Process:
        if self._process is None:
            self._process = Process(self.name, KNOWN[self.name].module, self.threads)
            opened = self._process.ask("open", **self._opening)
            self.about, self.cache_bytes = opened["about"], opened["cache_bytes"]
        return self._process

    def logits(self, ids: Sequence[int], alone: int) -> np.ndarray:
        """float32 [alone, vocabulary]."""
        answer = self.process.ask("logits", ids=list(ids), alone=alone)
        return np.frombuffer(base64.b64decode(answer["data"]), np.float32).reshape(answer["rows"], -1)

    def speed(self, case: Case, seconds: float) -> float:
        """Tokens a second of one round."""
        if self._ready is not case:
            self.process.ask(**case.prepare)
            self._ready = case
        done = self.process.ask("round", seconds=seconds)
        return done["passes"] * case.tokens / done["seconds"]

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process = self._ready = None
