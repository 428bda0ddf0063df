"""Engine and sessions: token ids in, token ids out. A session only ever appends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from openk2.engine.cache import LatentCache
from openk2.engine.forward import Forward
from openk2.engine.sampler import Constraint, Sampler
from openk2.engine.threads import limit_blas
from openk2.engine.weights import Weights
from openk2.errors import UserError
from openk2.model.config import ModelConfig


class Engine:
    """One checkpoint, ready to run; sessions share its weights."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.forward = Forward(config, weights)

    @classmethod
    def load(cls, folder: str | Path) -> Engine:
        """Load a checkpoint folder (Hugging Face layout, bf16/fp32 or INT4 experts). Raises UserError if it cannot."""
        config = ModelConfig.from_folder(folder)
        limit_blas(config.count().active)
        return cls(config, Weights.load(folder, config))

    @property
    def window(self) -> int:
        """The most token ids a session can hold."""
        return self.config.max_position_embeddings

    def session(self) -> Session:
        return Session(self)


class Session:
    """A growing sequence of ids with its cache. `ids` holds everything appended and sampled."""

    def __init__(self, engine: Engine) -> None:
        config = engine.config
        self.engine = engine
        self.ids: list[int] = []
        self._cache = LatentCache(config.num_hidden_layers, config.kv_lora_rank + config.qk_rope_head_dim)
        self._logits: np.ndarray | None = None

    @property
    def logits(self) -> np.ndarray:
        """float32 [vocab_size] for the id that would follow `ids`. Raises ValueError when nothing was appended."""
        if not self.ids:
            raise ValueError("append at least one id before asking what follows")
        self._advance()
        assert self._logits is not None
        return self._logits

    @property
    def cached(self) -> int:
        """How many of `ids` need no further computation; the last sampled one is read only when it is needed."""
        return self._cache.length

    def append(self, ids: Sequence[int]) -> None:
        """Read ids (prefill). Raises UserError when they do not fit the window or the vocabulary."""
        length, window = len(self.ids) + len(ids), self.engine.window
        if length > window:
            raise UserError(f"The text is {length} tokens long, the model reads at most {window}; shorten it.")
        if ids and not 0 <= min(ids) <= max(ids) < self.engine.config.vocab_size:
            raise UserError("A token id is outside the model's vocabulary; tokenizer and model do not belong together.")
        self.ids += ids
        self._advance()

    def generate(
        self,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        stop_ids: Collection[int] = (),
        constraint: Constraint | None = None,
    ) -> Iterator[int]:
        """Sample and append up to `max_tokens` ids, yielding each; ends behind a stop id or at the window's end.

        What a constraint forces is appended without asking the model, which reads it together with what follows.
        """
        sampler = Sampler(temperature, top_p, seed)
        for _ in range(min(max_tokens, self.engine.window - len(self.ids))):
            token = constraint.forced() if constraint else None
            if token is None:
                token = sampler.choose(self.logits, constraint)
            self.ids.append(token)
            if constraint:
                constraint.accept(token)
            yield token
            if token in stop_ids:
                return

    def fork(self, length: int) -> Session:
        """A new session over the first `length` ids that keeps what was computed for them."""
        twin = Session(self.engine)
        twin.ids = self.ids[:length]
        # The last id is read again, because its logits are not kept.
        twin._cache = self._cache.fork(max(min(length - 1, self._cache.length), 0))
        return twin

    def _advance(self) -> None:
        """Compute the ids that were appended since the last time."""
        new = self.ids[self._cache.length :]
        if new:
            hidden = self.engine.forward.run(new, self._cache)
            self._logits = self.engine.forward.logits(hidden[-1])
