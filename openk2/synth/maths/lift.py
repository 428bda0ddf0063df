"""Word problems with annotated solutions (GSM8K, Cobbe et al. 2021, training split) lifted to programs.

Every operand of a step `<<48/2=24>>` must be a number of the question, the result of an earlier step, or a constant
that the words of the problem explain (a dozen, the days of a week, "half"). Then the steps are a program in the
question's numbers: new numbers give a new problem with a known answer. A program is kept only if it gives back the
annotated results.

Two equal numbers of a question share a slot: whichever of them a step means, it stays right when both change together.
A number of the question that could as well be a constant stays as it is; an operand that could be an earlier result or
a number of the question alike makes the problem unliftable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from openk2.synth.rows import read_rows
from openk2.tools.base import ToolError
from openk2.tools.calculator import evaluate

# A number as a person writes it; not part of a word, a time, an ordinal, or a fraction's lower half.
NUMBER = re.compile(r"(?<![\w.,/:])(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?!\d*(?:st|nd|rd|th)\b)(?![\d]*[\w/:])(?!,\d)")
_STEP = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
_WRITTEN = re.compile(
    r"([(]?[$]?[\d.][^=\u2039\u203a;:]*?)=\s*[$]?\s*(\u2039[^\u203a]*\u203a)?\s*[$]?\s*(-?[\d,]*\.?\d+)"
)
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\.\d+")

# Constants, and the words (or kinds of words) of which at least one must stand in the question or the solution's line.
CONSTANTS: dict[float, str] = {
    0.5: r"half|1/2|twice|double|50%",
    1.5: r"half|1/2|50%|time and a half",
    2: (
        r"half|1/2|twice|double|two|pair|both|couple|second|each|other|average|even|again|round|sides|"
        r"another|weekend|bi|2"
    ),
    3: r"three|triple|thrice|third|1/3|2/3|trio|average|each|both|other",
    4: r"four|quarter|1/4|3/4|quadruple|square|weeks|average|each|month|season|wheels|legs|car",
    5: r"five|fifth|1/5|weekday|work|school|average|nickel|hand|finger",
    6: r"six|sixth|half a dozen|average|sides",
    7: r"seven|week|daily|every day|a day|each day|per day|days",
    8: r"eight|octopus|spider|legs|average|ounce",
    9: r"nine|average|ninth",
    10: r"ten|tenth|dime|decade|average|1/10|percent|%|toe|finger",
    11: r"eleven",
    12: r"twelve|dozen|year|month|inch|foot|feet|annual|yearly",
    13: r"thirteen",
    14: r"two weeks|fortnight|2 weeks|week",
    15: r"quarter|minutes|hour|fifteen",
    16: r"ounce|pound",
    18: r"eighteen|age",
    20: r"twenty|score",
    24: r"hour|day|daily",
    25: r"quarter|%",
    28: r"february|week",
    30: r"month|june|april|september|november|half|minutes|thirty|days",
    31: r"month|january|march|may|july|august|october|december",
    36: r"yard|inch",
    50: r"half|%|fifty|cent",
    52: r"week|year|cards|deck",
    60: r"minute|hour|second",
    75: r"3/4|%|quarter",
    90: r"angle|degree",
    100: r"%|percent|cent|hundred|dollar|\$|centimet|century|meter",
    180: r"triangle|degree",
    365: r"year|annual|daily",
    360: r"circle|degree",
    1000: r"thousand|kilo|gram|liter|meter|ton",
    3600: r"hour|second",
    0.25: r"quarter|1/4|25%",
    0.75: r"3/4|quarter|75%",
    0.1: r"dime|tenth|1/10|10%|cent",
    0.05: r"nickel|5%|cent",
    0.01: r"cent|penn|%|percent",
    1: (
        r"one|1|whole|full|itself|him|her|own|total|a |an |another|more|less|first|last|%|per|rest|"
        r"remaining|left|fraction|third|half|quarter"
    ),
}


_CONVERSIONS = (7, 12, 24, 52, 60, 100, 365, 1000)  # days of a week, months of a year ...: constants before all else
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_ORDINALS = {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
_UNITS = {
    "dozen": 12,
    "thousand": 1000,
    "twice": 2,
    "double": 2,
    "triple": 3,
    "thrice": 3,
    "quarter": 4,
    "couple": 2,
    "pair": 2,
    "half": 2,
    "both": 2,
}


def explained(question: str) -> set[float]:
    """Values that the question has other than as numbers of its own: in words, fractions, times, parts of words."""
    lower = question.lower()
    plain = NUMBER.sub(" ", lower)
    out = {float(d) for d in re.findall(r"\d+(?:\.\d+)?", plain)}
    tables = ({w: i for i, w in enumerate(_WORDS)}, _TENS, _ORDINALS, _UNITS)
    out |= {float(v) for table in tables for w, v in table.items() if re.search(rf"\b{w}s?\b", lower)}
    fractions = re.findall(r"\b(\d+)/(\d+)\b", lower)
    return (
        out | {int(a) / int(b) for a, b in fractions if int(b)} | {1 - int(a) / int(b) for a, b in fractions if int(b)}
    )


@dataclass(frozen=True)
class Program:
    """`text` has {0}, {1}, ... for the numbers; `steps` are expressions over p0, p1, ... (numbers of the question) and
    r0, r1, ... (results of earlier steps); `answer` is the step whose result is asked for.
    """

    text: str
    numbers: tuple[float, ...]
    percents: tuple[bool, ...]  # whether a number is a percentage
    steps: tuple[str, ...]
    results: tuple[float, ...]
    answer: int
    source: int  # row of the file
    pinned: frozenset[int] = frozenset()  # numbers that a step may mean or a constant of the same value: they must stay

    def skeleton(self) -> str:
        """The program without its constants' places in a text: equal for problems that are solved alike."""
        return ";".join(self.steps)


def lift(question: str, solution: str, source: int = 0) -> Program | str:
    """The program of a problem, or why there is none."""
    body, _, final = solution.partition("####")
    annotations = list(_equations(body))
    if not annotations:
        return "no step that is written out"
    slots = _slots(question)
    numbers = list(slots)
    words = f"{question} {re.sub(r'<<[^>]*>>', '', body)}".lower()
    fixed = explained(question)
    pinned: set[int] = set()
    steps: list[str] = []
    results: list[float] = []
    used: set[int] = set()
    for expression, outcome in annotations:
        value = _value(outcome)
        if value is None or re.search(r"[^\d.+\-*/() %x]", expression):
            return "a step that is no arithmetic"
        step = _step(expression, numbers, slots, results, used, words, fixed, pinned)
        if not step.startswith("="):
            return step
        steps.append(step[1:])
        results.append(value)
    wanted = _value(final)
    at = next((i for i in range(len(results) - 1, -1, -1) if results[i] == wanted), None)
    if at is None:
        return "the answer is no step's result"
    text, order = _template(question, numbers)
    program = Program(
        text, tuple(numbers), tuple(slots[n] for n in numbers), tuple(steps), tuple(results), at, source,
        frozenset(pinned),
    )  # fmt: skip
    free = [i for i in range(len(numbers)) if i not in pinned and re.search(rf"\bp{i}\b", " ".join(steps))]
    if not free or not order:
        return "no number of the question can change"
    try:
        values = solve(program.steps, program.numbers)
    except ToolError:
        return "a step that cannot be computed"
    if any(abs(a - b) > 0.011 * max(1.0, abs(b)) ** 0.5 for a, b in zip(values, results, strict=True)):
        return "the steps give other results"
    return program


def _equations(body: str) -> Iterator[tuple[str, str]]:
    """(expression, result) of every step: as annotated, or where the annotation has no operator or is missing, as the
    line writes it with its units (`14 pieces * 60 houses = 840 pieces`), if that is true.
    """
    for line in body.translate({0xF7: "/", 0x2013: "-", 0x2212: "-", 0xD7: "*"}).split("\n"):
        told: set[str] = set()
        for match in _WRITTEN.finditer(_STEP.sub(_marked, line)):
            written, mark, result = match.groups()
            annotated = _STEP.fullmatch(f"<<{mark[1:-1]}>>") if mark else None
            if annotated and re.search(r"\d\s*[-+*/x]", annotated[1]):
                continue
            for start in re.finditer(r"[(]?[$]?(?:\d|\.\d)", written):
                plain = re.sub(r"[^\d.+\-*/()%]", "", _units(written[start.start() :])).strip("+*/-.")
                plain = plain.replace("*100%", "*100")
                if re.search(r"\d[-+*/(]", plain) and _true(plain, result):
                    told.add(result)
                    yield plain, result
                    break
        for expression, result in _STEP.findall(line):
            if result not in told and re.search(r"\d\s*[-+*/x]", expression):
                yield expression, result


def _marked(match: re.Match[str]) -> str:
    return "\u2039" + match[0][2:-2] + "\u203a"


def _units(expression: str) -> str:
    """Without words: `14 pieces/house * 60 houses` -> `14 * 60`."""
    expression = re.sub(r"(?<=\d)\s*[xX\u00d7]\s*(?=[$\d])", "*", expression.replace(",", ""))
    expression = re.sub(r"(?<=\d)\((\d+)\)", r"*\1", expression)
    return re.sub(r"[A-Za-z]+\s*/\s*[A-Za-z]+|[A-Za-z$']+", "", expression)


def _true(expression: str, result: str) -> bool:
    wanted = _value(result)
    try:
        return wanted is not None and abs(evaluate(expression.replace("%", "/100")) - wanted) < 1e-6
    except ToolError:  # whatever a line of prose turns into
        return False


def _slots(question: str) -> dict[float, bool]:
    """The numbers of a question (each value once) and whether it is a percentage."""
    out: dict[float, bool] = {}
    for match in NUMBER.finditer(question):
        value = float(match[0].replace(",", ""))
        percent = question[match.end() : match.end() + 9].lstrip().startswith(("%", "percent"))
        out[value] = out.get(value, False) or percent
    return out


def _template(question: str, numbers: list[float]) -> tuple[str, list[int]]:
    order: list[int] = []

    def slot(match: re.Match[str]) -> str:
        order.append(numbers.index(float(match[0].replace(",", ""))))
        return "{" + str(order[-1]) + "}"

    return NUMBER.sub(slot, question.replace("{", "(").replace("}", ")")), order


def _value(text: str) -> float | None:
    text = text.strip().replace(",", "").replace("$", "").rstrip("%").strip()
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return None


def _step(
    expression: str, numbers: list[float], slots: dict[float, bool], results: list[float], used: set[int], words: str,
    fixed: set[float], pinned: set[int],
) -> str:  # fmt: skip
    """`=` and the step over slots and results, or why it is none."""
    expression = expression.replace("x", "*").strip()
    expression = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"(\1/100)", expression)
    problem = ""

    def operand(match: re.Match[str]) -> str:
        nonlocal problem
        value = float(match[0])
        before = [i for i in range(len(results)) if results[i] == value]
        free = [i for i in before if i not in used]
        known = value in CONSTANTS and re.search(CONSTANTS[value], words) is not None
        if before and not free and known and value in _CONVERSIONS:
            problem = problem or "an operand that is a result and a constant"
        mark = -1 - numbers.index(value) if value in slots else 0  # in `used`: this number of the question
        plain = len(free) == 1 and (free[0] == len(results) - 1 or mark in used)  # a result waits, the number does not
        if before and value in slots and not plain:
            problem = problem or "an operand that is a result and a number of the question"
        if before:
            chosen = free[0] if free else before[-1]
            used.add(chosen)
            return f"r{chosen}"
        if value in slots:
            if value in fixed or (known and value in _CONVERSIONS):
                pinned.add(numbers.index(value))
            used.add(mark)
            return f"p{numbers.index(value)}"
        for i, number in enumerate(numbers):
            if slots[number] and (form := _percent(value, number, i)):
                return form
        if value in fixed or known or (value in range(2, 13) and not _made_of(value, [*numbers, *results])):
            return match[0].lstrip("0") if match[0].startswith("0.") else match[0]
        problem = problem or f"an operand from nowhere: {match[0]}"
        return match[0]

    step = _OPERAND.sub(operand, expression)
    return problem or "=" + step.replace(" ", "")


def _made_of(value: float, known: list[float]) -> bool:
    """Whether a small count may have been worked out silently: one more or less than a number, or of two of them."""
    if any(abs(value - n) == 1 for n in known):
        return True
    return any(value in (a + b, a - b, a * b, a / b if b else 0) for a in known for b in known)


def _percent(value: float, number: float, slot: int) -> str:
    """What a percentage is taken for: 20 as .2, as the 80 or .8 that is left, as the 120 or 1.2 that it grows to."""
    for form, meant in (
        (f"(p{slot}/100)", number / 100), (f"(100-p{slot})", 100 - number), (f"(1-p{slot}/100)", 1 - number / 100),
        (f"(100+p{slot})", 100 + number), (f"(1+p{slot}/100)", 1 + number / 100),
    ):  # fmt: skip
        if abs(meant - value) < 1e-9:
            return form
    return ""


def solve(steps: Sequence[str], numbers: Sequence[float]) -> list[float]:
    """The result of every step. Raises ToolError, as for a division by zero."""
    known = {f"p{i}": number for i, number in enumerate(numbers)}
    values: list[float] = []
    for i, step in enumerate(steps):
        values.append(round(evaluate(re.sub(r"[pr]\d+", lambda m: f"({known[m[0]]!r})", step)), 9))
        known[f"r{i}"] = values[-1]
    return values


def load(path: Path) -> Iterator[tuple[int, Program | str]]:
    """(row, program or why there is none) of every problem of a GSM8K file. Raises UserError as `read_rows`."""
    for number, row in enumerate(read_rows(path)):
        yield number, lift(row["question"], row["answer"], number)
