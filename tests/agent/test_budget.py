"""Ledgers: nothing is granted twice, a child spends of its parents, enough is kept for a last answer."""

from __future__ import annotations

import random

import pytest

from openk2.agent.budget import REPLY_TOKENS, Budget, Grant, Ledger, Spent
from openk2.errors import UserError
from openk2.providers.base import Price, Usage

PRICE = Price(input=1.0, cached=0.1, output=4.0)  # dollars a million


def axis_of(ledger: Ledger, prompt: int = 0, **more) -> str:
    with pytest.raises(Spent) as spent:
        ledger.reserve(prompt=prompt, price=PRICE, **more)
    return spent.value.axis


def test_without_limits_everything_is_granted() -> None:
    assert Ledger(Budget()).reserve(prompt=10**6, price=None).tokens is None
    assert Ledger(Budget(steps=5)).reserve(prompt=0, price=None, wanted=7).tokens == 7


def test_many_at_once_never_overspend_any_axis() -> None:
    dice = random.Random(0)
    for _ in range(200):
        budget = Budget(steps=dice.randint(1, 60), tokens=dice.randint(20, 200_000), money=dice.uniform(0.001, 2.0))
        parent = Ledger(budget)
        children = [Ledger(Budget(steps=dice.randint(1, 30)), parent=parent) for _ in range(8)]
        open_grants: list[tuple[Ledger, Grant, int]] = []
        while True:
            try:
                child = dice.choice(children)
                prompt = dice.randint(1, 20_000)
                open_grants.append((child, child.reserve(prompt=prompt, price=PRICE), prompt))
                if dice.random() < 0.3:
                    continue
            except Spent:
                if not open_grants:
                    break
            child, grant, prompt = open_grants.pop(dice.randrange(len(open_grants)))
            written = dice.randint(0, grant.tokens or 0)
            usage = Usage(prompt=prompt, completion=written)
            child.settle(grant, Usage(prompt=prompt, completion=written, money=PRICE.cost(usage)))
        assert parent.steps <= budget.steps and parent.tokens <= budget.tokens  # type: ignore[operator]
        assert parent.money <= budget.money + 1e-9  # type: ignore[operator]
        assert sum(child.steps for child in children) == parent.steps


def test_a_last_answer_is_kept_back() -> None:
    ledger = Ledger(Budget(steps=2), saves=True)
    ledger.settle(ledger.reserve(prompt=0, price=None), Usage(completion=5))
    assert axis_of(ledger) == "steps"
    ledger.reserve(prompt=0, price=None, last=True)
    tokens = Ledger(Budget(tokens=800), saves=True)
    assert tokens.reserve(prompt=0, price=None).tokens == 700
    money = Ledger(Budget(money=0.001), saves=True)  # 250 tokens would cost all of it
    granted = money.reserve(prompt=100, price=PRICE).tokens
    assert granted is not None and 150 < granted < 190


def test_a_reply_that_never_came_costs_nothing() -> None:
    ledger = Ledger(Budget(steps=1, tokens=100))
    ledger.settle(ledger.reserve(prompt=0, price=None), None)
    assert ledger.reserve(prompt=0, price=None).tokens == 100


def test_one_reply_does_not_reserve_a_large_budget_whole() -> None:
    parent = Ledger(Budget(tokens=10 * REPLY_TOKENS))
    grants = [Ledger(Budget(), parent=parent).reserve(prompt=0, price=None).tokens for _ in range(8)]
    assert grants == [REPLY_TOKENS] * 8


def test_time_is_shared_and_counted_on() -> None:
    now = [0.0]
    parent = Ledger(Budget(seconds=100), clock=lambda: now[0])
    child = Ledger(Budget(seconds=500), parent=parent, saves=True, clock=lambda: now[0])
    assert child.seconds_left() == 100
    now[0] = 101.0
    assert child.seconds_left() == 0 and axis_of(child) == "seconds"


def test_money_needs_a_price() -> None:
    with pytest.raises(UserError, match="--price"):
        Ledger(Budget(money=1.0)).reserve(prompt=0, price=None)
    free = Ledger(Budget(money=0.0)).reserve(prompt=5, price=Price(0.0, 0.0, 0.0))
    assert free.tokens == REPLY_TOKENS
