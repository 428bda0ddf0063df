"""Word problems in the two forms that the embedded model is trained on: MAWPS by one call of the calculator, GSM8K by
one line of Python.
"""

from __future__ import annotations

import random
import re

from openk2.synth.maths.draw import drawn
from openk2.synth.maths.problems import filled, reasons
from openk2.synth.maths.program import Program, show
from openk2.synth.maths.words import other_things, renamed
from openk2.synth.trajectory import Record, Trajectory

MOST_STEPS = 4
MOST_CHARS = 420  # of the question
_LETTERS = "abcdefgh"  # one variable a step


def is_short(program: Program) -> bool:
    """Whether the embedded model can be asked this."""
    return program.answer < MOST_STEPS and len(program.text) <= MOST_CHARS


def mawps_problem(rng: random.Random, program: Program, fresh: bool = True) -> Record | None:
    """One problem with new numbers, names and things (`fresh`) or as it is. None where no draw makes sense."""
    found = drawn(rng, program) if fresh else (program.numbers, program.results)
    if found is None:
        return None
    numbers, results = found
    text = other_things(rng, renamed(rng, program.text)) if fresh else program.text
    t = Trajectory(filled(program, text, numbers) if fresh else _fill(text, r"\{(\d+)\}", numbers, ","))
    expression = _fill(program.steps[0], r"\bp(\d+)", numbers, "_")
    if results[0] != int(results[0]):
        expression = f"round({expression}, 2)"
    result = t.call(reasons(program), "calculator", expression=expression)
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("mawps", gold=result, expression=expression, fold=program.fold)


def gsm8k_problem(rng: random.Random, program: Program) -> Record | None:
    """One problem of few steps with new numbers, names and things. None where no draw of numbers makes sense."""
    found = drawn(rng, program)
    if found is None:
        return None
    numbers, results = found
    steps = program.steps[: program.answer + 1]
    lines = [
        f"{letter} = " + re.sub(r"\br(\d+)", lambda m: _LETTERS[int(m[1])], _fill(step, r"\bp(\d+)", numbers, "_"))
        for letter, step in zip(_LETTERS, steps, strict=False)
    ]
    final = lines[-1][0]
    shown = f"print(f'{{{final}:,g}}')" if results[program.answer] < 1e6 else f"print(f'{{{final}:,.0f}}')"
    t = Trajectory(filled(program, other_things(rng, renamed(rng, program.text)), numbers))
    plan = "One step." if len(lines) == 1 else f"{len(lines)} steps, one after the other."
    result = t.call(plan, "python", code="; ".join([*lines, shown]))
    t.answer("That is the answer.", f"The answer is {result}.")
    return t.record("gsm8k", gold=result, steps=len(lines))


def _fill(text: str, hole: str, numbers: tuple[float, ...], grouped: str) -> str:
    return re.sub(hole, lambda m: show(numbers[int(m[1])], grouped), text)
