"""What a document says, as facts that stand in one line each: film, person, country, and table of a page.

A fact is read only where the text leaves one reading: one director named in the first sentence, a year on which the
field and the sentence agree, a date of birth in the brackets behind the name. What is not sure is no fact, and a
question is asked only of facts; other texts stay in the collection as texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openk2.synth.attributes import ATTRIBUTES, Attribute
from openk2.tools.documents import wrapped
from openk2.tools.index import Document, slug

ID_LENGTH = 40  # characters of a document's id
PAGE_LINES = 80  # of a web page
_WORD = r"[A-Z][\w.'’-]*"
_NAME = rf"{_WORD}(?: (?:{_WORD}|de|von|van|del|la|le|di|da))+"
_DIRECTED = re.compile(
    rf"\bdirected by ({_NAME})"
    r"(?=[,.;]|$| and (?:starring|written|produced|released|distributed|featuring|based|stars)\b"
    r"| (?:starring|from|for|based|with|featuring|about|that|which|who|loosely|set|in|on)\b)(?!, (?:and )?[A-Z])"
)
_FILM = re.compile(r"\bis an? (?:upcoming )?(\d{4})\b[^.]{0,80}?\b(?:film|comedy|drama|western|thriller|musical)\b")
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"(?:\d{{1,2}} {_MONTH} \d{{4}}|{_MONTH} \d{{1,2}}, \d{{4}})"
_BORN = re.compile(rf"^[^()]{{3,60}}\((?:[^()]*?\bborn )?(?:on )?({_DATE})(?: – [^()]*)?\)")
_OF_FILM = re.compile(r"\b(?:director|filmmaker|actor|actress|producer|screenwriter)\b")
_ROWS = frozenset(  # headings of columns that name the rows
    "Name Player Driver Athlete Title Song Film Rider Swimmer Team Club City Town School Show Airport Gymnast Skater"
    " Cyclist Artist Album Artwork Episode Ship Building Mountain Peak Lake River Species Language County District"
    " Winner Champion Candidate Party University College Station Network Company Model Mission Newspaper".split()
)
_COLUMNS = _ROWS | frozenset(
    "Country Nation Nationality Position Result Opponent Venue Location Score Points Date Year Time Age Role Capital"
    " Population Area Length Height Surface Class Type Status Region State Province Constructor Laps Grid Label"
    " Director Genre Composer Writer Manager Coach Captain Stadium Capacity Founded Established Opened Format Owner"
    " Elevation Range Family Builder Engine Manufacturer Sponsor Conference Enrollment Nickname Affiliation".split()
)
_ROW_NAME = re.compile(r"[A-Z][a-z'’.-]+(?: [A-Za-z'’.-]{2,}){0,4}")
ASKED = tuple(a for a in ATTRIBUTES if a.frames)  # what people ask of a country
_HEADINGS = tuple((a, re.compile(a.heading + ": ")) for a in ASKED)


@dataclass(frozen=True, slots=True)
class Fact:
    """`value` stands in line `line` of its document. `also`: another line that one needs to read it."""

    value: str
    line: int
    also: int = 0


@dataclass(frozen=True)
class Entry:
    """A document with its facts. `name`: what it is about; `kind`: film, person, country, page or text."""

    kind: str
    name: str
    document: Document
    facts: dict[str, Fact] = field(default_factory=dict)  # relation: fact
    cells: dict[tuple[str, str], Fact] = field(default_factory=dict)  # (row, column): fact, of a table
    cast: tuple[str, ...] = ()
    text: str = ""  # all lines in small letters, to look for names in

    @property
    def id(self) -> str:
        return self.document.id


class Ids:
    """An id for each title; a second document of a title gets a number, as files of one name do."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def __call__(self, title: str) -> str:
        wanted = slug(title, ID_LENGTH) or "document"
        number = self._taken[wanted] = self._taken.get(wanted, 0) + 1
        return wanted if number == 1 else f"{wanted}-{number}"


def _entry(kind: str, name: str, id: str, title: str, lines: Sequence[str], **more: Any) -> Entry:
    return Entry(kind, name, Document(id, title, tuple(lines)), text="\n".join(lines).casefold(), **more)


def sentences(text: str) -> list[str]:
    """A paragraph as lines of a sentence each, as far as full stops tell."""
    parts = re.split(r"(?<=[a-z0-9)\"”][.!?]) +(?=[A-Z])", text)
    return [line for part in parts for line in wrapped(part)]


def film_entry(row: dict[str, Any], ids: Ids) -> Entry | None:
    """A film of movies.jsonl.gz; None where its year or its cast is doubtful or too long for a line."""
    title, cast, genres = row["title"], tuple(row["cast"]), row["genres"]
    told = sentences(row.get("extract") or "")
    cast_line = f"Cast: {', '.join(cast)}"
    if not told or not cast or len(title) > 50 or len(cast_line) > 300 or not slug(title) or "(" in title:
        return None
    year = _FILM.search(told[0])
    if year is None or int(year[1]) != row["year"] or not told[0].startswith(title):
        return None
    lines = [title, f"Year: {row['year']}", cast_line]
    facts = {"year": Fact(str(row["year"]), 2), "cast": Fact(", ".join(cast), 3)}
    if genres:
        lines.append(f"Genres: {', '.join(genres)}")
        facts["genres"] = Fact(", ".join(genres), 4)
    director = _DIRECTED.search(told[0])
    if director and told[0].count("directed by") == 1:
        facts["director"] = Fact(director[1].rstrip("."), len(lines) + 1)
    return _entry("film", title, ids(title), title, [*lines, *told], facts=facts, cast=cast)


def passage_entry(row: dict[str, Any], ids: Ids) -> Entry | None:
    """A paragraph of an encyclopedia: a person of the film, or a text."""
    text = re.sub(r"(?<=\w)\( ?", " (", re.sub(r"(?<=\w)- (?=\w)", "-", row["text"]))
    title = re.sub(r" \([^)]*\)$", "", row["title"])
    told = sentences(text)
    if not told or not slug(title):
        return None
    born = _BORN.match(told[0])
    lines = [row["title"], *told]
    if born and _OF_FILM.search(text) and len(title.split()) > 1 and title.split()[-1] in told[0]:
        facts = {"born": Fact(born[1], 2)}
        return _entry("person", title, ids(row["title"]), row["title"], lines, facts=facts)
    return _entry("text", title, ids(row["title"]), row["title"], lines)


def country_entry(page: Document, ids: Ids) -> Entry:
    """A page of the library: the facts are those attributes that people ask for, by their labels."""
    facts: dict[str, Fact] = {}
    for number, text in enumerate(page.lines, 1):
        for attribute, heading in _HEADINGS:
            if attribute.label not in facts and (match := heading.match(text)):
                value = _value(attribute, text[match.end() :])
                if value:
                    facts[attribute.label] = Fact(value, number)
    return _entry("country", page.title, ids(page.title), page.title, page.lines, facts=facts)


def _value(attribute: Attribute, text: str) -> str:
    """The figure of a number, the first words of a text; nothing where it is no plain value."""
    if attribute.numeric:
        match = re.match(r"-?\$?\d[\d,]*(?:\.\d+)?(?:%| (?:million|billion|trillion))?", text)
        return match[0] if match else ""
    value = text.split("(")[0].strip()
    return value if 2 < len(value) <= 70 and not re.search("[,;%]|note", value) else ""  # not the first of a list


def number_of(value: str) -> float | None:
    """A figure without its thousands' commas and percent sign; None where it has a currency or a word with it."""
    plain = value.replace(",", "").removesuffix("%")
    return float(plain) if re.fullmatch(r"-?\d+(?:\.\d+)?", plain) else None


def page_entry(row: dict[str, Any], ids: Ids) -> Entry | None:
    """A web page with the cells of its first table that has names for its rows."""
    title = row["title"]
    lines = [title, *(part for line in row["text"].split("\n") for part in wrapped(line))][:PAGE_LINES]
    if len(lines) < 8 or len(title) > 60 or not slug(title):
        return None
    return _entry("page", title, ids(title), title, lines, cells=_table(lines))


def _table(lines: list[str]) -> dict[tuple[str, str], Fact]:
    """Cells by row and column, of the first table whose headings are known words and whose rows have names.

    A cell counts where its row's name stands in that one line of the page and nowhere else.
    """
    for top in range(1, len(lines) - 4):
        columns = _cells(lines[top])
        named = next((i for i, c in enumerate(columns) if c in _ROWS), None)
        if named is None or not 3 <= len(columns) <= 9 or len(set(columns)) < len(columns):
            continue
        if len(_cells(lines[top - 1])) == len(columns):
            continue  # a row among rows: no heading
        rows: list[tuple[int, list[str]]] = []
        for number in range(top + 1, len(lines)):
            cells = _cells(lines[number])
            if len(cells) != len(columns):
                break
            rows.append((number + 1, cells))
        if len(rows) >= 3:
            return {
                (cells[named], columns[c]): Fact(cells[c], number, top + 1)
                for number, cells in rows
                if _ROW_NAME.fullmatch(cells[named]) and sum(cells[named] in other for other in lines) == 1
                for c in range(len(columns))
                if c != named and columns[c] in _COLUMNS and _plain(cells[c]) and cells.count(cells[c]) == 1
            }
    return {}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(" | ")]


def _plain(cell: str) -> bool:
    return re.fullmatch(r"[\w][\w .,:'’/–%&-]{1,39}", cell) is not None
