"""What new numbers of a problem must respect: what the world fixes (the wheels of a car, the days of a week), what
bounds a number (hours of a day), what holds between the numbers, and which problems can have no other numbers at all.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache

from openk2.synth.maths.constants import in_words
from openk2.synth.maths.program import Program

WIDE, NARROW = (0.5, 2.0), (0.75, 1.34)  # a number may be so many times smaller or larger than the original one
# What follows a number bounds it: nobody works 30 hours a day. 0: it stays.
_BOUNDS: tuple[tuple[str, int], ...] = (
    (r"(?:more )?(?:hours?|hrs?)(?: \w+){0,4} (?:(?:a|per|each|every|one) (?:day|night)|daily)", 12),
    (r"(?:hours? of sleep|hours of the day|hour (?:shift|day))", 12),
    (r"(?:work |school )?(?:days?|nights?|times|mornings)(?: \w+){0,2} (?:a|per|each|every|in a|of the|that|this) week",
     7),
    (r"(?:school|work|week)? ?days? (?:of|in) ", 0),
    (r"days?(?: \w+){0,2} (?:a|per|each|every|in a|that|this) month", 28),
    (r"days? (?:long|in (?:the|a|that) month)", 0),
    (r"(?:days? (?:a|per|in a|each) year|weeks? (?:a|per|in a|in the|each|out of the) year)", 0),
    (r"months? (?:a|per|each|of the|in a|in the|out of the) year", 12),
    (r"weeks? (?:a|per|each|in a|in the) (?:month|year|semester|season)", 0),
    (r"minutes? (?:of|in|past|into) (?:an|the|each|every) hour", 59),
    (r"(?:cups|servings|meals|times|snacks|glasses|naps|walks|doses|pills)(?: \w+){0,3} "
     r"(?:(?:a|per|each|every) day|daily)", 8),
    (r"(?:\w+ )?(?:parents|wheels?|legs?|tires|eyes|ears|arms|hands|feet on|fingers|toes|grandparents|seasons|walls|"
     r"corners|sides|edges|faces|angles|quarters|innings|periods|halves|players|doors|wings|horns|suits|strings)\b", 0),
    (r"(?:star|digit|leaf|door|speed|person|sided|pointers?|piece band|k\b|carat)", 0),
    (r"(?:points?|credits?) (?:each|for|per|shots?|baskets?|goals?|field)|(?:points?)\b", 0),
    (r"(?:\w+ )?(?:dollar )?(?:bills?|notes?|banknotes?|coins?|cent coins?|(?:baby |adult )?teeth|planets)\b", 0),
    (r"(?:\w+ )?(?:friends|siblings|brothers|sisters|kids|children|people|persons|sons|daughters|cousins|nieces|"
     r"nephews|grandchildren|boys|girls|roommates|neighbors|members|employees|workers|runners|types|kinds|colou?rs|flavou?rs|ways|rounds|schemes|"
     r"stages|parts|groups|phases|other|others|of (?:them|these|those|the|his|her|their|whom))\b", -6),
)  # fmt: skip
_STAYS_BEFORE = re.compile(
    r"(?:\b(?:day|week|month|year|chapter|grade|level|round|room|section|class|game|number|no\.|step|part|phase|quarter|"
    r"route|page|size|type|set|floor|stage|lap|inning|age|ages|of|aged|version|channel|highway|exit|apartment) |#)$",
    re.IGNORECASE,
)
_CALENDAR = re.compile(
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december) $", re.I
)
_KEEP = re.compile(
    r"^(?:st|nd|rd|th)\b|^ ?(?:am|pm|a\.m|p\.m|o'clock|noon|midnight)\b|^ (?:AD|BC)\b|^-\d", re.IGNORECASE
)
# Texts whose numbers are tied to each other or to the world in ways that no step says.
_TIED = re.compile(
    r"\b(?:fold\w*|sequence|pattern|consecutive|alphabet|vowels?|letters? (?:in|of) (?:the|his|her) (?:word|name)|"
    r"dice|die|deck|chess|checkers|digits?|prime|multiples?|divisible|factors?|odd|even numbers?|triangles?|angles?|"
    r"degrees?|polygon|hexagon\w*|pentagon\w*|octagon\w*|leap year|zodiac|bingo|tic-tac|roman|probability|chance|"
    r"odds|likely|palindrome|o'clock|midnight|noon|a\.m\.?|p\.m\.?|am|pm|touchdowns?|field goals?|three-pointers?|"
    r"free throws?|par|strikes?|decades?|century|centuries|born|Fahrenheit|Celsius|altitude|sea level|carats?|"
    r"median|mode|range of|percentile|density|blood|BMI|vertical|horizontal|most|majority|more than half|"
    r"less than half|light.years?|orbit|planets?|Earth|Mars|moon|Saturn|Jupiter)\b|[\d}]\s?(?:am|pm)\b"
)
# Texts about sizes that everybody knows: new numbers stay near.
_TIGHT = re.compile(
    r"\b(?:years? old|ages?|aged|older|younger|tall|taller|height|weighs?|weighed|weight|mph|kmh|speed\w*|inches|"
    r"(?:miles|kilometers|km|meters|feet)(?: per |/| an? )(?:hour|minute|second|h|s)|feet (?:long|wide|deep)|"
    r"sleeps?|slept|temperature|grade|heart)\b",
    re.IGNORECASE,
)

# Rows of GSM8K that a reader found at fault: units or names mixed up, two readings, things that cannot be.
_FAULTY = frozenset(
    {246, 566, 658, 727, 1110, 1213, 1255, 1353, 1972, 2342, 2554, 2658, 2931, 3304, 3489, 3673, 3688, 3715,
     5113, 5483, 5582, 5642, 5857, 6153, 6378, 7145}
)  # fmt: skip
_ORDINALS = re.compile(
    r"(?<!-)\b(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b(?! of)|\d(?:rd|th)\b", re.IGNORECASE
)
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


@cache
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
    words = in_words(program.text)[:8]
    sums_of_words = {sum(some) for k in (2, 3, 4, 5) for some in itertools.combinations(words, k)}
    tops = [0 if n in sums_of_words else top for n, top in zip(numbers, tops, strict=True)]
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
        changing, following, tuple(tops), NARROW if _TIGHT.search(program.text) else WIDE,
        tuple((i, j, sign(numbers[i] - numbers[j])) for i, j in pairs if program.percents[i] == program.percents[j]),
        tuple(sums), tuple(products),
        re.search(r"percent|%|\b(?:ages?|old)\b", program.text) is not None or _MARKS.search(program.text) is not None,
        _COMPARES.search(program.text) is not None,
    )  # fmt: skip


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _year(value: float) -> bool:
    return 1900 <= value <= 2100


def _made(value: float, i: int, numbers: tuple[float, ...]) -> bool:
    """Whether a number may be twice or half of others, or so, with which it would have to change."""
    others = [n for j, n in enumerate(numbers) if j != i and n > 1]
    pairs = list(itertools.combinations(others, 2))
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
