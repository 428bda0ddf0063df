"""GSM8K problems (training split) lifted to programs, their numbers drawn anew, solved by a few lines of Python.

Every operand of an annotated step `<<48/2=24>>` (Cobbe et al., 2021) must be a number of the question, the result of an
earlier step, or a small constant; then the steps are a program with the question's numbers as parameters. A program is
kept only if it reproduces the annotated results.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openk2.synth.rows import read_rows
from openk2.synth.trajectory import Record, Trajectory
from openk2.synth.word_problems import draw, rename, sensible, show
from openk2.tools.base import ToolError
from openk2.tools.calculator import evaluate

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\d]*[\w/:])")
CONSTANTS = (2, 3, 4, 5, 7, 10, 12, 24, 30, 52, 60, 100, 365, 0.5, 0.01)  # dozens, days, minutes, percent ...
MOST_STEPS = 4
MOST_CHARS = 420  # of the question
LETTERS = "abcdefgh"  # one variable a step


@dataclass(frozen=True)
class Program:
    """`text` has {0}, {1}, ... for the question's numbers; `steps` are expressions over p0, p1, ... (numbers),
    r0, r1, ... (results of earlier steps) and constants; `notes` say each step in words."""

    text: str
    numbers: tuple[float, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    results: tuple[float, ...]


def lift(question: str, answer: str) -> Program | None:
    """The program of a problem, or None where the annotations do not determine one."""
    body, _, final = answer.partition("####")
    annotations = re.findall(r"<<([^=<>]+)=([^<>]+)>>", body)
    notes = [re.sub(r"\s+", " ", s) for s in body.strip().split("\n") if s.strip()]
    if not 1 <= len(annotations) <= MOST_STEPS or len(notes) != len(annotations) or len(question) > MOST_CHARS:
        return None
    found = [_float(m[0]) for m in NUMBER.finditer(question)]
    numbers = list(dict.fromkeys(found))
    if len(numbers) != len(found):
        return None  # the same number twice: which one a step means is unknown
    steps: list[str] = []
    results: list[float] = []
    for expression, result in annotations:
        step = _step(expression, numbers, results)
        try:
            results.append(_float(result))
        except ValueError:  # a result such as `1/2`
            return None
        if step is None:
            return None
        steps.append(step)
    if final.strip().replace(",", "") != f"{results[-1]:g}" or not any("p" in step for step in steps):
        return None
    if len(steps) > 1 and "r" not in steps[-1]:
        return None  # the last step rests on none before it
    text = question.replace("{", "(").replace("}", ")")
    text = NUMBER.sub(lambda m: "{" + str(numbers.index(_float(m[0]))) + "}", text)
    program = Program(text, tuple(numbers), tuple(steps), tuple(notes), tuple(results))
    try:
        values = solve(program.steps, numbers)
    except ToolError:
        return None
    return program if all(abs(a - b) < 0.02 for a, b in zip(values, results, strict=True)) else None


def _step(expression: str, numbers: list[float], results: list[float]) -> str | None:
    """`48/2` -> `p0/2`; a result stands for itself before a number of the question does, the latest first."""
    if re.search(r"[^\d.+\-*/() ]", expression):
        return None

    def operand(match: re.Match[str]) -> str:
        value = float(match[0])
        if value in results:
            return f"r{len(results) - 1 - results[::-1].index(value)}"
        if value in numbers:
            return f"p{numbers.index(value)}"
        return match[0] if value in CONSTANTS else "?"

    step = re.sub(r"\d+(?:\.\d+)?|\.\d+", operand, expression).strip()
    return step if "?" not in step and re.search(r"[+\-*/]", step) else None


def _float(text: str) -> float:
    return float(text.replace(",", ""))


def solve(steps: Sequence[str], numbers: Sequence[float]) -> list[float]:
    """The result of every step. Raises ToolError, as for a division by zero."""
    known = {f"p{i}": number for i, number in enumerate(numbers)}
    values: list[float] = []
    for i, step in enumerate(steps):
        values.append(evaluate(re.sub(r"[pr]\d+", lambda m: f"({known[m[0]]!r})", step)))
        known[f"r{i}"] = values[-1]
    return values


def load_gsm8k(path: Path) -> list[Program]:
    """The problems that can be lifted."""
    programs = (lift(row["question"], row["answer"]) for row in read_rows(path))
    return [program for program in programs if program]


def gsm8k_problem(rng: random.Random, program: Program) -> Record | None:
    """One lifted problem with new numbers and names. None where no draw of numbers makes sense."""
    drawn = _drawn(rng, program)
    if drawn is None:
        return None
    numbers, values = drawn
    question = rename(rng, program.text)
    for i, number in enumerate(numbers):
        question = question.replace("{" + str(i) + "}", show(number, ","))
    lines = []
    for letter, step in zip(LETTERS, program.steps, strict=False):
        filled = re.sub(r"p(\d+)", lambda m: show(numbers[int(m[1])], "_"), step)
        filled = re.sub(r"r(\d+)", lambda m: LETTERS[int(m[1])], filled)
        lines.append(f"{letter} = {filled}")
    final = LETTERS[len(lines) - 1]
    shown = f"print(f'{{{final}:,g}}')" if values[-1] < 1e6 else f"print(f'{{{final}:,.0f}}')"
    t = Trajectory(question)
    plan = "One step." if len(lines) == 1 else f"{len(lines)} steps, one after the other."
    result = t.call(plan, "python", code="; ".join([*lines, shown]))
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("gsm8k", gold=result, steps=len(lines))


def _drawn(rng: random.Random, program: Program) -> tuple[list[float], list[float]] | None:
    """Numbers and the results that they give."""
    for _ in range(60):
        numbers = [draw(rng, n) for n in program.numbers]
        try:
            values = solve(program.steps, numbers)
        except ToolError:
            continue
        fitting = all(sensible(o, v) for o, v in zip(program.results, values, strict=True))
        if fitting and len(set(numbers)) == len(numbers):
            return numbers, values
    return None
