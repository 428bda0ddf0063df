"""Documents of the user's own: films, web pages, notes with any fields; find the line and quote it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openk2.synth.heldout import held_out
from openk2.synth.names import Pieces, name, number_like, word
from openk2.synth.reach import NOT_FOUND
from openk2.synth.rows import read_rows
from openk2.synth.trajectory import Record, Trajectory, cite
from openk2.synth.wordings import styled
from openk2.tools.formats import HIT_WIDTH
from openk2.tools.index import STOP_WORDS, Document, Index, slug, words

FIELD_FRAMES = (
    "What is the {f} of {t}?", "What's the {f} of {t}?", "Tell me the {f} of {t}.", "Find the {f} of {t}.",
    "What is the {f} for {t}?", "Which {f} does {t} have?", "I need the {f} of {t}.", "Look up the {f} of {t}.",
    "Do you see the {f} of {t}?", "What {f} is given for {t}?", "According to my notes, what is the {f} of {t}?",
    "In my files, what is the {f} of {t}?", "{f} of {t}?", "Give me the {f} of {t}.",
)  # fmt: skip
FILM_FRAMES = {
    "Year": (
        "When did {t} come out?", "What year is {t} from?", "When was {t} released?", "In which year was {t} made?",
    ),
    "Cast": ("Who plays in {t}?", "Who stars in {t}?", "Which actors are in {t}?", "Who is in the cast of {t}?"),
    "Genres": ("What kind of film is {t}?", "Which genre is {t}?", "What genre does {t} belong to?"),
}  # fmt: skip
QUOTE_FRAMES = (
    "What do my files say about {w}?", "Find the line about {w}.", "Where do my documents mention {w}?",
    "Quote what is written about {w}.", "Is there anything about {w} in my notes?", "What is written about {w}?",
    "Look for {w} and quote the line.", "Search my files for {w}.", "What do the documents say about {w}?",
    "Find {w} in my documents.", "Tell me what my notes say about {w}.", "What did I write about {w}?",
)  # fmt: skip
SHAPES = ("1", "12", "123", "1,234", "12.5", "12,345")
MONTHS = ("January", "March", "May", "July", "September", "November")
UNITS = ("months", "days", "euros", "kg", "metres", "pages", "litres", "people", "hours", "percent", "km", "points")


Film = dict[str, Any]


@dataclass(frozen=True)
class Shelf:
    """Documents and the index over them."""

    documents: list[Document]
    index: Index

    @classmethod
    def of(cls, documents: Iterable[Document | None]) -> Shelf:
        """Of documents with the same id, the last one counts."""
        kept = list({d.id: d for d in documents if d}.values())
        return cls(kept, Index.memory(kept))


def load_films(path: Path) -> list[Film]:
    """Films with a cast and a text; the held-out fifth is left out."""
    films = (f for f in read_rows(path) if f.get("extract") and f["cast"] and len(f["title"]) < 40)
    return [f for f in films if not held_out("film", f["title"])]


def load_pages(path: Path, lines: int = 40) -> list[Document]:
    """Web pages as documents of at most `lines` lines; pages of the held-out fifth are left out."""
    pages = []
    for row in read_rows(path):
        if held_out("page", row["title"]) or len(row["title"]) > 40:
            continue
        kept = [x.strip() for x in row["text"].split("\n") if 20 < len(x.strip()) <= 300][:lines]
        if len(kept) >= 5 and slug(row["title"]):
            pages.append(Document(slug(row["title"]), row["title"], tuple(kept)))
    return pages


def film_document(film: Film) -> Document | None:
    """Title, year, cast, genres, and the first sentences of the text. None for a title that gives no id."""
    sentences = re.split(r"(?<=[.!?]) +(?=[A-Z])", film["extract"])
    lines = [film["title"], f"Year: {film['year']}", f"Cast: {', '.join(film['cast'][:4])}"]
    if film["genres"]:
        lines.append(f"Genres: {', '.join(film['genres'])}")
    lines += [s for s in sentences[:5] if len(s) < 300]
    key = slug(film["title"])
    return Document(key, film["title"], tuple(lines)) if key else None


def note_document(rng: random.Random, pieces: Pieces) -> Document | None:
    """A note with invented field names, so that any words a user has can be searched for."""
    if rng.random() < 0.7:
        title = name(rng, pieces)
    else:
        title = " ".join(rng.choice(pieces.middles + pieces.starts).lower() for _ in range(rng.randint(1, 3)))
    lines = [title]
    for _ in range(rng.randint(3, 7)):
        field = " ".join(rng.choice(pieces.starts).lower() for _ in range(rng.randint(1, 3))).capitalize()
        lines.append(f"{field}: {_note_value(rng, pieces)}")
    key = slug(title)
    return Document(key, title, tuple(lines)) if key and len(title) > 1 else None


def _note_value(rng: random.Random, pieces: Pieces) -> str:
    """A quantity, a date, or a few words."""
    roll = rng.random()
    if roll < 0.35:
        return f"{number_like(rng, rng.choice(SHAPES))} {rng.choice(UNITS)}"
    if roll < 0.5:
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1990, 2026)}"
    return " ".join(
        word(rng, pieces) if rng.random() < 0.5 else word(rng, pieces).lower() for _ in range(rng.randint(1, 6))
    )


def field_question(rng: random.Random, shelf: Shelf, films: bool) -> Record | None:
    """Ask for a `Field: value` line of one document."""
    document = rng.choice(shelf.documents)
    fields = [(n, line) for n, line in enumerate(document.lines, 1) if re.match(r"[A-Z][\w ]{1,40}: ", line)]
    if not fields:
        return None
    number, line = rng.choice(fields)
    field, _, value = line.partition(": ")
    noun = field.lower()
    if films and field in FILM_FRAMES and rng.random() < 0.6:
        question = rng.choice(FILM_FRAMES[field]).format(t=document.title)
    else:
        question = rng.choice(FIELD_FRAMES).format(f=noun, t=document.title)
    t = Trajectory(styled(rng, question), shelf.index)
    hits = t.search(f"I need the {noun} of {document.title}.", f"the {noun} of {document.title}")
    hit = next((h for h in hits if h.id == document.id and h.line == number), None)
    if hit is None:
        return None
    reason = f"The line {cite(hit)} has it."
    if len(hit.text) > HIT_WIDTH:
        t.call(f"The line {cite(hit)} is cut. I open it.", "open", id=hit.id, line=hit.line)
        reason = "Now it is whole."
    t.answer(reason, f"The {noun} of {document.title} is: {value} {cite(hit)}")
    return t.record("field", gold=value, cites=[f"{hit.id}:{hit.line}"])


def quote(rng: random.Random, shelf: Shelf) -> Record | None:
    """Ask for what is written about a few words; quote the best line."""
    document = rng.choice(shelf.documents)
    candidates = [(n, x) for n, x in enumerate(document.lines, 1) if n > 1 and 30 < len(x) < 260]
    if not candidates:
        return None
    number, line = rng.choice(candidates)
    tokens = [w for w in re.findall(r"[A-Za-z]+", line) if len(w) > 3 and w.lower() not in STOP_WORDS]
    if len(tokens) < 3:
        return None
    start = rng.randrange(len(tokens) - 1)
    topic = " ".join(tokens[start : start + rng.randint(1, 3)])
    if rng.random() < 0.25:
        topic += f" in {document.title}"
    t = Trajectory(styled(rng, rng.choice(QUOTE_FRAMES).format(w=topic)), shelf.index)
    hits = t.search(f"I search for {topic}.", f"lines about {topic}")
    if not hits or (hits[0].id, hits[0].line) != (document.id, number):
        return None
    hit, reason = hits[0], f"The line {cite(hits[0])} fits."
    if len(hit.text) > HIT_WIDTH:
        t.call(f"The line {cite(hit)} fits and is cut. I open it.", "open", id=hit.id, line=hit.line)
        reason = "Now it is whole."
    t.answer(reason, f"It says: {line} {cite(hit)}")
    return t.record("quote", gold=line, cites=[f"{hit.id}:{hit.line}"])


def unanswerable(index: Index, question: str) -> Record | None:
    """A question that the documents do not answer: search with its own words, then say so and how to go on."""
    if set(words(question)) <= STOP_WORDS:
        return None
    t = Trajectory(question, index)
    t.search("I search with the question's own words.", question.rstrip("?. "))
    t.answer("No line answers this.", NOT_FOUND)
    return t.record("unanswerable", gold=None)
