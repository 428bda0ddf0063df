"""From logits to the next token id: greedy, or temperature and top-p with a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from openk2.errors import UserError


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


class Sampler:
    """Choose ids. `temperature` 0 is greedy; equal seeds and logits give equal ids."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int | Sequence[int] = 0) -> None:
        if temperature < 0:
            raise UserError(f"The temperature is {temperature}; give 0 (always the likeliest token) or more.")
        if not 0 < top_p <= 1:
            raise UserError(f"top_p is {top_p}; give a number above 0 and up to 1.")
        self.temperature = temperature
        self.top_p = top_p
        self._random = np.random.default_rng(seed)

    def choose(self, logits: np.ndarray, constraint: Constraint | None = None) -> int:
        """The next id for float32 logits [V]. Raises UserError when they are not finite.

        A constraint is asked only whether the choice is allowed. If not, the choice is made again among what is: by
        rejection that is the distribution restricted to what is allowed, and where the model is right it costs nothing.
        """
        token = self._choose(logits)
        if constraint is None or constraint.allows(token):
            return token
        return self._choose(constraint.restrict(logits, token))

    def _choose(self, logits: np.ndarray) -> int:
        best = int(logits.argmax())  # numpy puts a NaN first, so one look at the winner finds any
        if not np.isfinite(logits[best]):
            raise UserError("The model computed values that are not numbers; its weights are damaged or incomplete.")
        if self.temperature == 0:
            return best
        weights = np.exp((logits.astype(np.float64) - logits[best]) / self.temperature)
        if self.top_p < 1:
            order = np.argsort(-weights, kind="stable")
            total = np.cumsum(weights[order])
            kept = order[: int(np.searchsorted(total, self.top_p * total[-1])) + 1]
        else:
            kept = np.arange(len(weights))
        total = np.cumsum(weights[kept])
        place = np.searchsorted(total, self._random.random() * total[-1], side="right")
        return int(kept[min(place, len(kept) - 1)])
