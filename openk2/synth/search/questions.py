"""What can be asked of a collection: queries, their one answer by computation, and the words people ask them in.

A query is a nested list that JSON can hold: `["born", ["director", ["film", "Desire"]]]`. Its hops are the facts that
must be found for it: one for each operation that reads a line. `Solver` gives the answer and the lines that hold it,
and refuses a query that could be answered otherwise by any text of the collection.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openk2.synth.search.collection import Collection
from openk2.synth.search.facts import ASKED, Entry, Fact, number_of

Query = list[Any]
Line = tuple[str, int]  # a document's id, a line's number
LANDS = ("Country", "Nation", "Nationality")  # headings of columns that tell whose country it is
FIELDS = ("year", "cast", "genres")
FACTS = dict.fromkeys((*FIELDS, "director", "born", "with", "attr", "cell"), 1) | {"other": 2}  # that it must find


class NoAnswer(Exception):
    """The query has no answer here, or more than one."""


@dataclass(frozen=True)
class Gold:
    """The answer, the document that it stands in or is about, and the lines that prove it, in the order of reading."""

    value: str
    entry: Entry | None = None
    lines: tuple[Line, ...] = ()


def hops(query: Query) -> int:
    """Facts to be found."""
    return (
        FACTS.get(query[0], 0)
        + (2 if query[0] == "more" else 0)
        + sum(hops(part) for part in query if isinstance(part, list))
    )


def structure(query: Query) -> str:
    """The operations without the names."""
    inner = ", ".join(structure(part) for part in query if isinstance(part, list))
    return f"{query[0]}({inner})"


class Solver:
    """Answers by computation over the facts of a collection, those of absent documents too."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection

    def solve(self, query: Query) -> Gold:
        """Raises NoAnswer where there is not exactly one."""
        operation, *parts = query
        if operation in ("film", "person", "country", "page"):
            return Gold(parts[0], self._only(operation, parts[0]))
        match operation:
            case "with":
                film = self._one(e for e in self.collection.all if {*parts} <= {*e.cast})
                self._no_rival(film, *parts)
                return Gold(film.name, film, ((film.id, film.facts["cast"].line),))
            case "other":
                return self._other(parts[0])
            case "born" | "attr":
                return self._property(query)
            case "cell":
                page = self._only("page", parts[0])
                fact = page.cells.get((parts[1], parts[2]))
                if fact is None:
                    raise NoAnswer
                return Gold(fact.value, None, ((page.id, fact.also), (page.id, fact.line)))
            case "between" | "earlier" | "more":
                return self._computed(operation, parts)
        film = self.solve(parts[0])  # a field of a film
        fact = self._fact(film.entry, operation)
        assert film.entry
        return Gold(fact.value, film.entry, (*film.lines, (film.entry.id, fact.line)))

    def _property(self, query: Query) -> Gold:
        """A fact of somebody or some country that is named, or found by another query."""
        kind, relation = ("person", "born") if query[0] == "born" else ("country", query[1])
        inner = self.solve(query[-1])
        entry = self._only(kind, inner.value)
        fact = self._fact(entry, relation)
        return Gold(fact.value, entry, (*inner.lines, (entry.id, fact.line)))

    def _other(self, query: Query) -> Gold:
        """The other film of the director of a film."""
        film = self.solve(query)
        assert film.entry
        known = self._fact(film.entry, "director")
        director = known.value
        found = self._one(
            e
            for e in self.collection.all
            if e is not film.entry and (f := e.facts.get("director")) and f.value == director
        )
        about = self.collection.by_name.get(director.casefold(), [])
        if any(e not in (film.entry, found, *about) for e in self.collection.mentioning(director)):
            raise NoAnswer
        self._only("film", found.name)
        lines = ((film.entry.id, known.line), (found.id, found.facts["director"].line))
        return Gold(found.name, found, (*film.lines, *lines))

    def _computed(self, operation: str, parts: list[Any]) -> Gold:
        label, sides = (parts[0], parts[1:]) if operation == "more" else ("", parts)
        if label:
            sides = [["attr", label, side] for side in sides]
        found = [self.solve(side) for side in sides]
        figures = [figure(each.value) for each in found]
        lines = (*found[0].lines, *found[1].lines)
        if found[0].entry is found[1].entry or None in figures or figures[0] == figures[1]:
            raise NoAnswer
        a, b = (f or 0.0 for f in figures)
        if operation == "between":
            return Gold(str(round(abs(a - b))), None, lines)
        chosen = found[0] if (a < b) == (operation == "earlier") else found[1]
        assert chosen.entry
        return Gold(chosen.entry.name, None, lines)

    def _fact(self, entry: Entry | None, relation: str) -> Fact:
        if entry is None or relation not in entry.facts:
            raise NoAnswer
        return entry.facts[relation]

    def _only(self, kind: str, name: str) -> Entry:
        """The one document about this name, whatever the kind of others."""
        entry = self._one(self.collection.by_name.get(name.casefold(), []))
        if entry.kind != kind:
            raise NoAnswer
        return entry

    def _one(self, entries: Any) -> Entry:
        found = list(entries)
        if len(found) != 1:
            raise NoAnswer
        return found[0]

    def _no_rival(self, film: Entry, *names: str) -> None:
        if self.collection.mentioning(*names) != [film]:
            raise NoAnswer


def figure(value: str) -> float | None:
    """A number, or the year of a date."""
    year = value[-4:]
    return float(year) if year.isdigit() and " " in value else number_of(value)


# ------------------------------------------------------------------------------------------------ drawing


class Drawer:
    """Queries that a collection may answer: shape first, then names of `entries`, those of the collection or some."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.rng = random.Random(0)  # of the draw under way
        self.films = [e for e in entries if e.kind == "film"]
        self.people = [e for e in entries if e.kind == "person"]
        self.countries = [e for e in entries if e.kind == "country"]
        self.pages = [e for e in entries if e.cells]
        self.named = {e.name for e in self.countries}
        self.born = {e.name for e in self.people}
        self.by: dict[str, int] = {}
        for film in self.films:
            if director := film.facts.get("director"):
                self.by[director.value] = self.by.get(director.value, 0) + 1

    def draw(self, wanted: int, rng: random.Random) -> Query:
        """A query of so many hops, perhaps one without an answer. Raises NoAnswer where a collection has no such."""
        self.rng = rng
        return rng.choice(SHAPES[wanted])(self)

    def pick(self, entries: list[Entry]) -> Entry:
        if not entries:
            raise NoAnswer
        return self.rng.choice(entries)

    def title(self, entries: list[Entry] | None = None) -> Query:
        return ["film", self.pick(self.films if entries is None else entries).name]

    def pair(self, entries: list[Entry] | None = None) -> Query:
        film = self.pick([f for f in (self.films if entries is None else entries) if len(f.cast) > 1])
        return ["with", *self.rng.sample(film.cast, 2)]

    @property
    def of_known(self) -> list[Entry]:
        """Films of directors whose biography is here."""
        return [f for f in self.films if (d := f.facts.get("director")) and d.value in self.born]

    @property
    def of_two(self) -> list[Entry]:
        """Films of directors of whom there are two."""
        return [f for f in self.films if (d := f.facts.get("director")) and self.by[d.value] == 2]

    def field(self, film: Query) -> Query:
        """Not the cast of a film that is found by its cast."""
        return [self.rng.choice([f for f in FIELDS if f != "cast" or film[0] != "with"]), film]

    def cell(self, country: bool = False) -> Query:
        """`country`: one that names a country of which there is a page."""
        fit = {
            page.name: [k for k, f in page.cells.items() if not country or (k[1] in LANDS and f.value in self.named)]
            for page in self.pages
        }
        page = self.pick([p for p in self.pages if fit[p.name]])
        keys = fit[page.name]
        return ["cell", page.name, *self.rng.choice(keys)]

    def country(self) -> Query:
        return ["country", self.pick(self.countries).name]

    def label(self, numeric: bool = False) -> str:
        return self.rng.choice([a.label for a in ASKED if a.numeric or not numeric])


Shape = Callable[[Drawer], Query]
SHAPES: dict[int, tuple[Shape, ...]] = {
    1: (
        lambda d: d.field(d.title()), lambda d: ["director", d.title()],
        lambda d: ["born", ["person", d.pick(d.people).name]], lambda d: ["attr", d.label(), d.country()],
        lambda d: d.cell(),
    ),
    2: (
        lambda d: d.field(d.pair()), lambda d: ["director", d.pair()],
        lambda d: ["born", ["director", d.title(d.of_known)]],
        lambda d: ["attr", d.label(), d.cell(country=True)],
        lambda d: [d.rng.choice(("between", "earlier")), ["year", d.title()], ["year", d.title()]],
        lambda d: ["more", d.label(numeric=True), d.country(), d.country()],
    ),
    3: (
        lambda d: ["born", ["director", d.pair(d.of_known)]], lambda d: d.field(["other", d.title(d.of_two)]),
        lambda d: [d.rng.choice(("between", "earlier")), ["year", d.pair()], ["year", d.title()]],
        lambda d: ["more", d.label(numeric=True), d.cell(country=True), d.country()],
    ),
    4: (
        lambda d: d.field(["other", d.pair(d.of_two)]), lambda d: d.field(["other", d.pair(d.of_two)]),
        lambda d: [d.rng.choice(("between", "earlier")), ["year", d.pair()], ["year", d.pair()]],
        lambda d: ["earlier", *(["born", ["director", d.title(d.of_known)]] for _ in range(2))],
        lambda d: ["more", d.label(numeric=True), d.cell(country=True), d.cell(country=True)],
    ),
}  # fmt: skip
