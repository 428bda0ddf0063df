"""Full-text search over documents, line by line: SQLite FTS5 finds candidates, a small ranking puts the best first.

The unit is a line, because a line is what can be quoted and cited. A line `Field - part: value` has a heading
(`Field - part`), which counts as much as the title: "population of Kenya" must put Kenya's total population before
the hundred other lines that say "population".
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import tempfile
import threading
import unicodedata
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

STOP_WORDS = frozenset(
    "a an and are as at be by did do does for from had has have how in is it its many me much of on or per s tell than"
    " that the their there they this to was were what when where which who whose will with you your".split()
)
CANDIDATES = 200  # lines fetched from FTS5 before ranking
HEADING_LIMIT = 80  # characters before ": " that still count as a heading


@dataclass(frozen=True, slots=True)
class Document:
    """One text. Lines are numbered from 1 and cited as `[id:line]`."""

    id: str
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    id: str
    line: int
    title: str
    text: str


def words(text: str) -> list[str]:
    """Lower-case words without accents, as FTS5's unicode61 tokenizer sees them."""
    plain = text.lower()
    if not plain.isascii():
        plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain)


@lru_cache(maxsize=1 << 16)
def stems_of(text: str) -> frozenset[str]:
    return frozenset(stem(w) for w in words(text))


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A light stemmer (plural s, -es, -ies, -ing, -ed): enough to make query and line words meet."""
    for suffix, keep in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            return (word[: len(word) - len(suffix)] + keep).rstrip("e") or word
    return word.rstrip("e") if len(word) > 3 else word


def heading_of(line: str) -> str:
    head, colon, _ = line.partition(": ")
    return head if colon and len(head) <= HEADING_LIMIT else ""


def slug(name: str, limit: int = 18) -> str:
    """A short id for citations: whole words of the name, lower-case ASCII, while they fit in `limit` characters."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    short, *rest = re.findall(r"[a-z0-9]+", plain) or [""]
    for part in rest:
        if len(short) + 1 + len(part) > limit:
            break
        short += f"-{part}"
    return short[:limit]


SCHEMA = """
CREATE TABLE documents(id TEXT PRIMARY KEY, title TEXT, text TEXT);
CREATE VIRTUAL TABLE lines USING fts5(title, heading, body, document UNINDEXED, line UNINDEXED,
  tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(lines, 'row');
"""


class Index:
    """Documents that can be searched. `memory` builds an index in RAM, `file` one on disk, `load` reads it again."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._lock = threading.Lock()
        self._ranking = threading.Lock()
        self._best = lru_cache(maxsize=256)(self._rank)  # many paths search for the same; an index does not change

    @classmethod
    def memory(cls, documents: Iterable[Document]) -> Index:
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        _fill(connection, documents)
        return cls(connection)

    @classmethod
    def file(cls, path: Path, documents: Iterable[Document]) -> Index:
        """Build at `path`, atomically: a reader sees the whole index or none. Raises OSError or sqlite3.Error."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        os.close(handle)
        try:
            with closing(sqlite3.connect(part)) as connection:
                connection.execute("PRAGMA synchronous = OFF")
                _fill(connection, documents)
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Index:
        """Open what `file` wrote. Raises sqlite3.Error where it is not there, or is no index."""
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        index = cls(sqlite3.connect(uri, uri=True, check_same_thread=False))
        len(index)  # SQLite reads nothing before it is asked
        return index

    def __len__(self) -> int:
        """Number of documents."""
        with self._lock:
            return self._db.execute("SELECT count(*) FROM documents").fetchone()[0]

    def document(self, id: str) -> Document | None:
        with self._lock:
            row = self._db.execute("SELECT title, text FROM documents WHERE id = ?", (id,)).fetchone()
        return Document(id, row[0], tuple(row[1].split("\n"))) if row else None

    def documents(self) -> list[tuple[str, str]]:
        """All (id, title), by id."""
        with self._lock:
            return self._db.execute("SELECT id, title FROM documents ORDER BY id").fetchall()

    def search(self, query: str, k: int = 3) -> list[Hit]:
        """The k best lines. Every word of the query is plain text: no FTS5 syntax can reach the engine."""
        with self._ranking:  # Python ranks one at a time whoever waits, and the second finds what the first has found
            return list(self._best(query, k))

    def _rank(self, query: str, k: int) -> list[Hit]:
        terms = list(dict.fromkeys(words(query)))
        terms = [t for t in terms if t not in STOP_WORDS] or terms
        if not terms:
            return []
        match = " OR ".join(f'"{t}"' for t in terms)
        with self._lock:
            rows = self._db.execute(
                "SELECT document, line, title, heading, body FROM lines WHERE lines MATCH ?"
                " ORDER BY bm25(lines, 6.0, 3.0, 1.0) LIMIT ?",
                (match, CANDIDATES),
            ).fetchall()
        stems = list(dict.fromkeys(stem(t) for t in terms))
        found = [((stems_of(row[2]), stems_of(row[3]), stems_of(row[4])), row) for row in rows]
        weights = self._weights(stems, [fields for fields, _ in found])
        scored = [(-_score(fields, stems, weights), int(row[1]), row) for fields, row in found]
        scored.sort(key=lambda item: item[:2])
        return [Hit(row[0], int(row[1]), row[2], _text(row)) for _, _, row in scored[:k]]

    def _weights(self, stems: list[str], fields: list[Fields]) -> dict[str, float]:
        """Inverse frequency of each query word among the candidates; a word that no line has does not count."""
        weights = {}
        for word in stems:
            count = sum(1 for title, heading, body in fields if word in title or word in heading or word in body)
            if count:
                weights[word] = 1.0 + 0.25 * math.log(1 + len(fields) / count)
        return weights


def _fill(connection: sqlite3.Connection, documents: Iterable[Document]) -> None:
    connection.executescript(SCHEMA)
    for document in documents:
        text = "\n".join(document.lines)
        connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (document.id, document.title, text))
        rows = []
        for number, text in enumerate(document.lines, 1):
            if text.strip() and text != document.title:  # searched with every line; alone, a title answers nothing
                heading = heading_of(text)
                body = text[len(heading) + 2 :] if heading else text
                rows.append((document.title, heading, body, document.id, number))
        connection.executemany("INSERT INTO lines VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()


def _text(row: tuple) -> str:
    return f"{row[3]}: {row[4]}" if row[3] else row[4]


Fields = tuple[frozenset[str], frozenset[str], frozenset[str]]  # stems of title, heading, body


def _score(fields: Fields, stems: list[str], weights: dict[str, float]) -> float:
    """How much of the query the line covers, minus how much of its title and heading the query did not ask for."""
    title, heading, body = fields
    score = 0.0
    for word, weight in weights.items():
        if word in title or word in heading:
            score += weight
        elif word in body:
            score += 0.6 * weight
    asked = set(stems)
    if title:
        covered = len(title & asked) / len(title)
        score += 1.5 * covered if covered == 1.0 else -0.3 * (1.0 - covered)
    heading = heading - STOP_WORDS
    if heading:
        score -= 0.5 * len(heading - asked - {"total"}) / len(heading)
        if "total" in heading:
            score += 0.1  # the whole before its parts
    return score
