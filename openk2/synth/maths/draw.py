"""New numbers for a lifted problem, within sense: what was whole, positive, small or round stays so, order included,
and what held between the numbers holds again.
"""

from __future__ import annotations

import itertools
import random

from openk2.synth.maths.program import Program, solve
from openk2.synth.maths.sense import WIDE, rules_of, sign
from openk2.tools.base import ToolError

_TRIES = 300
_SPAN = 3.0  # a result may be so many times smaller or larger than the original one


def drawn(rng: random.Random, program: Program) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """New numbers and the results of all steps, or None where no draw makes sense."""
    rules = rules_of(program)
    if isinstance(rules, str):
        return None
    for tried in range(_TRIES):
        numbers = list(program.numbers)
        for i in rules.changing if 2 * tried < _TRIES else [i for i in rules.changing if rng.random() < 0.5]:
            numbers[i] = _number(rng, numbers[i], program.percents[i], rules.tops[i], rules.factors)
        for c, *parts in rules.sums:
            numbers[c] = sum(numbers[i] for i in parts) if c in rules.following else numbers[c]
        for c, a, b in rules.products:
            numbers[c] = numbers[a] * numbers[b] if c in rules.following else numbers[c]
        if numbers != list(program.numbers) and (results := results_of(program, numbers)):
            return tuple(numbers), results
    return None


def results_of(program: Program, numbers: list[float]) -> tuple[float, ...] | None:
    """The results of all steps where these numbers keep the rules and the results make sense."""
    rules = rules_of(program)
    if isinstance(rules, str):
        return None
    if any(sign(numbers[i] - numbers[j]) != way for i, j, way in rules.order):
        return None
    if any(numbers[c] != sum(numbers[i] for i in parts) for c, *parts in rules.sums):
        return None
    if any(numbers[c] != numbers[a] * numbers[b] for c, a, b in rules.products):
        return None
    if any(top is not None and numbers[i] > max(top, program.numbers[i]) for i, top in enumerate(rules.tops)):
        return None
    try:
        results = solve(program.steps, numbers)
    except ToolError:
        return None
    if rules.ranked:
        values = [*zip(program.results, results, strict=True), *zip(program.numbers, numbers, strict=True)]
        for (a, new_a), (b, new_b) in itertools.combinations(values, 2):
            if sign(a - b) != sign(new_a - new_b):
                return None
    for old, new in zip(program.results, results, strict=True):
        if not sensible(old, new) or (rules.hundred and 0 < old <= 100 < new):
            return None
    return tuple(results)


def _number(rng: random.Random, value: float, percent: bool, top: int | None, factors: tuple[float, float]) -> float:
    low, high = value * factors[0], value * factors[1]
    if value != int(value):
        new = round(rng.uniform(low, high), min(2, len(repr(value).partition(".")[2])))
        return value if new == int(new) or sign(new - 1) != sign(value - 1) else new  # 0.5 mile, but 1.5 miles
    if value <= 10 and not percent and factors == WIDE:
        low, high = max(2, value - 4), value + 4
    high = min(high, 1e9 if top is None else top, 95 if percent and value < 100 else 1e9)
    step = next((s for s in (1000, 100, 50, 10, 5) if value % s == 0 and high - low >= 3 * s), 1)
    first, last = max(2 if step == 1 else step, -(-low // step) * step), high // step * step
    if last < first:
        return value
    return float(rng.randrange(int(first), int(last) + 1, step))


def sensible(original: float, value: float) -> bool:
    """Whether a new result can stand for the old one: as positive, as whole, of about the same size."""
    if (original > 0) != (value > 0) or (original == int(original)) != (value == int(value)):
        return False
    if original != int(original) and value != round(
        value, max(2, len(repr(original).partition(".")[2])) if original < 1 else 2
    ):
        return False
    return original == 0 or 1 / _SPAN <= value / original <= _SPAN or (1 < original <= 6 and 1 < value <= 12)
