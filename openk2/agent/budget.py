"""What a run may use, and how much of it the log shows as used: steps, tokens, seconds.

A step is one reply of the model. Tokens are those that the model writes, thinking included. Seconds are those in which
the run was being worked on: the time between a stop and a resume does not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openk2.agent.context import replies
from openk2.agent.events import BudgetSpent, Event, RunResumed, RunStarted
from openk2.providers.base import Usage


@dataclass(frozen=True, slots=True)
class Budget:
    """None is without limit."""

    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def tokens_left(self, events: Sequence[Event]) -> int | None:
        return None if self.tokens is None else max(0, self.tokens - usage(events).completion)

    def seconds_left(self, events: Sequence[Event]) -> float | None:
        """Counted until now, so it is only meaningful while the run is being worked on."""
        return None if self.seconds is None else max(0.0, self.seconds - seconds(events, time.time()))

    def spent(self, events: Sequence[Event]) -> BudgetSpent | None:
        """The axis that leaves no room for another reply."""
        used = {
            "steps": (self.steps, len(replies(events))),
            "tokens": (self.tokens, usage(events).completion),
            "seconds": (self.seconds, seconds(events, time.time())),
        }
        for axis, (limit, value) in used.items():
            if limit is not None and value >= limit:
                return BudgetSpent(axis=axis, limit=limit, used=round(value, 3))
        return None


def usage(events: Sequence[Event]) -> Usage:
    """The sum over all replies."""
    return sum((reply.usage for reply in replies(events)), Usage())


def seconds(events: Sequence[Event], now: float | None = None) -> float:
    """Seconds of work that the log shows, and up to `now` where that is given."""
    total, begin, last = 0.0, None, 0.0
    for event in events:
        if isinstance(event, RunStarted | RunResumed):
            if begin is not None:
                total += last - begin
            begin = event.ts
        last = event.ts
    if begin is None:
        return 0.0
    return max(0.0, total + (now or last) - begin)
