"""The programs that are compared, each behind the same few calls in a process of its own (`bench.worker`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

Pass = Callable[[], None]


@dataclass(frozen=True)
class Settings:
    """`texts` at once, each of at most `positions`."""

    threads: int
    texts: int
    positions: int


class System(Protocol):
    """A loaded model. `about`: version and what computes. `cache_bytes`: of one position of a text.

    All weights are in memory, touched once, when it is there.
    """

    about: str
    cache_bytes: int

    def __init__(self, path: Path, settings: Settings) -> None: ...

    def logits(self, ids: Sequence[int], alone: int) -> np.ndarray:
        """float32 [alone, vocabulary]: behind each of the last `alone` ids, read one at a time after all others."""
        ...

    def decode(self, texts: Sequence[Sequence[int]], steps: np.ndarray) -> Pass:
        """Read texts of one length; the pass goes on behind them, int64 [steps, texts] ids, one of each text a step,
        and computes the logits of each."""
        ...

    def prefill(self, ids: Sequence[int]) -> Pass:
        """The pass reads ids into an empty cache and computes the logits behind the last."""
        ...


@dataclass(frozen=True)
class Known:
    """Where a system's `Loaded` lies, which package it needs, and what it reads: own, gguf or bf16."""

    module: str
    package: str
    form: Literal["own", "gguf", "bf16"]


OURS = "openk2"
KNOWN = {
    OURS: Known("openk2.bench.systems.ours", "numpy", "own"),
    "llama.cpp": Known("openk2.bench.systems.llama", "llama_cpp", "gguf"),
    "transformers": Known("openk2.bench.systems.hugging_face", "transformers", "bf16"),
}


def load(module: str, path: Path, settings: Settings) -> System:
    """Load a model into a system. Raises ImportError where the system is not installed."""
    return import_module(module).Loaded(path, settings)
