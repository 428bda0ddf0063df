"""New numbers for a lifted problem, within sense: what was whole, positive, small or round stays so, order included;
what the world fixes (the wheels of a car, the days of a week) stays; what held between the numbers holds again.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from functools import lru_cache

from openk2.synth.maths.program import Program, solve
from openk2.tools.base import ToolError

_TRIES = 300
_WIDE, _NARROW = (0.5, 2.0), (0.75, 1.34)  # a number may be so many times smaller or larger than the original one
_SPAN = 3.0  # and a result so many times either way
# What follows a number bounds it: nobody works 30 hours a day. 0: it stays.
_BOUNDS: tuple[tuple[str, int], ...] = (
    (r"(?:more )?(?:hours?|hrs?)(?: \w+){0,4} (?:(?:a|per|each|every|one) (?:day|night)|daily)", 12),
    (r"(?:hours? of sleep|hours of the day|hour (?:shift|day))", 12),
    (r"(?:work |school )?(?:days?|nights?|times|mornings)(?: \w+){0,2} (?:a|per|each|every|in a|of the|that|this) week", 7),
    (r"(?:school|work|week)? ?days? (?:of|in) ", 0),
    (r"days?(?: \w+){0,2} (?:a|per|each|every|in a|that|this) month", 28),
    (r"days? (?:long|in (?:the|a|that) month)", 0),
    (r"(?:days? (?:a|per|in a|each) year|weeks? (?:a|per|in a|in the|each|out of the) year)", 0),
    (r"months? (?:a|per|each|of the|in a|in the|out of the) year", 12),
    (r"weeks? (?:a|per|each|in a|in the) (?:month|year|semester|season)", 0),
    (r"minutes? (?:of|in|past|into) (?:an|the|each|every) hour", 59),
    (r"(?:cups|servings|meals|times|snacks|glasses|naps|walks|doses|pills)(?: \w+){0,3} (?:(?:a|per|each|every) day|daily)", 8),
    (r"(?:\w+ )?(?:parents|wheels?|legs?|tires|eyes|ears|arms|hands|feet on|fingers|toes|grandparents|seasons|walls|"
     r"corners|sides|edges|faces|angles|quarters|innings|periods|halves|players|doors|wings|horns|suits|strings)\b", 0),
    (r"(?:star|digit|leaf|door|speed|person|sided|pointers?|piece band|k\b|carat)", 0),
    (r"(?:points?|credits?) (?:each|for|per|shots?|baskets?|goals?|field)|(?:points?)\b", 0),
    (r"(?:\w+ )?(?:dollar )?(?:bills?|notes?|banknotes?|coins?|cent coins?|(?:baby |adult )?teeth|planets)\b", 0),
    (r"(?:\w+ )?(?:friends|siblings|brothers|sisters|kids|children|people|persons|sons|daughters|cousins|nieces|nephews|"
     r"grandchildren|boys|girls|roommates|neighbors|members|types|kinds|colou?rs|flavou?rs|ways|rounds|schemes|stages|"
     r"parts|groups|phases|other|others|of (?:them|these|those|the|his|her|their|whom))\b", -6),
)  # fmt: skip
_STAYS_BEFORE = re.compile(
    r"(?:\b(?:day|week|month|year|chapter|grade|level|round|room|section|class|game|number|no\.|step|part|phase|quarter|"
    r"route|page|size|type|set|floor|stage|lap|inning|age|ages|of|aged|version|channel|highway|exit|apartment) |#)$",
    re.IGNORECASE,
)
_CALENDAR = re.compile(r"(?:january|february|march|april|may|june|july|august|september|october|november|december) $", re.I)
_KEEP = re.compile(r"^(?:st|nd|rd|th)\b|^ ?(?:am|pm|a\.m|p\.m|o'clock|noon|midnight)\b|^ (?:AD|BC)\b|^-\d", re.IGNORECASE)
# Texts whose numbers are tied to each other or to the world in ways that no step says.
_TIED = re.compile(
    r"\b(?:fold\w*|sequence|pattern|consecutive|alphabet|vowels?|letters? (?:in|of) (?:the|his|her) (?:word|name|alphabet)|dice|"
    r"die|deck|cards? deck|chess|checkers|digits?|prime|multiples?|divisible|factors?|odd|even numbers?|triangles?|"
    r"angles?|degrees?|polygon|hexagon\w*|pentagon\w*|octagon\w*|leap year|zodiac|bingo|tic-tac|roman|"
    r"probability|chance|odds|likely|palindrome|o'clock|midnight|noon|a\.m\.?|p\.m\.?|am|pm|"
    r"touchdowns?|field goals?|three-pointers?|free throws?|par\b|strikes?|decades?|century|centuries|born|"
    r"Fahrenheit|Celsius|altitude|sea level|carats?|median|mode|range of|percentile|blood|BMI|vertical|"
    r"most|majority|more than half|less than half|horizontal|light.years?|orbit|planets?|Earth|Mars|moon|Saturn|Jupiter)\b|\d\s?(?:am|pm)\b|\}\s?(?:am|pm)\b"
)
_TIGHT = re.compile(
    r"\b(?:years? old|ages?\b|aged|older|younger|tall|taller|height|weigh|weighs|weighed|weight|mph|kmh|speed\w*|"
    r"(?:miles|kilometers|km|meters|feet)(?: per |/| an? )(?:hour|minute|second|h|s)|feet (?:long|wide|deep)|inches|sleeps?|slept|temperature|grade|heart|speed)\b",
    re.IGNORECASE,
)  # fmt: skip


# Rows of GSM8K that a reader found at fault: units or names mixed up, a question with two readings, things that cannot be.
_FAULTY = frozenset({727, 1110, 1255, 1972, 2554, 2658, 2931, 3673, 3688, 6153, 6378})
_ORDINALS = re.compile(r"(?<!-)\b(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b(?! of)|\d(?:rd|th)\b", re.IGNORECASE)
_MARKS = re.compile(r"\b(?:tests?|exams?|quiz(?:zes)?|grades?|scores?|marks in|maths)\b", re.IGNORECASE)
# Where the answer hangs on which of two results is the larger one.
_COMPARES = re.compile(
    r"\b(?:who|which|whose|(?:high|low|larg|small|bigg|fast|slow|cheap|great|few|long|short|old|young|heavi|light|tall|"
    r"strong|clos|furth|farth|near|lat|earli|rich|bett|wors)er|worst|less expensive|more expensive|maximum|minimum|"
    r"winner|won|wins|beat|difference|(?!(?:inter|gu|for|t|harv|n|w|ch|requ|inv|r|cont|l|p|v)est\b)[a-z]+est)\b",
    re.IGNORECASE,
)
# Units that the world converts into each other.
_FAMILIES = tuple(
    re.compile(rf"(?:{words})(?:es|s)?\b", re.IGNORECASE)
    for words in (
        "gallon|quart|pint|cup|(?:fluid )?ounce|oz|tablespoon|teaspoon|tbsp|tsp|liter|litre|milliliter|ml|mL",
        "inch|feet|foot|ft|yard|mile|meter|metre|centimeter|cm|mm|kilometer|km|millimeter",
        "pound|lb|ounce|oz|ton|gram|kilogram|kg|milligram|mg|stone",
        "second|minute|hour|day|week|month|year",
        "dollar|cent|pennie|nickel|dime|quarter|penny",
    )
)


@dataclass(frozen=True)
class Rules:
    """What new numbers of a program must respect."""

    changing: tuple[int, ...]
    following: tuple[int, ...]  # and those that may change with them, having no part in the solution
    tops: tuple[int | None, ...]  # the largest value of each number; None: free
    factors: tuple[float, float]
    order: tuple[tuple[int, int, int], ...]  # (i, j, the sign of their difference)
    sums: tuple[tuple[int, ...], ...]  # the first number is the sum of the others
    products: tuple[tuple[int, int, int], ...]
    hundred: bool  # results to 100 stay so: shares in percent, marks of a test, ages
    ranked: bool  # results keep their order too


@lru_cache(maxsize=None)
def rules_of(program: Program) -> Rules | str:
    """The rules for new numbers, or why there can be none."""
    if program.fold is None and program.source in _FAULTY:
        return "a text at fault"
    if match := _TIED.search(program.text):
        return f"numbers that are tied to the world: {match[0]}"
    numbers = program.numbers
    for i, n in enumerate(numbers):
        if n > 6 and not program.uses(i) and not _year(n) and _made(n, i, numbers):
            return "a number without a part that others may make up"
    percents = [n for n, percent in zip(numbers, program.percents, strict=True) if percent]
    if any(sum(some) == 100 for k in (2, 3, 4) for some in itertools.combinations(percents, k)):
        return "shares that make a hundred"
    tops = _tops(program)
    changing = tuple(i for i, top in enumerate(tops) if top != 0 and program.uses(i) and _free(program, i))
    if not changing:
        return "no number that can change"
    pairs = itertools.combinations(range(len(numbers)), 2)
    whole = [i for i, n in enumerate(numbers) if n == int(n) and n > 1 and not program.percents[i]]
    parts_of = sorted(i for i in whole for _ in range(program.text.count("{" + str(i) + "}")))
    sums = [
        (c, *parts)
        for k in (2, 3)
        for parts in sorted(set(itertools.combinations(parts_of, k)))
        for c in whole
        if c not in parts and numbers[c] == sum(numbers[i] for i in parts) and numbers[c] > 3
    ]
    products = [
        (c, a, b)
        for a, b in sorted(set(itertools.combinations(parts_of, 2)))
        for c in whole
        if c not in (a, b) and numbers[c] == numbers[a] * numbers[b] and numbers[c] > 12
    ]
    following = tuple(i for i, top in enumerate(tops) if top != 0 and i not in program.pinned)
    return Rules(
        changing, following, tuple(tops), _NARROW if _TIGHT.search(program.text) else _WIDE,
        tuple((i, j, sign(numbers[i] - numbers[j])) for i, j in pairs if program.percents[i] == program.percents[j]),
        tuple(sums), tuple(products),
        re.search(r"percent|%|\b(?:ages?|old)\b", program.text) is not None or _MARKS.search(program.text) is not None,
        _COMPARES.search(program.text) is not None,
    )  # fmt: skip


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


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _year(value: float) -> bool:
    return 1900 <= value <= 2100


def _made(value: float, i: int, numbers: tuple[float, ...]) -> bool:
    """Whether a number may be twice or half of others, or so, with which it would have to change."""
    others = [n for j, n in enumerate(numbers) if j != i and n > 1]
    pairs = itertools.combinations(others, 2)
    made = [*others, *(a + b for a, b in pairs), *(a * b for a, b in pairs)]
    return any(value == times * m for m in made for times in (0.5, 2, 3, 4))


def _tops(program: Program) -> list[int | None]:
    """The largest value of each number by what stands around it; 0: it must stay; None: free."""
    out: list[int | None] = [None] * len(program.numbers)

    def bound(i: int, top: int) -> None:
        known = out[i]
        out[i] = top if known is None else min(top, known)

    for match in re.finditer(r"\{(\d+)\}", program.text):
        after = program.text[match.end() : match.end() + 60]
        before = program.text[: match.start()]
        sentence = before[max(before.rfind(". "), before.rfind("? ")) + 1 :] + re.split(r"[.?] ", after)[0]
        i = int(match[1])
        value = program.numbers[i]
        if _KEEP.match(after) or _STAYS_BEFORE.search(before) or _CALENDAR.search(before):
            bound(i, 0)
        if re.match(r"[ -]days?\b", after) and re.search(r"month|january|february|june", sentence, re.IGNORECASE):
            bound(i, 0)  # how long months are
        if re.match(r"[ -](?:days?|weeks?|months?)\b", after) and re.search(r"\b(?:week|year)s?\b", sentence):
            bound(i, 0 if value in (5, 7, 12, 30, 31, 52) else 60)
        if _converts(after, sentence):
            bound(i, 0)
        if value <= 12 and _ORDINALS.search(program.text):
            bound(i, 0)
        if value <= 100 and _MARKS.search(program.text):
            bound(i, 100)
        for pattern, top in _BOUNDS:
            if re.match(rf"[£€]?[ -](?:\w+ )?{pattern}", after, re.IGNORECASE):
                if top >= 0:
                    bound(i, top)
                elif value <= -top:  # so few may be named one by one
                    bound(i, 0)
    return out


def _converts(after: str, sentence: str) -> bool:
    """Whether the unit behind a number is told in another one: `4 quarts per gallon`, `an inch is 2.5 cm`."""
    for family in _FAMILIES:
        if unit := family.match(after.lstrip(" -")):
            others = rf"\b(?:a|an|one|1|per|each|every)[ -]({family.pattern})"
            stem = unit[0].rstrip("s").lower()
            told = {m[1].rstrip("s").lower() for m in re.finditer(others, sentence, re.IGNORECASE)} - {stem}
            time = "hour" in family.pattern  # three hours a day: a conversion only if something equals something
            if told and (not time or re.search(r"\b(?:is|are|equals?|equal to|has|have|there are)\b", sentence)):
                return True
    return False


def _free(program: Program, i: int) -> bool:
    """Not so one (its noun is singular), a year, and what may be a constant."""
    value = program.numbers[i]
    return i not in program.pinned and not (value == int(value) and (value <= 1 or _year(value)))


def _number(rng: random.Random, value: float, percent: bool, top: int | None, factors: tuple[float, float]) -> float:
    low, high = value * factors[0], value * factors[1]
    if value != int(value):
        new = round(rng.uniform(low, high), min(2, len(repr(value).partition(".")[2])))
        return value if new == int(new) else new
    if value <= 10 and not percent and factors == _WIDE:
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
    if original != int(original) and value != round(value, max(2, len(repr(original).partition(".")[2])) if original < 1 else 2):
        return False
    return original == 0 or 1 / _SPAN <= value / original <= _SPAN or (1 < original <= 6 and 1 < value <= 12)
