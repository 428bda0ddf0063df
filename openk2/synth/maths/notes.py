"""The sentences of a written solution, to be said again with other numbers: `{p0}/2 = {r0} clips in May`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from openk2.synth.maths.constants import TENS, WORDS

_FIGURE = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_COUNTS = re.compile(rf"\b(?:{'|'.join([*WORDS, *TENS])})s?\b", re.IGNORECASE)
_HOLE = re.compile(r"\{([^{}]+)\}")


def note_of(line: str, meanings: Sequence[tuple[float, str]], question: str) -> str:
    """A line of a solution with a hole for each of its numbers that changes; nothing where a number's meaning is not
    sure, or where a number is written as a word that the question does not have.

    meanings: what a number of this value may stand for (`p0`, `r1`, an expression of them, a constant).
    """
    known = question.lower()
    names = re.findall(r"(?<![.!?] )(?<!^)\b[A-Z][a-z]+|\b[A-Z][a-z]+(?='s)", line)
    if re.search(r"\b[B-HJ-Z]\b", f"{line} {question}") or any(name not in question for name in names):
        return ""  # letters are the names of results here, and somebody else's name is a slip
    line = line.replace("$$", "$")
    line = line if line.count('"') % 2 == 0 else line.replace('"', "")  # a slip of the file
    line = re.sub(r"\s+", " ", line).strip()
    if not re.match(r"[A-Z\d$(]", line) or "{" in line or any(w.lower() not in known for w in _COUNTS.findall(line)):
        return ""
    sure = True

    def hole(match: re.Match[str]) -> str:
        nonlocal sure
        value = float(match[0].replace(",", ""))
        forms = {form for number, form in meanings if number == value}
        if len(forms) != 1:
            sure = False
            return match[0]
        form = forms.pop()
        return "{" + form + "}" if re.search("[pr]", form) else match[0]

    note = _FIGURE.sub(hole, line)
    return note if sure else ""


def told(note: str, say: Callable[[str], str]) -> str:
    """The note with its holes filled by `say`."""
    return _HOLE.sub(lambda m: say(m[1]), note)
