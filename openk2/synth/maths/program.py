"""A word problem as a program in its numbers, and what is held out of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openk2.synth.heldout import MAWPS_FOLD, held_out
from openk2.tools.calculator import evaluate


@dataclass(frozen=True)
class Program:
    """`text` has {0}, {1}, ... for the numbers; `steps` are expressions over p0, p1, ... (numbers of the question) and
    r0, r1, ... (results of earlier steps); `answer` is the step whose result is asked for.

    `notes` say steps in words: a sentence with {p0}, {r1} or {an expression} for its numbers, and the steps it covers.
    """

    text: str
    numbers: tuple[float, ...]
    percents: tuple[bool, ...]  # whether a number is a percentage
    steps: tuple[str, ...]
    results: tuple[float, ...]
    answer: int
    source: int  # row of the file
    pinned: frozenset[int] = frozenset()  # numbers that a step may mean or something else of the same value: they stay
    notes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    fold: int | None = None  # of MAWPS; None: GSM8K

    def skeleton(self) -> str:
        """The program without its text: equal for problems that are solved alike."""
        return ";".join(self.steps).replace(" ", "")

    def uses(self, number: int) -> bool:
        """Whether a step has this number of the question."""
        return any(re.search(rf"\bp{number}\b", step) for step in self.steps)


def trained_on(program: Program) -> bool:
    """A tenth of the skeletons is held out, so that how a problem is solved, not only its words, is new in the test;
    and fold 0 of MAWPS.
    """
    return program.fold != MAWPS_FOLD and not held_out("maths skeleton", program.skeleton(), 10)


def solve(steps: Sequence[str], numbers: Sequence[float]) -> list[float]:
    """The result of every step. Raises ToolError, as for a division by zero."""
    known = {f"p{i}": number for i, number in enumerate(numbers)}
    values: list[float] = []
    for i, step in enumerate(steps):
        values.append(round(evaluate(re.sub(r"[pr]\d+", lambda m: f"({known[m[0]]!r})", step)), 9))
        known[f"r{i}"] = values[-1]
    return values


def show(value: float, grouped: str) -> str:
    """12000.0 -> `12,000` (`grouped` is "," for people) or `12_000` ("_" for code), 0.25 -> `0.25`."""
    if value == int(value):
        return f"{int(value):{grouped}}" if abs(value) >= 1000 else str(int(value))
    return repr(round(value, 4))
