"""New problems from lifted ones: other numbers, names and things, a useless sentence in it, two of them in a row."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openk2.synth.maths.draw import drawn, results_of
from openk2.synth.maths.lift import load
from openk2.synth.maths.mawps import load_mawps, tidied
from openk2.synth.maths.notes import told
from openk2.synth.maths.program import Program, show, solve
from openk2.synth.maths.sense import rules_of
from openk2.synth.maths.words import other_things, renamed
from openk2.synth.trajectory import Record, Trajectory

_MARK = "\x1e"  # between a question and the sentences of its solution, while both get other names
_DISTRACTORS = (
    ("It was the {n}th day of the month.", "day|week|month|date|year"),
    ("The bus that passes there has the number {n}.", "bus|number|transport"),
    ("A clock on the wall there is {n} years old.", "clock|hour|minute|year|old|wall|time"),
    ("The house next door has the number {n}.", "house|home|number|door"),
    ("A song of {n} minutes was on the radio.", "song|music|minute|hour|time|radio|second"),
    ("The story takes up {n} lines in a newspaper.", "line|story|newspaper|read|page"),
    ("Somebody nearby has {n} cousins.", "cousin|famil|sibling"),
)
REASONS = {
    "+": "The parts add up.",
    "-": "One amount is taken from the other.",
    "*": "Equal groups: I multiply.",
    "/": "Shared equally: I divide.",
}


@dataclass(frozen=True)
class Problem:
    """A question, the steps in words (`thought`), the lines of Python that solve it (each `NAME = expression`), and the
    answer.
    """

    question: str
    thought: str
    lines: tuple[str, ...]
    answer: float
    skeleton: str
    source: tuple[str, ...]


def new_problem(rng: random.Random, program: Program, distractor: float = 0.15) -> Problem | None:
    """The problem with other numbers, names and things; None where no draw of numbers makes sense."""
    found = drawn(rng, program)
    return _stated(rng, program, *found, distractor=distractor) if found else None


def _stated(
    rng: random.Random, program: Program, numbers: Sequence[float], results: Sequence[float],
    said: tuple[int, str] = (-1, ""), first: int = 0, distractor: float = 0.0,
) -> Problem:  # fmt: skip
    """said: a number that the question calls N, and its name in the code. first: how many names the code has."""
    texts = _MARK.join([program.text, *(note for note, _ in program.notes)])
    question, *notes = other_things(rng, renamed(rng, texts)).split(_MARK)
    if rng.random() < distractor:
        question = _distracted(rng, question)
    shown = {f"p{i}": show(n, "_") for i, n in enumerate(numbers)} | {f"p{said[0]}": said[1]}
    shown |= {f"r{i}": _name(first + i) for i in range(len(results))}

    def say(form: str) -> str:
        """What stands in a hole of a note."""
        if re.fullmatch(r"p\d+", form):
            return said[1] if form == f"p{said[0]}" else _written(program, numbers, int(form[1:]))
        if "r" in form or (said[1] and f"p{said[0]}" in form):
            return code(form)
        return show(solve([form], numbers)[0], "")

    def code(step: str) -> str:
        return re.sub(r"\b[pr]\d+", lambda m: shown[m[0]], step)

    steps = program.steps[: program.answer + 1]
    lines = [f"{_name(first + i)} = {code(step)}" for i, step in enumerate(steps)]
    thoughts = list(lines)
    for note, (_, covers) in zip(notes, program.notes, strict=True):
        thoughts[covers[0]] = told(note, say)
        for i in covers[1:]:
            thoughts[i] = ""
    sentences = (t if t.endswith((".", "!", ":")) else f"{t}." for t in thoughts if t)
    thought = " ".join(sentences) if program.fold is None else reasons(program)
    question = filled(program, question, numbers, said[0])
    source = f"{'gsm8k' if program.fold is None else 'mawps'}:{program.source}"
    return Problem(question, thought, tuple(lines), results[program.answer], program.skeleton(), (source,))


def filled(program: Program, text: str, numbers: Sequence[float], called: int = -1) -> str:
    """A text of the program with its numbers, but for the one that is called N."""
    shown = ["N" if i == called else _written(program, numbers, i) for i in range(len(numbers))]
    text = re.sub(r"\{(\d+)\}", lambda m: shown[int(m[1])], text)
    return re.sub(
        r"\b([Aa])n? (?=\d)(?!\d+ ?[ap]m)", lambda m: m[1] + ("n " if _AN.match(text, m.end()) else " "), text
    )


_AN = re.compile(r"8|1[18](?:,|\b)")  # an 8-inch, an 11 m, an 18-month


def _name(i: int) -> str:
    """A, B, ...; never I, and never N, which a question may use."""
    return "ABCDEFGHJKLMOPQRSTUVWXYZ"[i] if i < 24 else f"Z{i}"


def reasons(program: Program) -> str:
    """Why the operations of a program of one step are the right ones."""
    return " ".join(dict.fromkeys(REASONS[o] for o in re.findall(r"[-+*/]", program.steps[0])))


def _written(program: Program, numbers: Sequence[float], i: int) -> str:
    """As the original writes it: with two places where it is money with two places."""
    value = numbers[i]
    if value == program.numbers[i] and 1900 <= value <= 2100:
        return f"{value:g}"  # a year, where it is one
    if value != int(value) and program.numbers[i] != int(program.numbers[i]) and round(value, 1) == value:
        return f"{value:.2f}" if re.search(rf"\$\{{{i}\}}", program.text) else show(value, ",")
    return show(value, ",")


def _distracted(rng: random.Random, text: str) -> str:
    """A sentence that has nothing to do with it, before the last one."""
    ends = [match.end() - 1 for match in re.finditer(r"(?<!Mr)(?<!Mrs)(?<!Ms)(?<!Dr)(?<!St)[.!?] +(?=[A-Z])", text)]
    free = [said for said, words in _DISTRACTORS if not re.search(rf"\b(?:{words})", text, re.IGNORECASE)]
    if not ends or not free:
        return text
    return f"{text[: ends[-1]]} {rng.choice(free).format(n=rng.randint(4, 19))}{text[ends[-1] :]}"


def joined(rng: random.Random, a: Problem, second: Program) -> Problem | None:
    """Two problems in a row: the answer of the first is a number of the second, called N; None where it cannot be."""
    rules = rules_of(second)
    if isinstance(rules, str):
        return None
    low, high = rules.factors
    takes = [
        i for i in rules.changing
        if second.numbers[i] == int(second.numbers[i]) and not second.percents[i]
        and second.text.count("{" + str(i) + "}") == 1
    ]  # fmt: skip
    takes = [i for i in takes if a.answer >= 2 and low <= a.answer / second.numbers[i] <= high]
    if not takes or a.answer != int(a.answer):
        return None
    i = rng.choice(takes)
    numbers = [a.answer if j == i else n for j, n in enumerate(second.numbers)]
    results = results_of(second, numbers)
    if results is None:
        return None
    b = _stated(rng, second, numbers, results, (i, a.lines[-1].partition(" ")[0]), len(a.lines))
    return Problem(
        f"{a.question} Call the answer N. Then answer this: {b.question}", f"{a.thought} That is N. {b.thought}",
        a.lines + b.lines, b.answer, f"{a.skeleton}|{b.skeleton}", a.source + b.source,
    )  # fmt: skip


def record(problem: Problem) -> Record:
    """The trajectory: one call of Python, and the answer it gives."""
    t = Trajectory(problem.question)
    name = problem.lines[-1].partition(" ")[0]
    shown = f"print(round({name}, 4))" if problem.answer != int(problem.answer) else f"print(round({name}))"
    result = t.call(problem.thought, "python", code="\n".join([*problem.lines, shown]))
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("maths", gold=result, skeleton=problem.skeleton, rows=list(problem.source))


def problem(programs: Sequence[Program], seed: int, number: int) -> Problem:
    """Problem `number` of a seed; one in eight is two in a row."""
    rng = random.Random(f"openk2 maths {seed} {number}")
    while True:
        pair = rng.random() < 0.125
        made = new_problem(rng, rng.choice(programs), 0 if pair else 0.15)
        if made and pair:
            seconds = (joined(rng, made, rng.choice(programs)) for _ in range(60))
            made = next((both for both in seconds if both), None)
        if made:
            return made


def gsm8k_programs(data: Path, rows: Iterable[Program | str] = ()) -> list[Program]:
    """The problems of GSM8K from which new ones are drawn; `rows`: the file, where it has been lifted already. Raises
    UserError for a file that is missing or damaged.
    """
    found = rows or (program for _, program in load(data / "gsm8k_train.jsonl"))
    return [p for p in found if isinstance(p, Program) and _draws(p)]


def mawps_programs(data: Path) -> list[Program]:
    """Those of MAWPS, of all folds. Raises UserError for a file that is missing or damaged."""
    return [p for row in load_mawps(data / "mawps.jsonl.gz") if (p := tidied(row)) and _draws(p)]


def _draws(program: Program) -> bool:
    return not isinstance(rules_of(program), str)
