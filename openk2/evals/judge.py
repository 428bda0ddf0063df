"""Judge an answer by program: right, wrong (stated as sure), or abstained; and whether it cites the right lines."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from openk2.evals.suites import Task

ABSTAINED = re.compile(r"could not find|outside my reach|larger model|do not know|cannot answer", re.IGNORECASE)
CITATION = re.compile(r"\[([^\[\]\s]+:\d+)\]")
NUMBER = re.compile(r"-?\d[\d,_]*(?:\.\d+)?(?:e[+-]?\d+)?")

Verdict = Literal["right", "wrong", "abstained"]


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    cited: bool  # every gold line is cited


def judge(task: Task, answer: str) -> Judgement:
    """`abstain` tasks are right when the answer says so; elsewhere saying so is `abstained`, neither right nor wrong."""
    abstained = ABSTAINED.search(answer) is not None
    if task.kind == "abstain":
        return Judgement("right" if abstained else "wrong", True)
    cited = set(task.cites) <= set(CITATION.findall(answer))
    if abstained or not answer.strip():
        return Judgement("abstained", cited)
    text = CITATION.sub("", answer)
    return Judgement("right" if _matches(task, text) else "wrong", cited)


def _matches(task: Task, text: str) -> bool:
    if task.kind == "name":
        first = min(((text.find(n), -len(n), n) for n in (task.gold, *task.others) if n in text), default=(0, 0, ""))
        return first[2] == task.gold
    if task.kind == "text":
        return _plain(task.gold) in _plain(text)
    gold = _number(task.gold)
    found = [_number(m) for m in NUMBER.findall(text)]
    return bool(found) and gold is not None and any(v is not None and math.isclose(v, gold, rel_tol=1e-6, abs_tol=1e-9) for v in found[-1:])


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
