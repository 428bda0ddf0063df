"""A question answered step by step with the real tools: what is needed is searched, found, and said with its line.

The shortest path takes one search for each line. Detours are honest ones: a query that does not find the line, a
document opened that turns out to be another, a `find` without a match; each stays in view, and the next thought says
what it was. The thoughts speak only of what the calls have shown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from openk2.synth.search.questions import Gold, Line, Query, Solver, figure
from openk2.synth.search.wordings import ATTRIBUTE
from openk2.synth.trajectory import Record, Trajectory
from openk2.tools.formats import HIT_WIDTH
from openk2.tools.index import STOP_WORDS, Hit, words

_SHOWN = re.compile(r"^\[([^\]\s]+):(\d+)\] (.*)$", re.MULTILINE)
_VAGUE = 0.25  # chance that the first query is too short
_DETOUR = 0.4  # chance to open the first hit where the line is not among the hits
_QUERIES = 3  # made for one line before giving up
_FIND = {"year": "Year:", "cast": "Cast:", "genres": "Genres:", "director": "directed by", "born": "born"}
_ALSO = {  # how another line of the document may say the same; {} is the value
    "year": r"\bis an? {}\b", "director": "directed by {}", "with": r"(?i)\b(?:stars?|starring|cast|featur\w+)\b",
}  # fmt: skip


class Lost(Exception):
    """The line that is there was not found: the draw is dropped."""


class Missing(Exception):
    """What is looked for is not in the documents."""


class Walker:
    """One trajectory in the making."""

    def __init__(self, solver: Solver, question: str, rng: random.Random) -> None:
        self.solver, self.rng = solver, rng
        self.collection = solver.collection
        self.t = Trajectory(question, self.collection.index)
        self.note = ""  # what the last call has shown: the next thought begins with it
        self.shown: dict[Line, str] = {}  # lines as they were seen
        self.said: list[str] = []  # what was found, each with its lines
        self.cites: list[Line] = []
        self.detours = 0  # calls that did not lead on
        self._noted = 0  # calls made when the note was written

    def run(self, query: Query, gold: Gold) -> Record:
        """Raises Lost where the tools do not lead to the answer."""
        try:
            answer = self._answer(query, gold)
        except Missing as missing:
            found = f" What I found: {_sentences(self.said)}" if self.said else ""
            self._close("The documents do not tell it.", f"I could not find {missing} in the documents.{found}")
            return self._record("search-none", None)
        self._close("That answers it.", answer)
        return self._record("search", gold.value)

    def _record(self, kind: str, gold: str | None) -> Record:
        return self.t.record(kind, gold=gold, cites=[f"{id}:{line}" for id, line in self.cites], detours=self.detours)

    def _close(self, thought: str, answer: str) -> None:
        self.t.answer(f"{self.note} {thought}".strip(), answer)

    def _answer(self, query: Query, gold: Gold) -> str:
        operation, *parts = query
        if operation not in ("between", "earlier", "more"):
            self.resolve(query)
            return _sentences(self.said) if len(self.said) == 1 else f"{gold.value}: {_sentences(self.said)}"
        sides = [["attr", parts[0], side] for side in parts[1:]] if operation == "more" else parts
        found = [self.resolve(side) for side in sides]
        return self._compute(operation, found, gold)

    def _compute(self, operation: str, found: list[Gold], gold: Gold) -> str:
        figures = [_written(each.value) for each in found]
        if operation == "between":
            low, high = sorted(figures, key=int)
            result = self.t.call(f"{self.note} I subtract.", "calculator", expression=f"{high} - {low}")
            answer = f"{result} years: {_sentences(self.said)}"
        else:
            names = [each.entry.name if each.entry else "" for each in found]
            pick = "min" if operation == "earlier" else "max"
            pairs = ", ".join(f"{name!r}: {n}" for name, n in zip(names, figures, strict=True))
            code = f"d = {{{pairs}}}; print({pick}(d, key=d.get))"
            result = self.t.call(f"{self.note} I compare.", "python", code=code).strip()
            answer = f"{result}: {_sentences(self.said)}"
        if result != gold.value:
            raise Lost(f"computed {result}")
        self.note = f"The result is {result}."
        return answer

    # ---- one operation after the other

    def resolve(self, query: Query) -> Gold:
        """Find what a query says. Raises Missing and Lost."""
        operation, *parts = query
        if operation in ("film", "person", "country"):
            return self.solver.solve(query)
        if operation == "with":
            return self._with(query)
        if operation == "cell":
            return self._cell(query)
        if operation == "other":
            return self._other(query, self.resolve(["director", parts[0]]))
        self.resolve(parts[-1])
        gold = self.solver.solve(query)
        assert gold.entry
        name, value = gold.entry.name, gold.value
        relation = parts[0] if operation == "attr" else operation
        noun = "date of birth" if relation == "born" else relation
        line = self._find(f"the {noun} of {name}", gold, _queries(name, relation), relation)
        if operation == "attr" and (unit := ATTRIBUTE[relation].unit).strip() not in f"{relation} {value}":
            value += unit
        told = {
            "born": f"{name} was born on {value}", "director": f"{value} directed {name}",
            "year": f"{name} is from {value}", "cast": f"the cast of {name} is {value}",
            "genres": f"the genre{'s' * (', ' in value)} of {name}: {value}",
        }  # fmt: skip
        self._say(told.get(relation, f"the {relation} of {name}: {value}"), line)
        return gold

    def _with(self, query: Query) -> Gold:
        _, a, b = query
        gold = self.solver.solve(query)
        queries = [f"cast {a} {b}", f"film starring {a} and {b}", f"{a} {b}"]
        line = self._find(f"a film with {a} and {b}", gold, queries, "with", (a, b))
        self._say(f"{a} and {b} play in {gold.value}", line)
        return gold

    def _other(self, query: Query, film: Gold) -> Gold:
        """The other film of a director who is known by now: `film` holds the first one."""
        gold, director = self.solver.solve(query), film.value
        assert film.entry
        queries = [f"film directed by {director}", f"directed by {director}", director]
        what = f"another film directed by {director} than {film.entry.name}"
        line = self._find(what, gold, queries, "director", (director,))
        self._say(f"{director} also directed {gold.value}", line)
        return gold

    def _cell(self, query: Query) -> Gold:
        _, page, row, column = query
        gold = self.solver.solve(query)
        head, line = gold.lines
        self._find(f"{row} in {page}", gold, [f"{row} {page}", f"{page}: {row}", row], "", (row, gold.value))
        if column not in self.shown.get(head, ""):
            thought = f"The row of {row} is {_mark(line)}. I look at the headings of its columns."
            self._see(self.t.call(thought, "find", id=head[0], pattern=column))
            if column not in self.shown.get(head, ""):
                raise Lost("no headings")
        self._say(f"under {column}, {row} has {gold.value}", head, line)
        return gold

    # ---- one line

    def _find(self, what: str, gold: Gold, queries: list[str], relation: str, needles: Sequence[str] = ()) -> Line:
        """Get a line shown that gives what is wanted, and return it.

        Raises Missing where its document is absent, Lost where it is there and was not found.
        """
        line = gold.lines[-1]
        needles = needles or (gold.value,)
        absent = line[0] in self.collection.away

        def found() -> Line | None:
            return self._have(line, needles, relation)

        if place := found():
            return place
        if relation in _FIND and self.rng.random() < 0.6 and any(id == line[0] for id, _ in self.shown):
            self._look_inside(what, line, relation)
            if place := found():
                return place
            self.detours += 1
            self.note = f"“{_FIND[relation]}” does not show it."
        if self.rng.random() < _VAGUE:
            queries = [*_vague(self.rng, queries[0]), *queries]
        opening, opened = f"{self.note} I need {what}.".strip(), False
        for query in queries[: 2 if absent else _QUERIES]:
            hits = self.t.search(opening, query)
            self._see(self.t.messages[-1].content)
            if place := found():
                return place
            if any((h.id, h.line) == line for h in hits):
                thought = f"The line {_mark(line)} is cut. I open it."
                self._see(self.t.call(thought, "open", id=line[0], line=line[1]))
                if place := found():
                    return place
                raise Lost("the line is too long")
            self.detours += 1
            opening = f"No line here gives {what}. I search with other words."
            hit = next((h for h in hits if _may_have(h, gold, needles)), None)
            cut = next(
                (h for h in hits if relation == "with" and len(h.text) > HIT_WIDTH and h.text.startswith("Cast")), None
            )
            hit = cut or hit
            if hit and not opened and (cut or self.rng.random() < _DETOUR):
                opened = True
                self._see(self.t.call(f"I look whether {hit.title} has it.", "open", id=hit.id, line=hit.line))
                if place := found():
                    return place
                opening = f"These lines of {hit.title} do not give {what}. I search with other words."
        if not absent or self._told_elsewhere(gold):
            raise Lost(what)
        self.note = f"No line gives {what}."
        raise Missing(what)

    def _told_elsewhere(self, gold: Gold) -> bool:
        """Whether a text that is there names what the absent document is about, and the value too."""
        name = gold.entry.name if gold.entry else ""
        texts = self.collection.mentioning(name, gold.value)
        return any(e.id not in self.collection.away for e in texts)

    def _look_inside(self, what: str, line: Line, relation: str) -> None:
        """`find` in a document that was seen already."""
        thought = f"{self.note} I look for {what} in {line[0]}.".strip()
        self._see(self.t.call(thought, "find", id=line[0], pattern=_FIND[relation]))

    def _see(self, text: str) -> None:
        for id, number, line in _SHOWN.findall(text):
            key = (id, int(number))
            if len(line) >= len(self.shown.get(key, "")):
                self.shown[key] = line

    def _have(self, line: Line, needles: Sequence[str], relation: str) -> Line | None:
        """The line, if it was seen with the value in it; or another of its document that says the same."""
        if all(needle in self.shown.get(line, "") for needle in needles):
            return line
        if relation in _ALSO:
            form = re.compile(_ALSO[relation].format(re.escape(needles[0])))
            for place, text in self.shown.items():
                if place[0] == line[0] and form.search(text) and all(needle in text for needle in needles):
                    return place
        return None

    def _say(self, text: str, *lines: Line) -> None:
        self.said.append(f"{text} {' '.join(map(_mark, lines))}")
        self.cites += lines
        new = _sentences(self.said[-1:])
        self.note = f"{self.note} {new}" if self.t.calls == self._noted else new  # one result may give two lines
        self._noted = self.t.calls


def _may_have(hit: Hit, gold: Gold, needles: Sequence[str]) -> bool:
    """Whether one could think that the rest of this document has it: a title alike, or half of what is wanted."""
    name = gold.entry.name if gold.entry else ""
    alike = set(words(hit.title)) & set(words(name)) - STOP_WORDS
    return bool(alike) or any(needle in hit.text for needle in needles)


def _queries(name: str, relation: str) -> list[str]:
    """Searches for a fact of something, the best first."""
    return {
        "born": [f"{name} born", f"{name} biography", name],
        "director": [f"{name} directed by", f"{name} film directed", f"{name} is a film directed by"],
        "year": [f"{name} year", f"Year: {name}", name],
        "cast": [f"{name} cast", f"Cast: {name}", name],
        "genres": [f"{name} genres", f"Genres: {name}", name],
    }.get(relation, [f"the {relation} of {name}", f"{name} {relation}", relation])


def _mark(line: Line) -> str:
    return f"[{line[0]}:{line[1]}]"


def _written(value: str) -> str:
    """A figure as code: a date by its year."""
    number = figure(value)
    if number is None:
        raise Lost(f"{value} is no figure")
    return str(int(number)) if number.is_integer() else repr(number)


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{p[:1].upper()}{p[1:]}." for p in parts)


def _vague(rng: random.Random, query: str) -> list[str]:
    """A word or two of a query, what one types in haste; none where there is nothing to leave out."""
    told = [word.strip(":,") for word in query.split() if len(word) > 3]
    if len(told) < 2:
        return []
    start = rng.randrange(len(told))
    return [" ".join(told[start : start + rng.randint(1, 2)])]
