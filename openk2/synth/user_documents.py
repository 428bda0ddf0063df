"""Documents of the user's own: films, web pages, notes with any fields; find the line and quote it."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

from openk2.synth.countries import cite, styled
from openk2.synth.heldout import held_out
from openk2.synth.names import Pieces, name, number_like, word
from openk2.synth.trajectory import Trajectory
from openk2.tools.formats import HIT_WIDTH
from openk2.tools.index import STOP_WORDS, Document, Index, slug, words

FIELD_FRAMES = (
    "What is the {f} of {t}?", "What's the {f} of {t}?", "Tell me the {f} of {t}.", "Find the {f} of {t}.", "What is the {f} for {t}?",
    "Which {f} does {t} have?", "I need the {f} of {t}.", "Look up the {f} of {t}.", "Do you see the {f} of {t}?", "What {f} is given for {t}?",
    "According to my notes, what is the {f} of {t}?", "In my files, what is the {f} of {t}?", "{f} of {t}?", "Give me the {f} of {t}.",
)  # fmt: skip
FILM_FRAMES = {
    "Year": ("When did {t} come out?", "What year is {t} from?", "When was {t} released?", "In which year was {t} made?"),
    "Cast": ("Who plays in {t}?", "Who stars in {t}?", "Which actors are in {t}?", "Who is in the cast of {t}?"),
    "Genres": ("What kind of film is {t}?", "Which genre is {t}?", "What genre does {t} belong to?"),
}  # fmt: skip
QUOTE_FRAMES = (
    "What do my files say about {w}?", "Find the line about {w}.", "Where do my documents mention {w}?", "Quote what is written about {w}.",
    "Is there anything about {w} in my notes?", "What is written about {w}?", "Look for {w} and quote the line.", "Search my files for {w}.",
    "What do the documents say about {w}?", "Find {w} in my documents.", "Tell me what my notes say about {w}.", "What did I write about {w}?",
)  # fmt: skip
UNITS = ("months", "days", "euros", "kg", "metres", "pages", "litres", "people", "hours", "percent", "km", "points")


def load_films(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as rows:
        films = [json.loads(row) for row in rows]
    return [f for f in films if f.get("extract") and f["cast"] and len(f["title"]) < 40 and not held_out("film", f["title"])]


def load_pages(path: Path, lines: int = 40) -> list[Document]:
    """Web pages as documents of at most `lines` lines; pages of the held-out fifth are left out."""
    pages = []
    with gzip.open(path, "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            if held_out("page", row["title"]) or len(row["title"]) > 40:
                continue
            kept = [x.strip() for x in row["text"].split("\n") if 20 < len(x.strip()) <= 300][:lines]
            if len(kept) >= 5 and slug(row["title"]):
                pages.append(Document(slug(row["title"]), row["title"], tuple(kept)))
    return pages


def film_document(film: dict) -> Document | None:
    sentences = re.split(r"(?<=[.!?]) +(?=[A-Z])", film["extract"])
    lines = [film["title"], f"Year: {film['year']}", f"Cast: {', '.join(film['cast'][:4])}"]
    if film["genres"]:
        lines.append(f"Genres: {', '.join(film['genres'])}")
    lines += [s for s in sentences[:5] if len(s) < 300]
    key = slug(film["title"])
    return Document(key, film["title"], tuple(lines)) if key else None


def _unique(documents: list[Document | None]) -> list[Document]:
    return list({d.id: d for d in documents if d}.values())


def note_document(rng: random.Random, pieces: Pieces) -> Document | None:
    """A note with invented field names, so that any words a user has can be searched for."""
    title = name(rng, pieces) if rng.random() < 0.7 else " ".join(rng.choice(pieces.middles + pieces.starts).lower() for _ in range(rng.randint(1, 3)))
    lines = [title]
    for _ in range(rng.randint(3, 7)):
        field = " ".join(rng.choice(pieces.starts).lower() for _ in range(rng.randint(1, 3))).capitalize()
        roll = rng.random()
        if roll < 0.35:
            value = f"{number_like(rng, rng.choice(('1', '12', '123', '1,234', '12.5', '12,345')))} {rng.choice(UNITS)}"
        elif roll < 0.5:
            value = f"{rng.randint(1, 28)} {rng.choice('January March May July September November'.split())} {rng.randint(1990, 2026)}"
        else:
            value = " ".join(word(rng, pieces) if rng.random() < 0.5 else word(rng, pieces).lower() for _ in range(rng.randint(1, 6)))
        lines.append(f"{field}: {value}")
    key = slug(title)
    return Document(key, title, tuple(lines)) if key and len(title) > 1 else None


def field_question(rng: random.Random, documents: list[Document], index: Index, films: bool) -> dict | None:
    """Ask for a `Field: value` line of one document."""
    document = rng.choice(documents)
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
    t = Trajectory(styled(rng, question), index)
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


def quote(rng: random.Random, documents: list[Document], index: Index) -> dict | None:
    """Ask for what is written about a few words; quote the best line."""
    document = rng.choice(documents)
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
    t = Trajectory(styled(rng, rng.choice(QUOTE_FRAMES).format(w=topic)), index)
    hits = t.search(f"I search for {topic}.", f"lines about {topic}")
    if not hits or (hits[0].id, hits[0].line) != (document.id, number):
        return None
    hit, reason = hits[0], f"The line {cite(hits[0])} fits."
    if len(hit.text) > HIT_WIDTH:
        t.call(f"The line {cite(hit)} fits and is cut. I open it.", "open", id=hit.id, line=hit.line)
        reason = "Now it is whole."
    t.answer(reason, f"It says: {line} {cite(hit)}")
    return t.record("quote", gold=line, cites=[f"{hit.id}:{hit.line}"])


def unanswerable(rng: random.Random, index: Index, question: str) -> dict | None:
    """A question that the documents do not answer: search with its own words, then say so and how to go on."""
    from openk2.synth.reach import NOT_FOUND

    content = [w for w in re.findall(r"[\w'-]+", question) if not set(words(w)) <= STOP_WORDS][:8]
    if not content:
        return None
    topic = " ".join(content)
    t = Trajectory(question, index)
    t.search(f"I search for {topic}.", f"lines about {topic}")
    t.answer("No line answers this.", NOT_FOUND)
    return t.record("unanswerable", gold=None)
