"""New word problems from lifted ones: other numbers, names and things; a useless sentence in it; two of them in a row.

Each is solved by running its program in the Python tool; the record holds the program, so that it can be run again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from openk2.synth.heldout import held_out
from openk2.synth.maths.draw import drawn, sensible, sign
from openk2.synth.maths.lift import Program, solve
from openk2.synth.maths.words import other_things, renamed
from openk2.synth.trajectory import Record, Trajectory
from openk2.synth.word_problems import show
from openk2.tools.base import ToolError

_DISTRACTORS = (
    "The weather that day was {n} degrees.",
    "It was the {n}th day of the month.",
    "The bus that passes there has the number {n}.",
    "There are {n} pages in the book about it.",
    "The nearest town is {n} miles away.",
    "A clock on the wall has been there for {n} years.",
    "The house next door has the number {n}.",
    "A song of {n} seconds was on the radio.",
)


@dataclass(frozen=True)
class Problem:
    """A question, the lines of Python that solve it (each `name = expression`), and the answer."""

    question: str
    lines: tuple[str, ...]
    answer: float
    skeleton: str
    source: tuple[int, ...]


def trained_on(program: Program) -> bool:
    """Skeletons are held out, a tenth of them: how a problem is solved, not only its words, is new in the test."""
    return not held_out("maths skeleton", program.skeleton(), 10)


def new_problem(rng: random.Random, program: Program, distractor: float = 0.15) -> Problem | None:
    """The problem with other numbers, names and things; None where no draw of numbers makes sense."""
    found = drawn(rng, program)
    if found is None:
        return None
    numbers, results = found
    text = other_things(rng, renamed(rng, program.text))
    if rng.random() < distractor:
        text = _distracted(rng, text)
    return _stated(program, text, numbers, results, "", {})


def _stated(
    program: Program, text: str, numbers: Sequence[float], results: Sequence[float], prefix: str, said: dict[int, str]
) -> Problem:
    """Question and lines; a number in `said` (a name in the code) is called N in the question."""
    shown = {i: "N" if i in said else _written(program, numbers, i) for i in range(len(numbers))}
    question = re.sub(r"\{(\d+)\}", lambda m: shown[int(m[1])], text)

    def line(step: str) -> str:
        step = re.sub(r"\br(\d+)", rf"{prefix}r\1", step)
        return re.sub(r"\bp(\d+)", lambda m: said.get(int(m[1])) or show(numbers[int(m[1])], "_"), step)

    lines = [f"{prefix}r{i} = {line(step)}" for i, step in enumerate(program.steps[: program.answer + 1])]
    return Problem(question, tuple(lines), results[program.answer], program.skeleton(), (program.source,))


def _written(program: Program, numbers: Sequence[float], i: int) -> str:
    """As the original writes it: with two places where it is money with two places."""
    value = numbers[i]
    if value != int(value) and program.numbers[i] != int(program.numbers[i]) and round(value, 1) == value:
        return f"{value:.2f}" if re.search(rf"\$\{{{i}\}}", program.text) else show(value, ",")
    return show(value, ",")


def _distracted(rng: random.Random, text: str) -> str:
    """A sentence that has nothing to do with it, before the last one."""
    cut = max(text.rfind(". "), text.rfind("! "))
    if cut < 0:
        return text
    extra = rng.choice(_DISTRACTORS).format(n=rng.randint(4, 19))
    return f"{text[: cut + 1]} {extra}{text[cut + 1 :]}"


def joined(rng: random.Random, first: Program, second: Program) -> Problem | None:
    """Two problems in a row: the answer of the first is a number of the second, called N."""
    steps = " ".join(second.steps)
    takes = [
        i
        for i, n in enumerate(second.numbers)
        if n >= 2 and n == int(n) and not second.percents[i] and i not in second.pinned
        and re.search(rf"\bp{i}\b", steps) and second.text.count("{" + str(i) + "}") == 1
    ]  # fmt: skip
    a = new_problem(rng, first, 0) if takes else None
    if a is None or a.answer != int(a.answer) or not 2 <= a.answer <= 5000:
        return None
    i = rng.choice(takes)
    numbers = tuple(a.answer if j == i else n for j, n in enumerate(second.numbers))
    if any(sign(numbers[i] - n) != sign(second.numbers[i] - m) for n, m in zip(numbers, second.numbers, strict=True)):
        return None
    try:
        results = solve(second.steps, numbers)
    except ToolError:
        return None
    if not all(sensible(o, n) for o, n in zip(second.results, results, strict=True)):
        return None
    text = other_things(rng, renamed(rng, second.text))
    b = _stated(second, text, numbers, results, "q", {i: a.lines[-1].partition(" ")[0]})
    question = f"{a.question} Call the answer N. Then answer this: {b.question}"
    return Problem(question, a.lines + b.lines, b.answer, f"{a.skeleton}|{b.skeleton}", a.source + b.source)


def record(problem: Problem) -> Record:
    """The trajectory: one call of Python, and the answer it gives."""
    t = Trajectory(problem.question)
    name = problem.lines[-1].partition(" ")[0]
    shown = f"print(round({name}, 4))" if problem.answer != int(problem.answer) else f"print(round({name}))"
    count = len(problem.lines)
    plan = "One step." if count == 1 else f"{count} steps, one after the other."
    result = t.call(plan, "python", code="\n".join([*problem.lines, shown]))
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("maths", gold=result, skeleton=problem.skeleton, rows=list(problem.source))


def problem(programs: Sequence[Program], seed: int, number: int) -> Problem:
    """Problem `number` of a seed; one in eight is two in a row."""
    rng = random.Random(f"openk2 maths {seed} {number}")
    while True:
        program = rng.choice(programs)
        made = joined(rng, program, rng.choice(programs)) if rng.random() < 0.125 else new_problem(rng, program)
        if made is not None:
            return made
