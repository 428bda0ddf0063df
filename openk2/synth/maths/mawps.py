"""MAWPS word problems (Koncel-Kedziorski et al., 2016) as programs: one step, which the file gives in prefix form.

Equal numbers share a slot, as in GSM8K: the file's equations name the first of them, whichever is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from openk2.synth.maths.program import Program, solve
from openk2.synth.rows import read_rows
from openk2.tools.base import ToolError

_BROKEN = re.compile(
    r"\b(?:is|are|does)\?$|how much cups|^There school|seats on each school bus|each additional", re.IGNORECASE
)
_UNITS = frozenset("day dollar gallon mile hour pound cup quart pint liter meter yard minute week month".split())


def load_mawps(path: Path) -> list[Program]:
    """The problems whose equation uses only numbers that the question states. Raises UserError as `read_rows`."""
    return [program for number, row in enumerate(read_rows(path)) if (program := _read(row, number))]


def _read(row: dict[str, Any], source: int) -> Program | None:
    values = [float(n) for n in row["Numbers"].split()]
    question = detokenize(row["Question"])
    slots = {int(m) for m in re.findall(r"number(\d+)", question)}
    used = {int(m) for m in re.findall(r"number(\d+)", row["Equation"])}
    if not (used <= slots <= set(range(len(values)))):
        return None
    numbers = list(dict.fromkeys(values))
    slot = [numbers.index(value) for value in values]
    text = re.sub(r"number(\d+)", lambda m: "{" + str(slot[int(m[1])]) + "}", question)
    step = re.sub(r"number(\d+)", lambda m: f"p{slot[int(m[1])]}", infix(iter(row["Equation"].split())))
    step = re.sub(r"(\d)\.0\b", r"\1", step)
    try:
        results = solve([step], numbers)
    except ToolError:  # a division by zero
        return None
    percents = tuple(re.search(rf"\{{{i}\}} ?(?:%|percent)", text) is not None for i in range(len(numbers)))
    return Program(text, tuple(numbers), percents, (step,), tuple(results), 0, source, fold=int(row["fold"]))


def tidied(program: Program) -> Program | None:
    """A problem to draw anew: without the marks of the tokens; None where a number has no part in the solution (the
    file's equation may have forgotten it) or is no decimal of two places, or where the text is broken.
    """
    if not all(map(program.uses, range(len(program.numbers)))) or any(n != round(n, 2) for n in program.numbers):
        return None
    if _BROKEN.search(program.text):
        return None
    text = re.sub(r"\s*[’'`]\s*(s|t|ve|re|ll|d)\b", r"'\1", program.text)
    text = re.sub(
        r"\{(\d+)\} ([a-z]+)(?= (?:of|in|a|per|each|for|to|at|on|\w+ing)\b|[.,?])", partial(_plural, program), text
    )
    text = re.sub(r"(\w) n't\b", r"\1n't", text)
    text = re.sub(r"(?<=\w) - (?=\w)", "-", text).replace("( ", "(").replace(" )", ")")
    return replace(program, text=text)


def _plural(program: Program, match: re.Match[str]) -> str:
    """`4 doughnut in each box` of a text that has doughnuts elsewhere: the slip is mended."""
    word = match[2]
    slip = program.numbers[int(match[1])] > 1 and (word in _UNITS or re.search(rf"\b{word}s\b", program.text))
    return f"{match[0]}s" if slip and not word.endswith("s") else match[0]


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
