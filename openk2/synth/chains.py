"""Chains of 5-60 dependent calls: each call needs the result of the one before."""

from __future__ import annotations

import random

from openk2.synth.names import Pieces, word
from openk2.synth.trajectory import Record, Trajectory
from openk2.tools.index import Document, Index, slug

OPENINGS = (
    "Start with {x}. Do these steps one by one with the calculator.",
    "Begin with {x} and do each step with the calculator.", "Take {x}. Use the calculator for every step.",
    "Start at {x}. Then, one call per step:", "The first number is {x}. Apply these steps in order, one call each.",
    "Start from {x} and follow the steps.", "Let the value be {x}. Work through all steps, one calculator call each.",
    "Initial value {x}. Carry out the steps in order.",
)  # fmt: skip
CLOSINGS = (
    "What is the final value?", "What do you get?", "What is the result?", "Tell me the last result.",
    "Which number comes out?", "What is the value at the end?", "Report the final number.",
)  # fmt: skip
FOLLOW = (
    "Start at the note [{s}] and follow its Next line from note to note. What is the code in the last note?",
    "Open the note [{s}], follow every Next line, and tell me the code at the end.",
    "The note [{s}] is the first of a chain. Follow the Next lines to the last note. What code does it hold?",
    "Follow the chain of notes that begins at [{s}]. Which code stands in the last one?",
)


def plain(value: int) -> str:
    """As people write it: 12,345."""
    return f"{value:,}"


def code(value: int) -> str:
    """As an expression has it: 12_345."""
    return f"{value:_}"


def length_of(rng: random.Random) -> int:
    """5-60 calls, most of them short: long chains cost tokens and teach the same step again."""
    return rng.choices((rng.randint(5, 12), rng.randint(13, 30), rng.randint(31, 60)), (6, 3, 1))[0]


def _step(rng: random.Random, value: int) -> tuple[str, str, int]:
    """(wording, operator and operand, new value); values stay between 1 and ten million."""
    choices = ["add", "subtract"]
    if value < 100_000:
        choices += ["multiply", "multiply"]
    divisors = [d for d in (2, 3, 4, 5, 6, 8, 10) if value % d == 0 and value // d > 1]
    if divisors and value > 50:
        choices += ["divide", "divide"] if value > 10_000 else ["divide"]
    if value > 9_000_000:
        choices = ["subtract"]
    kind = rng.choice(choices)
    if kind == "add":
        n = rng.randint(2, rng.choice((9, 99, 999, 9999)))
        return f"add {plain(n)}", f"+ {code(n)}", value + n
    if kind == "subtract":
        if value < 3:
            return "add 7", "+ 7", value + 7
        n = rng.randint(1, max(1, min(value - 1, rng.choice((9, 99, 999, 9999)))))
        return f"subtract {plain(n)}", f"- {code(n)}", value - n
    if kind == "multiply":
        n = rng.randint(2, 12)
        return f"multiply by {n}", f"* {n}", value * n
    n = rng.choice(divisors)
    return f"divide by {n}", f"/ {n}", value // n


def arithmetic_chain(rng: random.Random, length: int) -> Record:
    """`length` calculator calls, each on the result of the one before."""
    value = rng.randint(2, 999)
    start, steps = value, []
    for _ in range(length):
        wording, operation, value = _step(rng, value)
        steps.append((wording, operation))
    text = " ".join(f"Step {i}: {wording}." for i, (wording, _) in enumerate(steps, 1))
    t = Trajectory(f"{rng.choice(OPENINGS).format(x=plain(start))} {text} {rng.choice(CLOSINGS)}")
    current = code(start)
    for i, (wording, operation) in enumerate(steps, 1):
        end = " It is the last." if i == length else ""
        result = t.call(f"Step {i}: {wording}.{end}", "calculator", expression=f"{current} {operation}")
        current = result.replace(",", "_")
    t.answer("That was the last step.", f"The result is {plain(value)}.")
    return t.record("chain", gold=plain(value), calls=length)


def _titles(rng: random.Random, pieces: Pieces, count: int) -> list[str]:
    """Different titles that are their own ids."""
    titles: list[str] = []
    while len(titles) < count:
        title = word(rng, pieces).lower() if rng.random() < 0.6 else f"{word(rng, pieces).lower()}-{rng.randint(1, 99)}"
        if slug(title, 30) == title and title not in titles:
            titles.append(title)
    return titles


def note_chain(rng: random.Random, pieces: Pieces, length: int) -> Record:
    """Notes that name the next note; one open call each. Two further notes hold wrong codes."""
    titles = _titles(rng, pieces, length + 2)
    secret = " ".join(str(rng.randint(100, 999)) for _ in range(2)) if rng.random() < 0.5 else word(rng, pieces).upper()
    documents: list[Document] = []
    for i, title in enumerate(titles[:length]):
        last = i + 1 == length
        body = f"Code: {secret}" if last else f"Next: [{titles[i + 1]}]"
        filler = [f"Note about {word(rng, pieces)}."] if rng.random() < 0.4 else []
        documents.append(Document(title, title, (title, *filler, body)))
    documents += [Document(t, t, (t, f"Code: {rng.randint(100, 999)}")) for t in titles[length:]]
    t = Trajectory(rng.choice(FOLLOW).format(s=titles[0]), Index.memory(documents))
    reason = f"I open [{titles[0]}]."
    for i, title in enumerate(titles[:length]):
        t.call(reason, "open", id=title)
        reason = f"Next is [{titles[i + 1]}]." if i + 1 < length else "This is the last note."
    last_line = len(documents[length - 1].lines)
    t.answer(reason, f"The code is {secret} [{titles[length - 1]}:{last_line}]")
    return t.record("notes", gold=secret, calls=length)
