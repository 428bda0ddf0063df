"""A limit on thinking that is exact and apart from the limit on the whole reply."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThinkingLimit:
    """After `tokens` ids of thinking come the ids of `closing`, a sentence that takes leave, and then `end`.

    `begin` and `end` are `<think>` and `</think>`; `breaks` are ids that end thinking as well (a tool section, the end
    of the message); `open`: the prompt has begun to think already. The closing sentence is not counted.
    """

    tokens: int
    begin: int
    end: int
    closing: Sequence[int] = ()
    breaks: Collection[int] = ()
    open: bool = False


class ThinkingBudget:
    """Follows one reply: `forced()` is the id that has to come, `accept` sees every id."""

    def __init__(self, limit: ThinkingLimit) -> None:
        self._limit = limit
        self._thinking = limit.open
        self._left = limit.tokens
        self._said = 0  # of the closing sentence

    def forced(self) -> int | None:
        if not self._thinking or self._left > 0:
            return None
        closing = self._limit.closing
        return closing[self._said] if self._said < len(closing) else self._limit.end

    def accept(self, token: int) -> None:
        limit = self._limit
        if token == limit.begin:
            self._thinking = True
        elif token == limit.end or token in limit.breaks:
            self._thinking = False
        elif self._thinking:
            self._said += self._left <= 0
            self._left -= self._left > 0
