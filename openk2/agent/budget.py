"""What a run may use: steps, tokens, thinking tokens a step, seconds, money.

A step is one reply of the model. Tokens are those that the model writes, thinking included. Seconds are those in which
the run was being worked on. Money is US dollars, by the price of the provider.

A `Ledger` reserves before each reply what it may cost at most, so that many paths together stay within one budget, and
keeps back enough for a last answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from openk2.agent.events import BudgetSpent
from openk2.agent.state import Spending
from openk2.errors import UserError
from openk2.providers.base import Price, Usage

REPLY_TOKENS = 32_768  # what a reply may take of a budget of tokens or money where nothing else says so
LAST_TOKENS = 2048  # kept back for the last answer: these, or an eighth of a small budget
LAST_SECONDS = 30.0
LEAST_TOKENS = 16  # a reply of fewer says nothing


@dataclass(frozen=True, slots=True)
class Budget:
    """None is without limit. `thinking` is for each step, the others for the whole run (in a chat: for each answer)."""

    steps: int | None = None
    tokens: int | None = None
    thinking: int | None = None
    seconds: float | None = None
    money: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Budget:
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


class Spent(Exception):
    """A budget leaves no room for what was to be done next."""

    def __init__(self, axis: str, limit: float, used: float) -> None:
        super().__init__(f"{limit:g} {axis}")
        self.axis, self.limit, self.used = axis, limit, used

    def event(self) -> BudgetSpent:
        return BudgetSpent(axis=self.axis, limit=self.limit, used=round(self.used, 6))


@dataclass(slots=True)
class Grant:
    """What one reply may use; `tokens` None is without limit. Give it back with `Ledger.settle`."""

    tokens: int | None
    held_tokens: int = 0
    held_money: float = 0.0


class Ledger:
    """What is used and what is reserved, of one run and, through `parent`, of all that it is part of.

    `saves`: how many runs have yet to end with an answer; a last step, some tokens and money are kept back for each,
    until it is reserved as the `last`.
    """

    def __init__(
        self,
        budget: Budget,
        spent: Spending | None = None,
        *,
        parent: Ledger | None = None,
        saves: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        spent = spent or Spending()
        self.budget, self.parent, self.saves = budget, parent, saves
        self.steps, self.tokens, self.money = spent.steps, spent.usage.completion, spent.usage.money or 0.0
        self.sharers = 1  # runs that reserve at the same time: of tokens and money none takes more than its part
        self._held_steps, self._held_tokens, self._held_money = 0, 0, 0.0
        self._clock = clock
        self._began = clock() - spent.seconds

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    def seconds_left(self, *, last: bool = False) -> float | None:
        """Until the run has to end, or has to turn to its last answer; over all that it is part of."""
        left = [ledger._seconds_left(last) for ledger in self._chain()]
        known = [value for value in left if value is not None]
        return min(known) if known else None

    def check_time(self, *, last: bool = False) -> None:
        """Raises Spent when the time is over."""
        for ledger in self._chain():
            left = ledger._seconds_left(last)
            if left is not None and left <= 0:
                raise Spent("seconds", ledger.budget.seconds or 0.0, ledger.seconds)

    def check(self, prompt: int, price: Price | None) -> None:
        """Raises Spent where there is no room for another reply."""
        self.settle(self.reserve(prompt=prompt, price=price), None)

    def reserve(self, *, prompt: int, price: Price | None, wanted: int | None = None, last: bool = False) -> Grant:
        """Room for one reply to `prompt` tokens. Raises Spent, naming the axis; UserError where money has no price."""
        self.check_time(last=last)
        caps = [cap for ledger in self._chain() for cap in ledger._caps(prompt, price, last)]
        if not caps:
            for ledger in self._chain():
                ledger._hold(last)
            return Grant(wanted)
        tokens = min(*caps, wanted or REPLY_TOKENS)
        money = price.cost(Usage(prompt=prompt, completion=tokens)) if price else 0.0
        for ledger in self._chain():
            ledger._hold(last)
            ledger._held_tokens += tokens
            ledger._held_money += money
        return Grant(tokens, tokens, money)

    def settle(self, grant: Grant, usage: Usage | None) -> None:
        """The reply has come, or will not come (None)."""
        for ledger in self._chain():
            ledger._held_steps -= 1
            ledger._held_tokens -= grant.held_tokens
            ledger._held_money -= grant.held_money
            if usage is not None:
                ledger.steps += 1
                ledger.tokens += usage.completion
                ledger.money += usage.money or 0.0

    def _chain(self) -> list[Ledger]:
        return [self, *(self.parent._chain() if self.parent else ())]

    def _seconds_left(self, last: bool) -> float | None:
        limit = self.budget.seconds
        if limit is None:
            return None
        kept = min(LAST_SECONDS, limit / 8) if self.saves and not last else 0.0
        return max(0.0, limit - kept - self.seconds)

    def _hold(self, last: bool) -> None:
        self._held_steps += 1
        self.saves = max(0, self.saves - last)

    def _keeps(self, last: bool) -> int:
        """Last answers that are kept back beside this reply; of few steps, not all."""
        saves = self.saves if self.budget.steps is None else min(self.saves, max(1, self.budget.steps // 4))
        return max(0, saves - last)

    def _caps(self, prompt: int, price: Price | None, last: bool) -> list[int]:
        """The most tokens that each axis still allows for a reply. Raises Spent where one allows none."""
        budget, keeps = self.budget, self._keeps(last)
        if budget.steps is not None and self.steps + self._held_steps + keeps >= budget.steps:
            raise Spent("steps", budget.steps, self.steps)
        caps: list[int] = []
        if budget.tokens is not None:
            kept = keeps * min(LAST_TOKENS, budget.tokens // (8 * self.saves)) if keeps else 0
            left = budget.tokens - kept - self.tokens - self._held_tokens
            if left < (LEAST_TOKENS if keeps else 1):
                raise Spent("tokens", budget.tokens, self.tokens)
            part = (budget.tokens - kept - self.tokens) // self.sharers
            caps.append(min(left, max(part, LEAST_TOKENS)))
        if budget.money is not None:
            if price is None:
                raise UserError("The price of this model is not known, so its cost has no limit; say it with --price.")
            least = price.cost(Usage(prompt=prompt, completion=LEAST_TOKENS))
            a_last = price.cost(Usage(prompt=prompt, completion=LAST_TOKENS))
            kept = keeps * min(a_last, budget.money / (4 * self.saves)) if keeps else 0.0
            left_money = budget.money - kept - self.money - self._held_money
            if left_money < least:
                raise Spent("money", budget.money, self.money)
            a_token = price.cost(Usage(completion=1_000_000)) / 1e6
            reading = price.cost(Usage(prompt=prompt))
            part_money = max(least, (budget.money - kept - self.money) / self.sharers)
            caps.append(int((min(left_money, part_money) - reading) / a_token) if a_token else REPLY_TOKENS)
        return caps
