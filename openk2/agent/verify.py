"""An answer is looked at before it goes out: does it rest on what the tools showed, and what would disprove it?

The audit is a program: every line that the answer cites must have been shown in this run, and every figure that is more
than a small count must stand in an output or in the question. What it finds goes back to the model, at most
`Habits.revisions` times. The doubt is the model's own: one message, once an answer.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left

from openk2.agent.entries import handle, lines
from openk2.agent.events import Checked, ToolFinished
from openk2.agent.sources import cited, shown_lines
from openk2.agent.state import State

SMALL = 10  # whole numbers up to it need no source: counts, list numbers
NAMED = 6  # findings that one message names

DOUBT = """\
Before this answer goes out, doubt it: what single observation would show that it is wrong? If a tool can make that \
observation, make it now. Then write the whole answer again, corrected where it has to be."""

_FIGURE = re.compile(r"(?<![\w.])[-−]?\d[\d,_ \u202f]*(?:\.\d+)?(?:[eE][+-]?\d+)?")
_MARK = re.compile(r"\[[^\[\]\n]*?\w:\d[^\[\]\n]*\]")


def next_check(state: State) -> Checked | None:
    """What is to be said of the answer that stands; None: it may go out. A check that is `ok` is only for the log."""
    answer = state.answered
    if answer is None or answer.purpose != "step" or not state.habits.revisions:
        return None
    mine = [check for check in state.checks if check.seq > state.turn]
    if any(check.seq > answer.seq for check in mine) or not _worked(state):
        return None
    sent_back = sum(not check.ok for check in mine)
    if sent_back >= state.habits.revisions:
        return None
    found = audit(answer.message.content, state)
    if found:
        named = "\n".join(f"- {item}" for item in found[:NAMED])
        text = (
            "Before this answer goes out: these parts of it do not rest on anything that a tool showed in this run.\n"
            f"{named}\nLook them up or compute them, leave them out, or call them a guess. Then write the whole answer "
            "again."
        )
        return Checked(kind="audit", ok=False, text=text)
    if state.habits.doubt and not any(check.kind == "doubt" for check in mine):
        return Checked(kind="doubt", ok=False, text=DOUBT)
    return Checked(kind="audit", ok=True)


def audit(answer: str, state: State) -> list[str]:
    """The parts of an answer that no output of this run bears out, each as a sentence."""
    results = list(state.results.values())
    shown = shown_lines(results)
    found = [
        f"[{id}:{line}] is cited, but no tool has shown this line."
        for id, line in cited(answer)
        if (id, line) not in shown and not _own_output(id, line, results)
    ]
    known = _figures_known(state, results)
    for text in dict.fromkeys(_FIGURE.findall(_MARK.sub(" ", answer))):
        value = _number(text)
        if value is None or (value == int(value) and abs(value) <= SMALL) or _known(value, text, known):
            continue
        found.append(f"The figure {text.strip()} stands in no output and not in the question.")
    return found


def _worked(state: State) -> bool:
    """Whether the answer came out of work with tools: a greeting is not audited."""
    return any(result.seq > state.turn and not result.is_error for result in state.results.values())


def _own_output(id: str, line: int, results: list[ToolFinished]) -> bool:
    return any(handle(result) == id and line <= len(lines(result.content)) for result in results)


def _figures_known(state: State, results: list[ToolFinished]) -> list[float]:
    """The figures, in their order, that the person or a tool has said; what code computes stands in its output."""
    texts = [entry.message.content for entry in state.everything() if entry.message.role in ("user", "system")]
    texts += [result.content for result in results if not result.is_error]
    return sorted({value for text in texts for found in _FIGURE.findall(text) if (value := _number(found)) is not None})


def _known(value: float, text: str, known: list[float]) -> bool:
    """Said as it is, or rounded to the places that the answer shows, as per cent, or as thousands or millions."""
    places = len(text.partition(".")[2].strip()) if "." in text else 0
    half = 0.5 * 10.0**-places
    if not places and value:  # 1,280,000 for 1,284,000: zeros at the end round as well
        digits = text.strip().replace(",", "").replace("_", "")
        half = 0.5 * 10.0 ** (len(digits) - len(digits.rstrip("0")))
    scales = (1, 1e3, 1e6, 1e9, 1e-3, 1e-6, 1e-9, 0.01)
    for scale in scales:
        near, about = value * scale, half * scale * 1.0001
        place = bisect_left(known, near - about)
        if place < len(known) and known[place] <= near + about:
            return True
    return False


def _number(text: str) -> float | None:
    try:
        value = float(re.sub(r"[,_\s]", "", text).replace("−", "-"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


