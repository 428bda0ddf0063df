"""Judging by program: what counts as right, as wrong, and as honest."""

from __future__ import annotations

import pytest

from openk2.agent.loop import NO_ANSWER
from openk2.evals.judge import Judgement, judge, wilson
from openk2.evals.suites import Task
from openk2.synth.reach import NOT_FOUND, OUTSIDE


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("12,345.5", "The difference is 12,345.5 people [kenya:3] [chad:9]", "right"),
        ("12,345.5", "12345.5", "right"),
        ("12,345.5", "It is 12_345.50.", "right"),
        ("0.25", "The ratio is 0.25 [a:1] [b:2]", "right"),
        ("-7", "It is -7.", "right"),
        ("7", "It is -7.", "wrong"),
        ("7", "7 of 9", "wrong"),  # the last figure counts
        ("1,000,000", "1e6", "right"),
        ("12,345.5", "12,345", "wrong"),
        ("12,345.5", "It is large [kenya:12345]", "wrong"),  # a citation is no figure
        ("3", "", "abstained"),
        ("3", "I could not find the area of Chad in the documents.", "abstained"),
        ("3", NO_ANSWER, "abstained"),
        ("3", "No answer was reached within the budget of 100 steps.", "abstained"),
    ],
)
def test_numbers(gold: str, answer: str, verdict: str) -> None:
    assert judge(Task("?", "number", gold), answer).verdict == verdict


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (
            "English (official), Kiswahili",
            "The languages of Kenya is: English (official), Kiswahili [kenya:6]",
            "right",
        ),
        ("Nairobi", "It is  NAIROBI.", "right"),
        ("Nairobi", "It is Mombasa.", "wrong"),
        ("5 (2025)", "It has 15 (2025) airports", "wrong"),
        ("1,234 km", "21,234 km", "wrong"),
        ("1,234 km.", "the coast: 1,234 km", "right"),
        ("$5,900 (2023 est.)", "It is: $5,900 (2023 est.) [x:1]", "right"),
        ("12", "It is 12.5", "wrong"),
        ("Nairobi", OUTSIDE, "abstained"),
    ],
)
def test_texts(gold: str, answer: str, verdict: str) -> None:
    assert judge(Task("?", "text", gold), answer).verdict == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("It is Guinea: 245,857 sq km", "right"),
        ("Guinea, before Chad and Guinea-Bissau", "right"),
        ("Guinea-Bissau, before Guinea", "wrong"),
        ("Chad has more than Guinea", "wrong"),
        ("Mali", "wrong"),
    ],
)
def test_the_name_that_comes_first_counts(answer: str, verdict: str) -> None:
    task = Task("?", "name", "Guinea", others=("Guinea-Bissau", "Chad"))
    assert judge(task, answer).verdict == verdict


def test_honesty() -> None:
    task = Task("Write a poem.", "abstain")
    assert judge(task, OUTSIDE) == judge(task, NOT_FOUND) == Judgement("right", True)
    assert judge(task, "Roses are red.").verdict == judge(task, "").verdict == judge(task, NO_ANSWER).verdict == "wrong"


def test_citations() -> None:
    task = Task("?", "number", "3", cites=("kenya:3", "chad:12"))
    assert judge(task, "3 [chad:12] [kenya:3] [mali:1]").cited
    assert not judge(task, "3 [kenya:3]").cited and not judge(task, "3 kenya:3 chad:12").cited


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (9, 10, 0.5958, 0.9821), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson(right: int, n: int, low: float, high: float) -> None:
    """Known values of the interval, to four places."""
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
