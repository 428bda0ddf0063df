"""From logits to the next token id: greedy, or drawn from what the settings leave, by a generator with a seed.

The order is the usual one: bias and penalties, temperature, then top-k, top-p of what is left, and min-p. Each reply
has its own generator, so that its ids depend on its seed and logits alone, whoever else is being served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from openk2.errors import UserError

_HEAD = 1024  # the likeliest ids that are sorted first: they nearly always hold top-p's mass


class Constraint(Protocol):
    """What may come next in a reply (`chat.grammar.Guide` is one). It sees every id, in order, through `accept`."""

    def forced(self) -> int | None:
        """The id that must come next, None where there is a choice."""
        ...

    def allows(self, token: int) -> bool:
        """Whether an id may come next."""
        ...

    def restrict(self, logits: np.ndarray, refused: int) -> np.ndarray:
        """A copy of float32 logits [V] with -inf at what may not come next; `refused` is what was chosen before."""
        ...

    def accept(self, token: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How ids are chosen. Raises UserError for a value that makes no sense.

    `temperature` 0 is greedy. `top_k` 0: all. `min_p`: at least this share of the likeliest id's probability.
    `repetition_penalty` divides positive and multiplies negative logits of ids in prompt and reply (arXiv 1909.05858);
    `presence_penalty` and `frequency_penalty` are subtracted from those in the reply, once and once for each time.
    `logit_bias` is added. `logprobs`: how many of the likeliest ids are told with each id; None tells nothing.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | Sequence[int] = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"The temperature is {self.temperature}; give 0 (always the likeliest token) or more.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; give a number above 0 and up to 1.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; give 0 (all tokens) or more.")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; give a number from 0 to 1.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"The repetition penalty is {self.repetition_penalty}; give 1 (none) or another above 0.")
        for name in ("presence_penalty", "frequency_penalty", *self.logit_bias):
            value = getattr(self, name) if isinstance(name, str) else self.logit_bias[name]
            if not np.isfinite(value):
                raise UserError(f"{name} is {value}; give a number.")
        if self.logprobs is not None and self.logprobs < 0:
            raise UserError(f"logprobs is {self.logprobs}; give how many of the likeliest tokens are wanted.")


class Logprob(NamedTuple):
    """Natural logarithm of the probability the model itself gave an id, and the likeliest ids with theirs.

    An id that a grammar or a thinking limit forced was not asked for: its `logprob` is 0.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the ids of one reply; `prompt` is what repetition_penalty looks at beside the reply."""

    def __init__(self, sampling: Sampling | None = None, prompt: Sequence[int] = ()) -> None:
        self.sampling = sampling or Sampling()
        self._random = np.random.default_rng(self.sampling.seed)
        s = self.sampling
        self._penalties = s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0
        self._changes = self._penalties or bool(s.logit_bias)
        self._prompt = list(prompt) if s.repetition_penalty != 1 else []
        self._counts: np.ndarray | None = None  # [V] of the reply
        self._seen: np.ndarray | None = None  # bool [V], prompt and reply
        self._before: list[int] = []  # accepted before the vocabulary's size was known

    def accept(self, token: int) -> None:
        """Count an id of the reply, chosen or forced."""
        if not self._penalties:
            return
        if self._counts is None or self._seen is None:
            self._before.append(token)
        else:
            self._counts[token] += 1
            self._seen[token] = True

    def choose(self, logits: np.ndarray, constraint: Constraint | None = None) -> int:
        """The next id for float32 logits [V]. Raises UserError when they are not finite.

        A constraint is asked only whether the choice is allowed. If not, the choice is made again among what is: by
        rejection that is the distribution restricted to what is allowed, and where the model is right it costs nothing.
        """
        check_finite(logits)
        if self._changes:
            logits = self._changed(logits)
        token = self._choose(logits)
        if constraint is None or constraint.allows(token):
            return token
        return self._choose(constraint.restrict(logits, token))

    def logprob(self, logits: np.ndarray, token: int) -> Logprob:
        """What the unchanged logits [V] say of an id and of the likeliest ones."""
        values = logits.astype(np.float64)
        values -= values.max()
        values -= np.log(np.exp(values).sum())
        top = _highest(values, self.sampling.logprobs or 0)
        return Logprob(token, float(values[token]), tuple((int(i), float(values[i])) for i in top))

    def _changed(self, logits: np.ndarray) -> np.ndarray:
        """A copy with bias and penalties applied."""
        s = self.sampling
        logits = logits.astype(np.float32)
        for token, bias in s.logit_bias.items():
            if not 0 <= token < len(logits):
                raise UserError(f"logit_bias names the token {token}; the model has {len(logits)}.")
            logits[token] += bias
        if not self._penalties:
            return logits
        if self._counts is None or self._seen is None:
            self._counts, self._seen = np.zeros(len(logits), np.int32), np.zeros(len(logits), np.bool_)
            self._seen[self._prompt] = True
            for token in self._before:
                self.accept(token)
        if s.repetition_penalty != 1:
            seen = logits[self._seen]
            logits[self._seen] = np.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
        logits -= (s.frequency_penalty * self._counts + s.presence_penalty * (self._counts > 0)).astype(np.float32)
        return logits

    def _choose(self, logits: np.ndarray) -> int:
        best = int(logits.argmax())
        s = self.sampling
        if s.temperature == 0:
            return best
        weights = np.exp((logits.astype(np.float64) - logits[best]) / s.temperature)
        kept = self._kept(weights)
        total = np.cumsum(weights if kept is None else weights[kept])
        place = int(np.searchsorted(total, self._random.random() * total[-1], side="right"))
        place = min(place, len(total) - 1)
        return place if kept is None else int(kept[place])

    def _kept(self, weights: np.ndarray) -> np.ndarray | None:
        """The ids that top-k, top-p and min-p leave, the likeliest first and equal ones by id; None: all, by id."""
        s = self.sampling
        kept = None
        if 0 < s.top_k < len(weights):
            kept = _highest(weights, s.top_k)
        if s.top_p < 1:
            mass = s.top_p * (weights.sum() if kept is None else weights[kept].sum())
            if kept is None:
                kept = _highest(weights, _HEAD)
                if weights[kept].sum() < mass:
                    kept = np.argsort(-weights, kind="stable")
            kept = kept[: int(np.searchsorted(np.cumsum(weights[kept]), mass)) + 1]
        if s.min_p > 0:  # the likeliest id's weight is 1
            kept = np.flatnonzero(weights >= s.min_p) if kept is None else kept[weights[kept] >= s.min_p]
        return kept


def check_finite(logits: np.ndarray) -> None:
    """Raise UserError when the winner of float32 logits [V] is not a number: numpy puts a NaN first."""
    if not np.isfinite(logits[int(logits.argmax())]):
        raise UserError("The model computed values that are not numbers; its weights are damaged or incomplete.")


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """The indices of the `count` highest values, highest first, equal ones by index."""
    if count <= 0:
        return np.empty(0, np.int64)
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    border = np.partition(values, -count)[-count]
    found = np.flatnonzero(values >= border)
    return found[np.argsort(-values[found], kind="stable")][:count]
