"""Engine and sessions: token ids in, token ids out. A session only ever appends."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from openk2.engine import snapshot
from openk2.engine.forward import Executor, Forward
from openk2.engine.request import Completion, Request
from openk2.engine.sampler import Constraint, Sampling
from openk2.engine.scheduler import Scheduler
from openk2.engine.stopping import StopTexts
from openk2.engine.thinking import ThinkingLimit
from openk2.engine.threads import limit_blas
from openk2.engine.weights import Weights
from openk2.errors import UserError
from openk2.model.config import ModelConfig

LEAST_CACHE = 256 << 20


class Engine:
    """One checkpoint, ready to run. Whatever is asked of it at the same time shares its weights, steps and prefixes.

    `executor` runs it in place of kernels and numpy (`model.executor` in torch). `cache_bytes`: the most that caches
    take, those kept for later included; a quarter of the free memory unless given.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
        executor: Executor | None = None,
        cache_bytes: int | None = None,
        name: str = "model",
    ) -> None:
        self.name = name
        self.config = config
        self.forward = Forward(config, weights, executor)
        self.scheduler = Scheduler(self.forward, cache_bytes or max(LEAST_CACHE, free_memory() // 4))

    @classmethod
    def load(cls, folder: str | Path, *, cache_bytes: int | None = None) -> Engine:
        """Load a checkpoint folder (Hugging Face layout, bf16/fp32 or INT4 experts). Raises UserError if it cannot."""
        config = ModelConfig.from_folder(folder)
        limit_blas(config.count().active)
        weights = Weights.load(folder, config)
        return cls(config, weights, cache_bytes=cache_bytes, name=Path(folder).resolve().name)

    @property
    def window(self) -> int:
        """The most token ids a session can hold."""
        return self.config.max_position_embeddings

    def session(self, ids: Sequence[int] = ()) -> Session:
        """A session over ids; what is known of their beginning is found when they are read."""
        session = Session(self)
        session.ids = list(ids)
        return session

    def submit(self, request: Request) -> Request:
        """Ask for a reply, to be read from the request. Raises UserError when it cannot be served."""
        return self.scheduler.submit(request)

    def save(self, path: str | Path, sessions: Sequence[Session] = ()) -> int:
        """Write what was computed for these sessions, or all that is kept, to a file that appears whole or not at all.

        Returns the positions written. Raises UserError when the file cannot be written.
        """
        return snapshot.save(Path(path), self.scheduler, self._identity(), [session.ids for session in sessions])

    def restore(self, path: str | Path) -> list[Session]:
        """Take up what `save` wrote, as far as memory is allowed, and return its sessions.

        Raises UserError when the file is of another model, damaged or cut short.
        """
        return [self.session(ids) for ids in snapshot.restore(Path(path), self.scheduler, self._identity())]

    def _identity(self) -> snapshot.Identity:
        return snapshot.Identity.of(self.name, self.config, self.forward.weights)


class Session:
    """A growing sequence of ids. `ids` holds everything appended and sampled; what was computed is in the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids: list[int] = []
        self.completion: Completion | None = None  # of the last `generate` that was read to its end
        self._logits: tuple[int, np.ndarray] | None = None  # and how many ids they follow

    @property
    def logits(self) -> np.ndarray:
        """float32 [vocab_size] for the id that would follow `ids`. Raises ValueError when nothing was appended."""
        if not self.ids:
            raise ValueError("append at least one id before asking what follows")
        if self._logits is None or self._logits[0] != len(self.ids):
            done = self.engine.submit(Request(self.ids, max_tokens=0)).result()
            assert done.logits is not None
            self._logits = len(self.ids), done.logits
        return self._logits[1]

    @property
    def cached(self) -> int:
        """How many of `ids` need no further computation; the last one is read again, for its logits."""
        return self.engine.scheduler.cached(self.ids)

    def append(self, ids: Sequence[int]) -> None:
        """Read ids (prefill). Raises UserError when they do not fit the window or the vocabulary."""
        if not len(ids):
            return
        before = len(self.ids)
        self.ids += ids
        try:
            _ = self.logits
        except UserError:
            del self.ids[before:]
            raise

    def generate(
        self,
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop_ids: Collection[int] = (),
        stop_texts: StopTexts | None = None,
        constraint: Constraint | None = None,
        thinking: ThinkingLimit | None = None,
    ) -> Iterator[int]:
        """Sample and append up to `max_tokens` ids, yielding each; ends behind a stop id or text, or with the window.

        What a constraint forces is appended without asking the model, which reads it together with what follows.
        """
        self.completion = None
        if min(max_tokens, self.engine.window - len(self.ids)) < 1:
            return
        request = Request(
            self.ids,
            max_tokens=max_tokens,
            sampling=sampling,
            stop_ids=stop_ids,
            stop_texts=stop_texts,
            constraint=constraint,
            thinking=thinking,
        )
        for batch in self.engine.submit(request).batches():
            for token in batch:
                self.ids.append(token)
                yield token
        self.completion = request.completion

    def fork(self, length: int) -> Session:
        """A new session over the first `length` ids. It costs nothing until it is written to."""
        return self.engine.session(self.ids[:length])


def free_memory() -> int:
    """Bytes of memory that programs could still get."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError, AttributeError):
        return 4 << 30
