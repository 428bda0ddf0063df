"""MAWPS word problems with new numbers and names, solved by one calculator call.

MAWPS (Koncel-Kedziorski et al., 2016) gives each problem with slots for its numbers and its equation in prefix form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openk2.synth.rows import read_rows
from openk2.synth.trajectory import Record, Trajectory
from openk2.synth.word_problems import draw, rename, sensible, show
from openk2.tools.base import ToolError
from openk2.tools.calculator import evaluate

REASONS = {
    "+": "The parts add up.",
    "-": "One amount is taken from the other.",
    "*": "Equal groups: I multiply.",
    "/": "Shared equally: I divide.",
}


@dataclass(frozen=True)
class Mawps:
    """`text` and `infix` have slots number0, number1, ... for `numbers`."""

    text: str
    numbers: tuple[float, ...]
    infix: str
    operators: tuple[str, ...]
    fold: int


def detokenize(text: str) -> str:
    """`Sam 's dog , 3 .` -> `Sam's dog, 3.`"""
    text = re.sub(r"\s+([.,?!;:%])", r"\1", text)
    text = re.sub(r"\s+'\s*s\b", "'s", text)
    text = re.sub(r"\$\s+", "$", text)
    return re.sub(r"\s+", " ", text).strip()


def infix(prefix: Iterator[str]) -> str:
    """`* number0 + number1 number2` -> `number0 * (number1 + number2)`."""
    token = next(prefix)
    if token not in "+-*/":
        return token
    left, right = (f"({side})" if " " in side else side for side in (infix(prefix), infix(prefix)))
    return f"{left} {token} {right}"


def load_mawps(path: Path) -> list[Mawps]:
    """The problems whose equation uses only numbers that the question states."""
    problems = []
    for row in read_rows(path):
        tokens = row["Equation"].split()
        numbers = tuple(float(n) for n in row["Numbers"].split())
        text = detokenize(row["Question"])
        slots = {int(m) for m in re.findall(r"number(\d+)", text)}
        used = {int(m) for m in re.findall(r"number(\d+)", row["Equation"])}
        if used <= slots and slots <= set(range(len(numbers))):
            operators = tuple(t for t in tokens if t in "+-*/")
            problems.append(Mawps(text, numbers, infix(iter(tokens)), operators, int(row["fold"])))
    return problems


def mawps_problem(rng: random.Random, problem: Mawps, fresh: bool = True) -> Record | None:
    """One problem with new numbers and names (`fresh`) or as it is. None where no draw of numbers makes sense."""
    drawn = _drawn(rng, problem, fresh)
    if drawn is None:
        return None
    numbers, value = drawn
    question = rename(rng, problem.text) if fresh else problem.text
    question = _fill(question, [show(n, ",") for n in numbers])
    expression = _fill(problem.infix, [show(n, "_") for n in numbers])
    if value != int(value):
        expression = f"round({expression}, 2)"
    t = Trajectory(question)
    reasons = " ".join(dict.fromkeys(REASONS[o] for o in problem.operators))
    result = t.call(reasons, "calculator", expression=expression)
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("mawps", gold=result, expression=expression, fold=problem.fold)


def _drawn(rng: random.Random, problem: Mawps, fresh: bool) -> tuple[list[float], float] | None:
    """Numbers and the result that they give."""
    numbers = list(problem.numbers)
    try:
        original = _value(problem, numbers)
    except ToolError:  # division by zero
        return None
    if not fresh:
        return numbers, original
    for _ in range(60):
        numbers = [draw(rng, n) for n in problem.numbers]
        try:
            value = _value(problem, numbers)
        except ToolError:
            continue
        if sensible(original, value):
            return numbers, value
    return None


def _value(problem: Mawps, numbers: list[float]) -> float:
    return evaluate(_fill(problem.infix, [repr(n) for n in numbers]))


def _fill(template: str, values: list[str]) -> str:
    return re.sub(r"number(\d+)", lambda m: values[int(m[1])], template)
