"""When two answers say the same, and whether what a run has seen bears an answer out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from openk2.agent.sources import cited, without_marks
from openk2.agent.state import State
from openk2.agent.verify import SMALL, audit
from openk2.tools.index import STOP_WORDS, stem, words

FILLER = STOP_WORDS | set(
    "answer final so thus hence therefore about approximately roughly exactly result equals".split()
)
SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}

_FINAL = re.compile(r"^\W*(?:the )?(?:final )?answer(?: is)?\W*:\s*(\S.*)$", re.IGNORECASE | re.MULTILINE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FIGURE = re.compile(
    r"(?<![\w.])([-−]?\d[\d,_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)(?:\s+(thousand|million|billion|trillion)\b)?"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with half the unit of its last place: 148.1 is anything from 148.05 to 148.15."""

    value: float
    half: float

    def same(self, other: Figure) -> bool:
        return abs(self.value - other.value) <= max(self.half, other.half) * 1.0001


@dataclass(frozen=True, slots=True)
class Key:
    """What counts of an answer: its figures in order, and its words without those that say nothing or echo."""

    figures: tuple[Figure, ...]
    words: frozenset[str]

    def same(self, other: Key) -> bool:
        if self.words != other.words or len(self.figures) != len(other.figures):
            return False
        return all(mine.same(theirs) for mine, theirs in zip(self.figures, other.figures, strict=True))


def key(answer: str, question: str) -> Key:
    """The final answer of a text: what is boxed or follows `Answer:`, else all of it, without its citations."""
    text = without_marks(answer)
    if said := _BOXED.findall(text) or _FINAL.findall(text):
        text = said[-1]
    figures = tuple(_figure(*match.groups()) for match in _FIGURE.finditer(text))
    rest = _FIGURE.sub(" ", text)
    asked = {stem(word) for word in words(question)}
    kept = [word for word in re.findall(r"[^\W_]+", rest) if word.lower() not in FILLER]
    # A word of the question is an echo, unless it is a name: of those offered, the answer says which.
    own = [word for word in kept if stem(word.lower()) not in asked or not word.islower()]
    chosen = own if own or figures else kept
    return Key(figures, frozenset(stem(part) for word in chosen for part in words(word)))


def borne_out(answer: str, question: str, state: State) -> bool:
    """Whether outputs of the run's tools hold what the answer says: its lines and figures, else its words."""
    outputs = [result.content for result in state.results.values() if not result.is_error]
    if not outputs or audit(answer, state):
        return False
    what = key(answer, question)
    if cited(answer) or any(abs(figure.value) > SMALL for figure in what.figures):
        return True
    wanted = {*what.words, *(f"{figure.value:g}" for figure in what.figures)}
    return bool(wanted) and any(wanted <= {stem(word) for word in words(text)} for text in outputs)


@dataclass(frozen=True)
class Trajectory:
    """One path as it ended. `answer` is empty where it gave none; `reason` also "cancelled" or "error"."""

    number: int
    question: str
    reason: str
    answer: str
    state: State

    @property
    def whole(self) -> bool:
        """Whether it was given as the answer, at the end or on a last call; else it is what was said on the way."""
        last = self.state.last
        return bool(self.answer) and (self.reason == "stop" or (last is not None and last.purpose == "answer"))

    @cached_property
    def key(self) -> Key:
        return key(self.answer, self.question)

    @cached_property
    def sound(self) -> bool:
        """Whether its own outputs bear its answer out."""
        return borne_out(self.answer, self.question, self.state)


def groups(paths: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """The paths by what they answered, the largest group first; what was said on the way only where nobody answered."""
    answered = [path for path in paths if path.whole] or [path for path in paths if path.answer]
    found: list[list[Trajectory]] = []
    for path in answered:
        for group in found:
            if group[0].key.same(path.key):
                group.append(path)
                break
        else:
            found.append([path])
    return sorted(found, key=lambda group: (-len(group), group[0].number))


def agreement(paths: Sequence[Trajectory], of: int, needed: int | None = None) -> list[Trajectory]:
    """The paths that settle the question: `needed` of all `of`, at least one of them borne out by its tools.

    None is three quarters, 0 never. Empty before three have ended, and where a path that is borne out says something
    else: easy answers come first, and who has seen more may be among the last.
    """
    least = min(3, of)
    needed = math.ceil(0.75 * of) if needed is None else needed
    if not needed or len(paths) < least or not (found := groups(paths)):
        return []
    most, others = found[0], [path for group in found[1:] for path in group]
    if len(most) < max(least, needed) or not any(path.sound for path in most):
        return []
    return [] if any(path.sound for path in others) else most


def _figure(text: str, scale: str | None) -> Figure:
    plain = re.sub(r"[,_]", "", text).replace("−", "-")
    mantissa, _, power = plain.lower().partition("e")
    unit = float(f"1e{int(power or 0) - len(mantissa.partition('.')[2])}") * SCALES.get(scale or "", 1.0)
    return Figure(float(plain) * SCALES.get(scale or "", 1.0), 0.5 * unit if "." in mantissa else 0.0)
