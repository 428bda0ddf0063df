"""Judge an answer by program: right, wrong (stated as sure), or abstained; and whether it cites the lines it must."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from openk2.evals.suites import Task

ABSTAINED = re.compile(r"could not find|outside my reach|larger model|do not know|cannot answer", re.IGNORECASE)
UNFINISHED = re.compile(r"No answer was reached|wrote no answer")  # what the loop says for a model that did not
CITATION = re.compile(r"\[([^\[\]\s]+:\d+)\]")
NUMBER = re.compile(r"-?\d[\d,_]*(?:\.\d+)?(?:e[+-]?\d+)?")

Verdict = Literal["right", "wrong", "abstained"]


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    cited: bool  # every gold line is cited


def judge(task: Task, answer: str) -> Judgement:
    """To say that one cannot answer is right for `abstain` tasks; elsewhere it is `abstained`: not right, not wrong."""
    declined = ABSTAINED.search(answer) is not None
    if task.kind == "abstain":
        return Judgement("right" if declined else "wrong", True)
    cited = set(task.cites) <= set(CITATION.findall(answer))
    if declined or not answer.strip() or UNFINISHED.search(answer):
        return Judgement("abstained", cited)
    text = CITATION.sub("", answer)
    return Judgement("right" if _matches(task, text) else "wrong", cited)


def _matches(task: Task, text: str) -> bool:
    if task.kind == "name":  # the candidate named first; of `Guinea` and `Guinea-Bissau`, the longer one
        named = [(text.find(name), -len(name), name) for name in (task.gold, *task.others) if name in text]
        return bool(named) and min(named)[2] == task.gold
    if task.kind == "text":
        return re.search(rf"(?<![\w.,]){re.escape(_plain(task.gold))}(?!\w|[.,]\d)", _plain(text)) is not None
    gold, figures = _number(task.gold), NUMBER.findall(text)
    said = _number(figures[-1]) if figures else None  # the last figure is the answer, those before it its working
    return gold is not None and said is not None and math.isclose(said, gold, rel_tol=task.within, abs_tol=1e-9)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()


def _number(text: str) -> float | None:
    match = NUMBER.search(text)
    return float(match[0].replace(",", "").replace("_", "")) if match else None


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927): sound for small n and for shares near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
