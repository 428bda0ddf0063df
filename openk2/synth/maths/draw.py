"""New numbers for a lifted problem, within sense: what was whole, positive, small or round stays so, order included."""

from __future__ import annotations

import itertools
import random
import re

from openk2.synth.maths.lift import Program, solve
from openk2.tools.base import ToolError

_TRIES = 80
_SPAN = 5.0  # a result may be so many times larger or smaller than the original one
# What follows a number bounds it: nobody works 30 hours a day.
_BOUNDS: tuple[tuple[str, int], ...] = (
    (r"hours? (?:a|per|each|every) (?:day|night)", 16),
    (r"hours? (?:daily|of sleep)", 16),
    (r"days? (?:a|per|each|every|in a) week", 7),
    (r"days? (?:a|per|each) month", 28),
    (r"(?:school|work)? ?days of the week", 7),
    (r"days? (?:long|in (?:the|a|that) month)", 0),
    (r"months? (?:a|per|each|of the) year", 12),
    (r"weeks? (?:a|per|each) (?:month)", 4),
    (r"weeks? (?:a|per) year", 52),
    (r"minutes? (?:of|in|past) (?:an|the|each) hour", 59),
    (r"(?:cups|servings|meals|times) (?:a|per|each) day", 9),
    (r"(?:times|nights) (?:a|per|each) week", 7),
    (r"years? old", 90),
    (r"(?:parents|wheels|legs|grandparents|seasons)", 0),
)
_KEEP = re.compile(r"^(?:st|nd|rd|th)\b|^ ?(?:am|pm|a\.m|p\.m|o'clock)\b", re.IGNORECASE)


def drawn(rng: random.Random, program: Program) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """New numbers and the results of all steps, or None where no draw makes sense."""
    limits = _limits(program)
    pairs = list(itertools.combinations(range(len(program.numbers)), 2))
    order = [sign(program.numbers[i] - program.numbers[j]) for i, j in pairs]
    steps = " ".join(program.steps)
    used = [re.search(rf"\bp{i}\b", steps) is not None for i in range(len(limits))]
    changed = [i for i, top in enumerate(limits) if top != 0 and used[i] and _free(program, i)]
    if not changed:
        return None
    for _ in range(_TRIES):
        numbers = list(program.numbers)
        for i in changed:
            numbers[i] = _number(rng, numbers[i], program.percents[i], limits[i])
        if any(sign(numbers[i] - numbers[j]) != o for (i, j), o in zip(pairs, order, strict=True)):
            continue
        try:
            results = solve(program.steps, numbers)
        except ToolError:
            continue
        if all(sensible(o, n) for o, n in zip(program.results, results, strict=True)) and numbers != list(
            program.numbers
        ):
            return tuple(numbers), tuple(results)
    return None


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _limits(program: Program) -> list[int | None]:
    """The largest value of each number by what follows it; 0: it must stay; None: free."""
    out: list[int | None] = [None] * len(program.numbers)
    for match in re.finditer(r"\{(\d+)\}", program.text):
        after = program.text[match.end() : match.end() + 40]
        i = int(match[1])
        if _KEEP.match(after):
            out[i] = 0
        before = program.text[: match.start()]
        if re.match(r"[ -]days?\b", after) and "month" in before[before.rfind(". ") + 1 :] + after.partition(".")[0]:
            out[i] = 0  # how long months are
        for pattern, top in _BOUNDS:
            if re.match(rf"[ -](?:\w+ )?{pattern}", after, re.IGNORECASE):
                known = out[i]
                out[i] = top if known is None else min(top, known)
    return out


def _free(program: Program, i: int) -> bool:
    """Not so one (its noun is singular), a year, and what may be a constant."""
    value = program.numbers[i]
    return i not in program.pinned and not (value == int(value) and (value <= 1 or 1900 <= value <= 2100))


def _number(rng: random.Random, value: float, percent: bool, top: int | None) -> float:
    if percent and value < 100:
        step = 10 if value % 10 == 0 else 5 if value % 5 == 0 else 1
        return float(rng.randrange(step, 100, step))
    if value != int(value):
        places = min(2, len(repr(value).partition(".")[2]))
        return round(value * rng.uniform(0.5, 2.0), places)
    step = next((s for s in (1000, 100, 50, 10, 5) if value % s == 0 and value >= 2 * s), 1)
    low, high = max(2, value * 0.4), max(value * 2.5, 9)
    if top is not None:
        high = min(high, top)
    if high < low:
        return value
    drawn_ = rng.uniform(low, high)
    return float(max(step, 2, round(drawn_ / step) * step))


def sensible(original: float, value: float) -> bool:
    """Whether a new result can stand for the old one: as positive, as whole, of about the same size."""
    if (original > 0) != (value > 0) or (original == int(original)) != (value == int(value)):
        return False
    if original != int(original) and value != round(value, 4):
        return False
    return original == 0 or (abs(original) <= 12 and abs(value) <= 60) or 1 / _SPAN <= value / original <= _SPAN
