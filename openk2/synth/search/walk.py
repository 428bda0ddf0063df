"""A question answered step by step with the real tools: what is needed is searched, found, and said with its line.

The shortest path takes one search for each line. Detours are honest ones: a query that does not find the line, a
document opened that turns out to be another, a `find` without a match; each stays in view, and the next thought says
what it was. The thoughts speak only of what the calls have shown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from openk2.synth.search.facts import Entry
from openk2.synth.search.questions import Gold, Line, Query, Solver, figure
from openk2.synth.trajectory import Record, Trajectory
from openk2.tools.index import Hit

_SHOWN = re.compile(r"^\[([^\]\s]+):(\d+)\] (.*)$", re.MULTILINE)
_VAGUE = 0.15  # chance that the first query is too short
_DETOUR = 0.4  # chance to open the first hit where the line is not among the hits
_QUERIES = 3  # made for one line before giving up
_FIND = {"year": "Year:", "cast": "Cast:", "genres": "Genres:", "director": "directed by", "born": "born"}


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

    def run(self, query: Query, gold: Gold) -> Record:
        """Raises Lost where the tools do not lead to the answer."""
        try:
            answer = self._answer(query, gold)
        except Missing as missing:
            found = f" What I found: {_sentences(self.said)}" if self.said else ""
            self._close("The documents do not tell it.", f"I could not find {missing} in the documents.{found}")
            return self.t.record("search-none", gold=None)
        self._close("That answers it.", answer)
        return self.t.record("search", gold=gold.value)

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
        match operation:
            case "film" | "person" | "country" | "page":
                return self.solver.solve(query)
            case "with":
                return self._with(query)
            case "cell":
                return self._cell(query)
            case "other":
                film = self.resolve(["director", parts[0]])
                assert film.entry
                return self._other(query, film.entry, film.value)
        self.resolve(parts[-1])
        gold = self.solver.solve(query)
        assert gold.entry
        name, relation = gold.entry.name, parts[0] if operation == "attr" else operation
        what = {
            "born": f"the date of birth of {name}", "director": f"the director of {name}", "year": f"the year of {name}",
            "cast": f"the cast of {name}", "genres": f"the genres of {name}",
        }.get(relation, f"the {relation} of {name}")  # fmt: skip
        queries = {
            "born": [f"{name} born", f"{name} biography", name],
            "director": [f"{name} directed by", f"{name} film directed", f"{name} is a film directed by"],
            "year": [f"{name} year", f"Year: {name}", name],
            "cast": [f"{name} cast", f"Cast: {name}", name],
            "genres": [f"{name} genres", f"Genres: {name}", name],
        }.get(relation, [f"the {relation} of {name}", f"{name} {relation}", relation])  # fmt: skip
        self._find(what, gold, queries, relation)
        mark = _mark(gold.lines[-1])
        told = {
            "born": f"{name} was born on {gold.value}", "director": f"{gold.value} directed {name}",
            "year": f"{name} is from {gold.value}", "cast": f"the cast of {name} is {gold.value}",
            "genres": f"the genres of {name} are {gold.value}",
        }.get(relation, f"the {relation} of {name} is {gold.value}")  # fmt: skip
        if relation == "genres" and ", " not in gold.value:
            told = f"the genre of {name} is {gold.value}"
        self._say(f"{told} {mark}")
        return gold

    def _with(self, query: Query) -> Gold:
        _, a, b = query
        gold = self.solver.solve(query)
        queries = [f"cast {a} {b}", f"film starring {a} and {b}", f"{a} {b}"]
        self._find(f"a film with {a} and {b}", gold, queries, "cast", needles=(a, b))
        self._say(f"{a} and {b} are in the cast of {gold.value} {_mark(gold.lines[-1])}")
        return gold

    def _other(self, query: Query, film: Entry, director: str) -> Gold:
        gold = self.solver.solve(query)
        queries = [f"film directed by {director}", f"directed by {director}", director]
        self._find(f"another film directed by {director} than {film.name}", gold, queries, "director", (director,))
        self._say(f"{director} also directed {gold.value} {_mark(gold.lines[-1])}")
        return gold

    def _cell(self, query: Query) -> Gold:
        _, page, row, column = query
        gold = self.solver.solve(query)
        head, line = gold.lines
        row_gold = Gold(gold.value, None, (line,))
        self._find(f"{row} in {page}", row_gold, [f"{row} {page}", f"{page}: {row}", row], "", (row, gold.value))
        if head not in self.shown or column not in self.shown[head]:
            thought = f"The row of {row} is {_mark(line)}. I look at the headings of its columns."
            self._see(self.t.call(thought, "find", id=head[0], pattern=column))
            if column not in self.shown.get(head, ""):
                raise Lost("no headings")
        self._say(f"under {column}, {row} has {gold.value} {_mark(head)} {_mark(line)}")
        return gold

    # ---- one line

    def _find(self, what: str, gold: Gold, queries: Sequence[str], relation: str, needles: Sequence[str] = ()) -> None:
        """Get the gold line shown, with the value in it. Raises Missing where its document is absent, else Lost."""
        line = gold.lines[-1]
        needles = needles or (gold.value,)
        absent = line[0] in self.collection.away
        if self._have(line, needles):
            return
        if not absent and relation and any(id == line[0] for id, _ in self.shown) and self.rng.random() < 0.6:
            if self._look_inside(what, line, needles, relation):
                return
        queries = list(queries)
        if self.rng.random() < _VAGUE:
            queries.insert(0, _vague(self.rng, queries[0]))
        opening, opened = f"{self.note} I need {what}.".strip(), False
        for query in queries[: 2 if absent else _QUERIES]:
            hits = self.t.search(opening, query)
            self._see(self.t.messages[-1].content)
            if self._have(line, needles):
                return
            own = next((h for h in hits if (h.id, h.line) == line), None)
            if own is not None:
                thought = f"The line {_mark(line)} is cut. I open it."
                self._see(self.t.call(thought, "open", id=own.id, line=own.line))
                if self._have(line, needles):
                    return
                raise Lost("the line is too long")
            opening = f"No line here gives {what}. I search with other words."
            if hits and not opened and self.rng.random() < _DETOUR:
                opened = True
                opening = self._open(hits, line, what)
                if self._have(line, needles):
                    return
        if not absent or self._told_elsewhere(gold):
            raise Lost(what)
        self.note = f"No line gives {what}."
        raise Missing(what)

    def _told_elsewhere(self, gold: Gold) -> bool:
        """Whether a text that is there names what the absent document is about, and the value too."""
        name = gold.entry.name if gold.entry else ""
        texts = self.collection.mentioning(name, gold.value)
        return any(e.id not in self.collection.away for e in texts)

    def _look_inside(self, what: str, line: Line, needles: Sequence[str], relation: str) -> bool:
        """`find` in a document that was seen already."""
        pattern = _FIND.get(relation, relation)
        opening = f"{self.note} I look for {what} in {line[0]}.".strip()
        self._see(self.t.call(opening, "find", id=line[0], pattern=pattern))
        self.note = "" if self._have(line, needles) else f"“{pattern}” does not show it."
        return self._have(line, needles)

    def _open(self, hits: list[Hit], line: Line, what: str) -> str:
        """Open the first hit, which does not have the line; returns the thought after it."""
        hit = next((h for h in hits if h.id == line[0]), hits[0])
        self._see(self.t.call(f"I look whether {hit.title} has it.", "open", id=hit.id, line=hit.line))
        return f"These lines of {hit.title} do not give {what}. I search with other words."

    def _see(self, text: str) -> None:
        for id, number, words in _SHOWN.findall(text):
            key = (id, int(number))
            if len(words) >= len(self.shown.get(key, "")):
                self.shown[key] = words

    def _have(self, line: Line, needles: Sequence[str]) -> bool:
        return all(needle in self.shown.get(line, "") for needle in needles)

    def _say(self, text: str) -> None:
        self.said.append(text)
        self.note = _sentences([text])


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


def _vague(rng: random.Random, query: str) -> str:
    """A word or two of a query: what one types in haste."""
    words = query.split()
    start = rng.randrange(len(words))
    return " ".join(words[start : start + rng.randint(1, 2)]).strip(":,")
