"""A folder of a user: 10 to 300 documents of several kinds, some of which belong together, among near misses.

It grows from clusters (a film, its director's biography, another film of that director; a page whose table names a
country, and the country), and is filled with documents that resemble those: the same actor, the same family name, the
same word in the title. A few of the documents that questions could be about are left out: those questions have no
answer in this folder.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from openk2.library import documents
from openk2.synth.heldout import held_out
from openk2.synth.rows import read_rows
from openk2.synth.search.facts import Entry, Ids, country_entry, film_entry, page_entry, passage_entry
from openk2.tools.index import STOP_WORDS, Index, words

SIZE = (10, 300)  # documents of a collection
_ABSENT = 0.08  # share of the documents that belong together which are left out
SOURCES = "films: prust/wikipedia-movie-data (MIT; text CC BY-SA); pages: WikiTableQuestions (CC BY-SA 4.0); passages: 2WikiMultihopQA (text CC BY-SA); countries: CIA World Factbook (CC0)"  # noqa: E501


@dataclass(frozen=True)
class Collection:
    """`entries`: the documents that are there; `absent`: those that were taken out, of which questions may ask."""

    name: str
    entries: tuple[Entry, ...]
    absent: tuple[Entry, ...]

    @cached_property
    def index(self) -> Index:
        return Index.memory(e.document for e in self.entries)

    @cached_property
    def all(self) -> tuple[Entry, ...]:
        return (*self.entries, *self.absent)

    @cached_property
    def by_name(self) -> dict[str, list[Entry]]:
        """By what they are about, in small letters, whether they are there or not."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.all:
            found[entry.name.casefold()].append(entry)
        return found

    @cached_property
    def away(self) -> frozenset[str]:
        return frozenset(e.id for e in self.absent)

    def mentioning(self, *names: str) -> list[Entry]:
        """Those whose text has all the names, wherever and in whatever role; a country's page tells of no film."""
        wanted = [n.casefold() for n in names]
        return [e for e in self.all if e.kind != "country" and all(n in e.text for n in wanted)]


class Library:
    """All documents of the data folder on one side of the hold-out, and who belongs to whom."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.of: dict[str, list[Entry]] = defaultdict(list)
        self.films_by: dict[str, list[Entry]] = defaultdict(list)  # director or actor: films
        self.person: dict[str, Entry] = {}
        self.country: dict[str, Entry] = {}
        self.alike: dict[tuple[str, str], list[Entry]] = defaultdict(list)  # (kind, word of the name): entries
        for entry in entries:
            self.of[entry.kind].append(entry)
            for word in set(words(entry.name)) - STOP_WORDS:
                self.alike[entry.kind, word].append(entry)
            if entry.kind == "film":
                for who in {*entry.cast, *(f.value for r, f in entry.facts.items() if r == "director")}:
                    self.films_by[who].append(entry)
            elif entry.kind == "person":
                self.person[entry.name] = entry
            elif entry.kind == "country":
                self.country[entry.name] = entry
        self.directed = [e for e in self.of["film"] if (d := e.facts.get("director")) and d.value in self.person]
        self.tables = [e for e in self.of["page"] if e.cells]
        self.abroad = [e for e in self.tables if any(f.value in self.country for f in e.cells.values())]

    @classmethod
    def load(cls, data: Path, held: bool) -> Library:
        """`held`: the documents of the held-out fifth, else the others. Raises UserError for a file that is missing."""
        ids = Ids()

        def entries() -> Iterable[Entry | None]:
            for row in read_rows(data / "movies.jsonl.gz"):
                if held_out("film", row["title"]) == held:
                    yield film_entry(row, ids)
            for row in read_rows(data / "wikipedia_passages.jsonl.gz"):
                if held_out("passage", row["title"]) == held:
                    yield passage_entry(row, ids)
            for row in read_rows(data / "wikipedia_pages.jsonl.gz"):
                if held_out("page", row["title"]) == held:
                    yield page_entry(row, ids)
            for page in documents():
                if held_out("country", page.id) == held:
                    yield country_entry(page, ids)

        return cls(e for e in entries() if e is not None)

    def draw(self, name: str) -> Collection:
        """The collection of this name: the name is the seed."""
        rng = random.Random(f"openk2 search collection {name}")
        size = round(math.exp(rng.uniform(math.log(SIZE[0]), math.log(SIZE[1]))))
        core: dict[str, Entry] = {}
        kinds, weights = self._clusters()
        lands = max(2, size // 12)  # a country's page is as long as thirty others
        for _ in range(4 * size):
            if len(core) >= 0.5 * size:
                break
            for entry in rng.choices(kinds, weights)[0](rng):
                if entry.kind != "country" or sum(e.kind == "country" for e in core.values()) < lands:
                    core[entry.id] = entry
        taken = dict(core)
        hearts, tries = list(core.values()), 0
        while len(taken) < size and tries < 20 * size:  # a small data folder may hold no more
            tries += 1
            near = self._near(rng, rng.choice(hearts))
            if near is not None:
                taken.setdefault(near.id, near)
        askable = [e for e in hearts if e.facts]
        gone = (
            rng.sample(askable, min(len(askable) - 1, max(1, round(_ABSENT * len(core))))) if len(askable) > 1 else []
        )
        away = {e.id for e in gone}
        kept = [e for e in taken.values() if e.id not in away]
        rng.shuffle(kept)
        return Collection(name, tuple(kept), tuple(gone))

    def _clusters(self) -> tuple[list[Callable[[random.Random], list[Entry]]], list[float]]:
        """Ways to add documents that belong together, those of which there are any."""
        ways = [
            (5.0, self.directed, self._film), (3.0, self.of["film"], self._film), (1.5, self.abroad, self._page),
            (1.0, self.tables, self._page), (1.0, self.of["country"], self._some), (0.7, self.of["person"], self._some),
        ]  # fmt: skip
        found = [(weight, pool, way) for weight, pool, way in ways if pool]
        return [lambda rng, p=pool, w=way: w(rng, rng.choice(p)) for _, pool, way in found], [w for w, _, _ in found]

    def _some(self, rng: random.Random, entry: Entry) -> list[Entry]:
        return [entry, rng.choice(self.of[entry.kind])]

    def _film(self, rng: random.Random, film: Entry) -> list[Entry]:
        found = [film]
        if director := film.facts.get("director"):
            if director.value in self.person:
                found.append(self.person[director.value])
            if rng.random() < 0.6:
                found.append(rng.choice(self.films_by[director.value]))
        if rng.random() < 0.5:
            found.append(rng.choice(self.films_by[rng.choice(film.cast)]))
        return found

    def _page(self, rng: random.Random, page: Entry) -> list[Entry]:
        named = sorted({f.value for f in page.cells.values()} & self.country.keys())
        return [page, *(self.country[n] for n in rng.sample(named, min(len(named), 2)))]

    def _near(self, rng: random.Random, entry: Entry) -> Entry | None:
        """A document that one may take for `entry`, or (one time in four) any that a folder may hold."""
        if rng.random() < 0.25:
            return rng.choice(self.of[rng.choices(("film", "text", "page", "country"), (5, 3, 2, 0.5))[0]] or [entry])
        if entry.kind == "film" and rng.random() < 0.7:
            return rng.choice(self.films_by[rng.choice(entry.cast)])
        if entry.kind == "country":
            return rng.choice(self.of["text"] or [entry])
        own = [w for w in words(entry.name) if w not in STOP_WORDS]
        if not own:
            return None
        kinds = {"person": ("person", "text"), "film": ("film", "text")}.get(entry.kind, (entry.kind,))
        alike = self.alike.get((rng.choice(kinds), own[-1] if entry.kind == "person" else rng.choice(own)))
        return rng.choice(alike) if alike else None
