"""Word problems with annotated solutions (GSM8K, Cobbe et al. 2021, training split) lifted to programs.

Every operand of a step `<<48/2=24>>` must be a number of the question, the result of an earlier step, or a constant
that the words of the problem explain (a dozen, the days of a week, "half"). Then the steps are a program in the
question's numbers: new numbers give a new problem with a known answer. A program is kept only if it gives back the
annotated results.

Two equal numbers of a question share a slot: whichever of them a step means, it stays right when both change together.
Where an operand could mean two things, a number of the question or a constant, a result or a number, one of two equal
results, all numbers behind both are pinned: they stay as they are, and so do the two things.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from openk2.synth.maths.constants import CONSTANTS, CONVERSIONS, NUMBER, explained, in_figures
from openk2.synth.maths.notes import note_of
from openk2.synth.maths.program import Program, solve
from openk2.synth.rows import read_rows
from openk2.tools.base import ToolError
from openk2.tools.calculator import evaluate

_STEP = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
_WRITTEN = re.compile(
    r"([(]?[$]?[\d.][^=\u2039\u203a;:]*?)=\s*[$]?\s*(\u2039[^\u203a]*\u203a)?\s*[$]?\s*(-?[\d,]*\.?\d+)"
)
_FRACTION = re.compile(r"(?<![\d.])(\d{1,2})/(\d{1,2})(?![\d.])")
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\.\d+")


def lift(question: str, solution: str, source: int = 0) -> Program | str:
    """The program of a problem, or why there is none."""
    body, _, final = solution.partition("####")
    question = in_figures(question)
    lines = body.translate({0xF7: "/", 0x2013: "-", 0x2212: "-", 0xD7: "*"}).split("\n")
    lifter = _Lifter(question, body)
    notes = []
    for line in lines:
        first = len(lifter.steps)
        for expression, outcome in _equations(line):
            if why := lifter.add(expression, outcome):
                return why
        covers = tuple(range(first, len(lifter.steps)))
        if covers and (note := note_of(_STEP.sub("", line), lifter.meanings(covers), question)):
            notes.append((note, covers))
    if not lifter.steps:
        return "no step that is written out"
    lifter.settle()
    results, numbers = lifter.results, lifter.numbers
    at = len(results) - 1
    if results[at] != _value(final):
        return "the answer is not the last step's result"
    program = Program(
        _template(question, numbers), tuple(numbers), tuple(lifter.slots.values()), tuple(lifter.steps), tuple(results),
        at, source, frozenset(lifter.pinned), tuple(n for n in notes if max(n[1]) <= at),
    )  # fmt: skip
    if not any(program.uses(i) for i in range(len(numbers))):
        return "no number of the question in it"
    try:
        values = solve(program.steps, program.numbers)
    except ToolError:
        return "a step that cannot be computed"
    if any(abs(a - b) > 0.011 * max(1.0, abs(b)) ** 0.5 for a, b in zip(values, results, strict=True)):
        return "the steps give other results"
    return program


class _Lifter:
    """Steps over slots and results, found one after the other; what each operand was taken for."""

    def __init__(self, question: str, body: str) -> None:
        self.body = body
        self.slots = _slots(question)
        self.told = Counter(float(m[0].replace(",", "")) for m in NUMBER.finditer(question))
        self.numbers = list(self.slots)
        self.words = f"{question} {re.sub(r'<<[^>]*>>', '', body)}".lower()
        self.fixed = explained(question)
        self.pinned: set[int] = set()
        self.steps: list[str] = []
        self.results: list[float] = []
        self._used: set[int] = set()  # results, and -1 - i for numbers of the question, that a step has had
        self._meant: list[list[tuple[float, str]]] = []

    def add(self, expression: str, outcome: str) -> str:
        """Append a step; if it is none, say why."""
        value = _value(outcome)
        if value is None or re.search(r"[^\d.+\-*/() %x]", expression):
            return "a step that is no arithmetic"
        expression = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"(\1/100)", expression.replace("x", "*").strip())
        self._meant.append([])
        values = [float(v) for v in _OPERAND.findall(expression)]
        problem = ""

        fraction = {float(n) for pair in _FRACTION.findall(expression) if int(pair[0]) < int(pair[1]) for n in pair}
        summands = {float(n) for n in re.findall(r"(?:^|[+-]) *(\d+) *(?=$|[+-])", expression)}
        shares = re.search(r"100|0?\.01|%", expression) is not None

        def operand(match: re.Match[str]) -> str:
            nonlocal problem
            value = float(match[0])
            form = self._operand(value, values.count(value), value in fraction, value in summands, shares)
            if not form:
                problem = problem or f"an operand from nowhere: {match[0]}"
            self._meant[-1].append((value, form))
            return form

        step = _OPERAND.sub(operand, expression).replace(" ", "")
        if not problem:
            self.steps.append(step)
            self.results.append(value)
        return problem

    def settle(self) -> None:
        """A number without a part may have been meant where a result of its value was taken: both stay. So does a
        result that leads nowhere, and what a figure that only the solution's text has may have been worked out from: a
        step may rest on it unseen.
        """
        told = " ".join(self.steps)
        for i, number in enumerate(self.numbers):
            if 2 <= number <= 6 and len(re.findall(rf"\bp{i}\b", told)) > self.told[number]:
                self.pinned.add(i)  # used more often than told: once it may be the corners of a rectangle
        for i, number in enumerate(self.numbers):
            bare = [s for s in self.steps if re.search(rf"\bp{i}\b", s) and not re.search(r"100|\.01", s)]
            if self.slots[number] and bare:
                self.pinned.add(i)  # a tenth taken as `40/10`: right for 10% alone
        self.pinned |= self._behind(i for i in range(len(self.steps) - 1) if not re.search(rf"\br{i}\b", told))
        for i, number in enumerate(self.numbers):
            if number > 1 and -1 - i not in self._used:
                self.pinned |= self._behind(j for j, result in enumerate(self.results) if result == number)

        told = {float(n) for n in _OPERAND.findall(_STEP.sub("", self.body).replace(",", ""))}
        for value in told - set(self.numbers) - set(self.results) - self.fixed - set(CONVERSIONS) - {0, 1}:
            if not any(self.slots[n] and _percent(value, n, i, True) for i, n in enumerate(self.numbers)):
                self.pinned |= self._makers(value)

    def meanings(self, covers: Iterable[int]) -> list[tuple[float, str]]:
        """What the numbers of a line may stand for: its operands and results, then all that was known before it."""
        own = [pair for i in covers for pair in [*self._meant[i], (self.results[i], f"r{i}")]]
        told = [(n, f"p{i}") for i, n in enumerate(self.numbers)] + [(n, f"r{i}") for i, n in enumerate(self.results)]
        return own + [pair for pair in told if pair[0] not in {value for value, _ in own}]

    def _operand(self, value: float, times: int, fraction: bool, summand: bool, shares: bool) -> str:
        """What an operand stands for; nothing where it comes from nowhere.

        times: how often its step has it. fraction, summand: it is part of one, is one, so converts nothing. shares:
        the step reckons in hundredths.
        """
        before = [i for i in range(len(self.results)) if self.results[i] == value]
        free = [i for i in before if i not in self._used]
        known = value in CONSTANTS and re.search(CONSTANTS[value], self.words) is not None
        conversion = known and value in CONVERSIONS
        mark = -1 - self.numbers.index(value) if value in self.slots else 0
        # A result that waits is meant, if it is the last one or the number has had its turn.
        plain = len(free) == 1 and (free[0] == len(self.results) - 1 or mark in self._used)
        if before:
            several = len({self.steps[i] for i in free}) > max(1, times)  # and one of them is left out
            unsure = mark or conversion or several or (not free and len(before) > 1)
            if fraction or value in self.fixed or (unsure and not plain):
                self.pinned |= self._behind(before) | ({-1 - mark} if mark else set())
            chosen = free[0] if free else before[-1]
            self._used.add(chosen)
            return f"r{chosen}"
        if mark:
            if fraction or value in self.fixed or conversion:
                self.pinned.add(-1 - mark)
            elif times > self.told[value]:  # it is not told so often: one of them may be a result that is not
                self.pinned |= {-1 - mark} | self._makers(value)
            self._used.add(mark)
            return f"p{-1 - mark}"
        for i, number in enumerate(self.numbers):
            if self.slots[number] and (form := _percent(value, number, i, shares)):
                return form
        if hundredth := self._hundredth(value):
            return hundredth
        if not (value in self.fixed or (conversion and not summand) or (known and value <= 1)):
            makers = self._makers(value)
            if not makers and not known and value not in range(2, 13):
                return ""
            self.pinned |= makers
        return f"{value:g}"

    def _hundredth(self, value: float) -> str:
        """What a hundredth is taken from: cents of the question as dollars, a percentage that was worked out."""
        whole = round(value * 100, 6)
        if whole in self.slots and re.search(rf"\b{whole:g} ?(?:cents?|¢)", self.words):
            return f"(p{self.numbers.index(whole)}/100)"
        shares = [i for i, result in enumerate(self.results) if result == whole and 0 < value < 1]
        if len(shares) == 1 and whole not in self.slots and re.search("%|percent", self.words):
            self._used.add(shares[0])
            return f"(r{shares[0]}/100)"
        return ""

    def _makers(self, value: float) -> set[int]:
        """The numbers of the question from which a value may have been worked out unseen: one of them or two."""
        known = [(n, {i}) for i, n in enumerate(self.numbers)]
        known += [(n, self._behind([i])) for i, n in enumerate(self.results)]
        out: set[int] = set()
        for n, rests in known:
            near = abs(value - n) == 1 or value == 100 - n or (n > 1 and value * n in CONVERSIONS)
            near = near or any(value == n // c for c in CONVERSIONS)  # whole weeks, whole hundreds
            if near or any(value * k == n or value == n * k for k in (2, 3, 4, 5, 6, 10)):
                out |= rests
        for (a, a_rests), (b, b_rests) in itertools.combinations(known, 2):
            if value in (a + b, a * b, abs(a - b)) or (a and value == b // a) or (b and value == a // b):
                out |= a_rests | b_rests
        return out

    def _behind(self, results: Iterable[int]) -> set[int]:
        """The numbers of the question that results rest on."""
        out: set[int] = set()
        for i in results:
            out |= {int(n) for n in re.findall(r"\bp(\d+)", self.steps[i])}
            out |= self._behind(int(n) for n in re.findall(r"\br(\d+)", self.steps[i]))
        return out


def _equations(line: str) -> Iterator[tuple[str, str]]:
    """(expression, result) of every step of a line: as annotated, or where the annotation has no operator or is
    missing, as the line writes it with its units (`14 pieces * 60 houses = 840 pieces`), if that is true.
    """
    told: set[str] = set()
    for match in _WRITTEN.finditer(_STEP.sub(_marked, line)):
        written, mark, result = match.groups()
        annotated = _STEP.fullmatch(f"<<{mark[1:-1]}>>") if mark else None
        if annotated and re.search(r"\d\s*[-+*/x]", annotated[1]) and not _other(annotated[1], written):
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


def _other(annotated: str, written: str) -> bool:
    """Whether a line ends in another operation than its annotation has (`15-5 = <<5+5=10>>10`): the line holds."""
    ends = re.search(r"(?<![\d)%*/+-])\s*[$]?(\d+(?:\.\d+)?)\s*([-+*/x])\s*[$]?(\d+(?:\.\d+)?)\s*$", written)
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([-+*/x])\s*(\d+(?:\.\d+)?)\s*", annotated)
    return ends is not None and parts is not None and ends.groups() != parts.groups() and ends[2] != parts[2]


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


def _template(question: str, numbers: list[float]) -> str:
    text = question.replace("{", "(").replace("}", ")")
    return NUMBER.sub(lambda m: "{" + str(numbers.index(float(m[0].replace(",", "")))) + "}", text)


def _value(text: str) -> float | None:
    text = text.strip().replace(",", "").replace("$", "").rstrip("%").strip()
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        return None


def _percent(value: float, number: float, slot: int, shares: bool) -> str:
    """What a percentage is taken for: 20 as .2, as the .8 that is left, as the 1.2 that it grows to; where a step
    reckons in hundredths, as 80 or 120.
    """
    for form, meant, whole in (
        (f"(p{slot}/100)", number / 100, False), (f"(1-p{slot}/100)", 1 - number / 100, False),
        (f"(1+p{slot}/100)", 1 + number / 100, False), (f"(100-p{slot})", 100 - number, True),
        (f"(100+p{slot})", 100 + number, True),
    ):  # fmt: skip
        if abs(meant - value) < 1e-9 and (shares or not whole):
            return form
    return ""


def load(path: Path) -> Iterator[tuple[int, Program | str]]:
    """(row, program or why there is none) of every problem of a GSM8K file. Raises UserError as `read_rows`."""
    for number, row in enumerate(read_rows(path)):
        yield number, lift(row["question"], row["answer"], number)
