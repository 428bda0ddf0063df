"""Bare sums: the expression is what the question means, whatever its wording."""

from __future__ import annotations

import json
import math
import random
import re
from itertools import islice
from typing import Any

import pytest

from openk2.synth import make
from openk2.synth.make import Maker
from openk2.synth.names import Pieces
from openk2.synth.newcomer import ASKED
from openk2.synth.sources import Sources
from openk2.synth.sums import FORMS, NOUN_FRAMES, ORDER_FRAMES, QUESTIONS, bare_sum, in_words
from openk2.tools.calculator import evaluate

NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


def made(count: int, seed: int = 0, held: bool = False) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [record for record in (bare_sum(rng, held) for _ in range(count)) if record]


RECORDS = [*made(5000), *made(3000, held=True)]


def number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize(
    ("wording", "value"),
    [
        (rf"({NUMBER}) plus ({NUMBER})(?! ?%| percent|[^ ]*[.\d])", lambda a, b: a + b),
        (rf"({NUMBER}) times ({NUMBER})", lambda a, b: a * b),
        (rf"({NUMBER}) divided by ({NUMBER})(?=\W*$)", lambda a, b: a / b),
        (rf"^({NUMBER}) percent of ({NUMBER})", lambda p, b: p * b / 100),
        (rf"({NUMBER})% off ({NUMBER})", lambda p, b: b - p * b / 100),
        (rf"[Ii]ncrease ({NUMBER}) by ({NUMBER})%", lambda b, p: b + p * b / 100),
        (r"([\d.,]+) is what percent of ([\d.,]+)\?", lambda a, b: round(100 * a / b, 2)),
        (rf"[Ss]ubtract ({NUMBER}) from ({NUMBER})", lambda b, a: a - b),
        (rf"quare root of ({NUMBER})(?=\W*$)", math.sqrt),
    ],
)  # fmt: skip
def test_what_words_mean(wording: str, value: Any) -> None:
    """Read back from the question alone, by a reader of its own."""
    seen = 0
    for record in RECORDS:
        question = record["messages"][1]["content"]
        found = re.findall(wording, question)
        if len(found) == 1 and not re.search(r"remainder|modulo|average|mean", question):
            operands = [found[0]] if isinstance(found[0], str) else found[0]
            wanted = value(*map(number, operands))
            assert math.isclose(number(record["proof"]["gold"]), wanted, rel_tol=1e-3, abs_tol=1e-4), question
            seen += 1
    assert seen >= 5


def test_the_calculator_is_given_what_the_answer_says() -> None:
    for record in made(500, 1):
        call = record["messages"][2]["tool_calls"][0]["function"]
        result = evaluate(json.loads(call["arguments"])["expression"])
        assert math.isclose(result, number(record["proof"]["gold"]), rel_tol=1e-9)
        assert f"The answer is {record['proof']['gold']}" in record["messages"][-1]["content"]


def test_numbers_of_the_expression_are_those_of_the_question() -> None:
    constants = {"1", "2", "3", "4", "5", "6", "10", "100"}  # of the formulas
    for record in made(1500, 2):
        question = record["messages"][1]["content"].lower()
        for figure in re.findall(r"\d[\d_]*(?:\.\d+)?", record["proof"]["expression"]):
            plain = figure.replace("_", "")
            in_text = plain in question.replace(",", "")
            assert in_text or figure in constants or in_words(int(plain)) in question, (question, figure)


def test_held_out_wordings_are_others() -> None:
    def wordings(held: bool) -> set[str]:
        return {re.sub(NUMBER, "#", r["messages"][1]["content"].casefold()) for r in made(3000, 3, held)}

    trained, held = wordings(False), wordings(True)
    assert len(held) > 300 and len(held & trained) < 0.25 * len(held)  # `# + #` and the like are on both sides


def test_every_wording_can_be_filled() -> None:
    """No placeholder is left over, and none is missing from the expression's side."""
    for record in [*made(4000, 4), *made(2000, 5, True)]:
        assert not re.search(r"[{}]", record["messages"][1]["content"] + record["proof"]["expression"])
    frames = NOUN_FRAMES + ORDER_FRAMES
    assert all(frame.count("{x}") == 1 for frame in frames)
    slots = [set(re.findall(r"\{(\w)\}", w)) for f in FORMS + QUESTIONS for w in (*f.nouns, *f.orders)]
    assert all(slots)


@pytest.mark.parametrize(("value", "words"), [(0, "zero"), (13, "thirteen"), (20, "twenty"), (42, "forty-two")])
def test_in_words(value: int, words: str) -> None:
    assert in_words(value) == words


def test_what_newcomers_are_measured_with_is_in_no_training(
    sources: Sources, pieces: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> set[str]:
        records = islice(Maker(sources, pieces, 6, {"sum": 4.0, "short": 1.0}), 100)
        return {record["messages"][1]["content"].casefold() for record in records}

    assert {"12 + 30", "capital of peru?", "is canada bigger than brazil?"} <= ASKED
    before = asked()
    monkeypatch.setattr(make, "ASKED", frozenset(before))
    assert len(before) > 80 and not asked() & before
