"""Word problems: MAWPS (folds 1-4) and GSM8K (train) lifted to programs, their numbers drawn anew, solved by execution.

Lifting GSM8K: every operand of the annotated steps `<<48/2=24>>` must be a number of the question, the result of an
earlier step, or a small constant; then the steps are a program with the question's numbers as parameters.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from openk2.synth.trajectory import Trajectory

PEOPLE = (
    "Anna Ben Carla David Emma Frank Grace Henry Ivy Jack Kate Liam Mia Noah Olga Paul Quinn Rosa Sam Tara Umar Vera Will Yara Zoe"
    " Amir Bella Chen Dora Elif Farid Gina Hugo Ines Jonas Kofi Lena Marco Nadia Omar Priya Ravi Sofia Tom Uma Victor Wanda Xenia"
).split()
REASONS = {
    "+": "The parts add up.", "-": "One amount is taken from the other.", "*": "Equal groups: I multiply.", "/": "Shared equally: I divide.",
}  # fmt: skip


@dataclass(frozen=True)
class Mawps:
    text: str  # with numberK slots
    numbers: tuple[float, ...]
    infix: str  # with numberK slots
    operators: tuple[str, ...]
    fold: int


def detokenize(text: str) -> str:
    text = re.sub(r"\s+([.,?!;:%])", r"\1", text)
    text = re.sub(r"\s+'\s*s\b", "'s", text)
    text = re.sub(r"\$\s+", "$", text)
    return re.sub(r"\s+", " ", text).strip()


def infix(prefix: list[str]) -> str:
    """`* number0 + number1 number2` -> `number0 * (number1 + number2)`."""
    token = prefix.pop(0)
    if token not in "+-*/":
        return token
    left, right = infix(prefix), infix(prefix)
    wrap = lambda s: f"({s})" if " " in s else s  # noqa: E731
    return f"{wrap(left)} {token} {wrap(right)}"


def load_mawps(path: Path) -> list[Mawps]:
    problems = []
    with gzip.open(path, "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            tokens = row["Equation"].split()
            numbers = tuple(float(n) for n in row["Numbers"].split())
            text = detokenize(row["Question"])
            slots = {int(m) for m in re.findall(r"number(\d+)", text)}
            used = {int(m) for m in re.findall(r"number(\d+)", row["Equation"])}
            if used <= slots and slots <= set(range(len(numbers))):
                operators = tuple(t for t in tokens if t in "+-*/")
                problems.append(Mawps(text, numbers, infix(list(tokens)), operators, int(row["fold"])))
    return problems


def _fill(template: str, values: list[str]) -> str:
    return re.sub(r"number(\d+)", lambda m: values[int(m[1])], template)


def _show(value: float, grouped: str) -> str:
    """12000.0 -> `12,000` (or `12_000`), 0.25 -> `0.25`."""
    if value == int(value):
        return f"{int(value):{grouped}}" if abs(value) >= 1000 else str(int(value))
    return repr(round(value, 4))


def _draw(rng: random.Random, value: float) -> float:
    if value != int(value):
        places = len(repr(value).partition(".")[2])
        return round(max(0.01, value * rng.uniform(0.3, 3.0)), min(places, 2))
    if value <= 1:
        return value
    high = rng.choice((10, 20, 50, 100)) if value <= 20 else rng.choice((100, 300, 1000)) if value <= 1000 else int(value * 4)
    return float(rng.randint(2, max(3, high)))


def _sensible(original: float, value: float) -> bool:
    if value <= 0 and original > 0:
        return False
    return original != int(original) or value == int(value)


def rename(rng: random.Random, text: str) -> str:
    """The people of a problem get other names, the same person the same name."""
    found = [n for n in dict.fromkeys(re.findall(r"\b[A-Z][a-z]{2,}\b", text)) if _is_person(n, text)]
    new = rng.sample(PEOPLE, min(len(found), len(PEOPLE)))
    table = dict(zip(found, new, strict=False))
    return re.sub(r"\b[A-Z][a-z]{2,}\b", lambda m: table.get(m[0], m[0]), text)


COMMON = frozenset(
    "The There They How What When Which Who Why Where His Her Its Each Every After Before During For From With Then That This These Those"
    " And But All Some Most Many One Two Three Four Five Six She Mrs Miss Monday Tuesday Wednesday Thursday Friday Saturday Sunday January"
    " February March April May June July August September October November December Christmas Halloween Easter Find Calculate Suppose Assume"
    " While Since Because Today Yesterday Tomorrow Last Next Our Your Their Out Not Only Both Half Twice Later Now".split()
)


def _is_person(word: str, text: str) -> bool:
    return word not in COMMON and re.search(rf"\b(The|the|of|in|at|from|to|on) {word}\b", text) is None and len(word) < 11


def mawps_problem(rng: random.Random, problem: Mawps, fresh: bool = True) -> dict | None:
    """One MAWPS problem with new numbers (`fresh`) or its own, solved with the calculator."""
    original = eval(_fill(problem.infix, [repr(n) for n in problem.numbers]), {})  # our own arithmetic, from a data file we parsed
    for _ in range(60):
        numbers = [_draw(rng, n) for n in problem.numbers] if fresh else list(problem.numbers)
        try:
            value = eval(_fill(problem.infix, [repr(n) for n in numbers]), {})
        except ZeroDivisionError:
            continue
        if not fresh or (_sensible(original, value) and abs(value) < 1e7):
            break
    else:
        return None
    question = rename(rng, problem.text) if fresh else problem.text
    question = _fill(question, [_show(n, ",") for n in numbers])
    expression = _fill(problem.infix, [_show(n, "_") for n in numbers])
    if value != int(value):
        expression = f"round({expression}, 2)"
    t = Trajectory(question)
    reasons = " ".join(dict.fromkeys(REASONS[o] for o in problem.operators))
    result = t.call(reasons, "calculator", expression=expression)
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("mawps", gold=result, expression=expression, fold=problem.fold)


@dataclass(frozen=True)
class Program:
    """A lifted GSM8K problem. `text` has {0}, {1}, ... for the question's numbers; `steps` are expressions over
    p0, p1, ... (numbers), r0, r1, ... (results of earlier steps) and constants; `notes` say each step in words."""

    text: str
    numbers: tuple[float, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    results: tuple[float, ...]


NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\d]*[\w/:])")


def lift(question: str, answer: str, most_steps: int = 4) -> Program | None:
    body, _, final = answer.partition("####")
    annotations = re.findall(r"<<([^=<>]+)=([^<>]+)>>", body)
    if not 1 <= len(annotations) <= most_steps or len(question) > 420:
        return None
    numbers: list[float] = []
    spans: dict[float, int] = {}
    for match in NUMBER.finditer(question):
        value = float(match[0].replace(",", ""))
        if value in spans:
            return None  # the same number twice: which one a step means is unknown
        spans[value] = len(numbers)
        numbers.append(value)
    text = NUMBER.sub(lambda m: "{" + str(spans[float(m[0].replace(",", ""))]) + "}", question.replace("{", "(").replace("}", ")"))
    steps: list[str] = []
    results: list[float] = []
    used: set[int] = set()
    for expression, result in annotations:
        try:
            results_after = float(result.replace(",", ""))
        except ValueError:
            return None
        if re.search(r"[^\d.+\-*/() ]", expression):
            return None

        def operand(match: re.Match[str]) -> str:
            value = float(match[0])
            if value in results:
                return f"r{len(results) - 1 - results[::-1].index(value)}"
            if value in spans:
                used.add(spans[value])
                return f"p{spans[value]}"
            return match[0] if value in (2, 3, 4, 5, 7, 10, 12, 24, 30, 52, 60, 100, 365, 0.5, 0.01) else "?"

        step = re.sub(r"\d+(?:\.\d+)?|\.\d+", operand, expression).strip()
        if "?" in step or not re.search(r"[+\-*/]", step):
            return None
        steps.append(step)
        results.append(results_after)
    if not results or str(final).strip().replace(",", "") != f"{results[-1]:g}":
        return None
    last = steps[-1]
    if len(steps) > 1 and f"r{len(steps) - 2}" not in last and len(re.findall(r"r\d", last)) == 0:
        return None
    sentences = [s for s in body.strip().split("\n") if s.strip()]
    if len(sentences) != len(annotations) or not used:
        return None
    program = Program(text, tuple(numbers), tuple(steps), tuple(re.sub(r"\s+", " ", s) for s in sentences), tuple(results))
    try:
        values = _run(program, list(program.numbers))
    except ZeroDivisionError:
        return None
    return program if all(abs(a - b) < 0.02 for a, b in zip(values, results, strict=True)) else None


def _run(program: Program, numbers: list[float]) -> list[float]:
    scope: dict[str, float] = {f"p{i}": n for i, n in enumerate(numbers)}
    values: list[float] = []
    for i, step in enumerate(program.steps):
        values.append(eval(step, {"__builtins__": {}}, scope))  # characters checked in lift
        scope[f"r{i}"] = values[-1]
    return values


def load_gsm8k(path: Path) -> list[Program]:
    programs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        program = lift(row["question"], row["answer"])
        if program:
            programs.append(program)
    return programs


def gsm8k_problem(rng: random.Random, program: Program) -> dict | None:
    """One lifted problem with new numbers, solved by a few lines of Python with one variable a step."""
    for _ in range(60):
        numbers = [_draw(rng, n) for n in program.numbers]
        try:
            values = _run(program, numbers)
        except ZeroDivisionError:
            continue
        if all(_sensible(o, v) and abs(v) < 1e7 for o, v in zip(program.results, values, strict=True)) and len(set(numbers)) == len(numbers):
            break
    else:
        return None
    question = rename(rng, program.text)
    for i, n in enumerate(numbers):
        question = question.replace("{" + str(i) + "}", _show(n, ","))
    letters = "abcdefgh"
    lines = []
    for i, step in enumerate(program.steps):
        filled = re.sub(r"p(\d+)", lambda m: _show(numbers[int(m[1])], "_"), step)
        filled = re.sub(r"r(\d+)", lambda m: letters[int(m[1])], filled)
        lines.append(f"{letters[i]} = {filled}")
    final = letters[len(lines) - 1]
    shown = f"print(f'{{{final}:,g}}')" if values[-1] < 1e6 else f"print(f'{{{final}:,.0f}}')"
    t = Trajectory(question)
    plan = "One step." if len(lines) == 1 else f"{len(lines)} steps, one after the other."
    result = t.call(plan, "python", code="; ".join([*lines, shown]))
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("gsm8k", gold=result, steps=len(lines))
