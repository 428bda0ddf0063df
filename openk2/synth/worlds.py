"""Small libraries drawn anew: real Factbook pages of training countries with other names and other figures.

The structure (which lines exist, how they are worded, what else they say) stays real; names, numbers and short texts
are invented, so nothing in a world can be known without reading it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from openk2.library import documents
from openk2.synth.attributes import ATTRIBUTES, Attribute
from openk2.synth.heldout import held_out
from openk2.synth.names import Pieces, name, odd_word, renumber
from openk2.synth.wordings import ALIASES
from openk2.tools.index import Document, Index, slug

TEXT_HEADINGS = re.compile("|".join(f"(?:{a.heading})" for a in ATTRIBUTES if not a.numeric))
# Parts of titles that are words of the language too.
GENERIC = frozenset(
    "Islands Island Republic Democratic Kingdom United States State Federated Territory City North South East West"
    " Northern Southern Central New Saint Coast French British American".split()
)
ALWAYS = re.compile("|".join(f"(?:{a.heading})" for a in ATTRIBUTES))


def training_documents() -> list[Document]:
    return [d for d in documents() if not held_out("country", d.id)]


def held_out_documents() -> list[Document]:
    return [d for d in documents() if held_out("country", d.id)]


def scramble(rng: random.Random, pieces: Pieces, text: str) -> str:
    """Some words of a text replaced by invented ones, letter case kept."""

    def swap(match: re.Match[str]) -> str:
        old = match[0]
        if len(old) < 4 or rng.random() < 0.45:
            return old
        new = odd_word(rng, pieces)
        return new if old[0].isupper() or new.isupper() else new.lower()

    return re.sub(r"[A-Za-z]+", swap, text)


def renamer(old: str, new: str) -> Callable[[str], str]:
    """Puts the new title in place of the old one, and its stem in place of the old one's (`Andorran` -> `Xyzan`), so
    that values resemble the title as they do in real pages."""
    if old == new:
        return lambda text: text
    title = re.compile(rf"\b{re.escape(old)}\b")
    own = [w for w in re.findall(r"\w{4,}", old) if w not in GENERIC]
    if not own:
        return lambda text: title.sub(new, text)
    longest = max(own, key=len)
    stem = longest.rstrip("aeiouy")
    stem = stem if len(stem) >= 4 else longest
    given = max((w for w in re.findall(r"\w+", new) if w not in GENERIC), key=len, default=new)
    derived = re.compile(rf"\b{re.escape(stem)}(\w*)")
    return lambda text: derived.sub(lambda m: given + m[1], title.sub(new, text))


@dataclass(frozen=True)
class World:
    """Countries that can be asked about, and an index that holds them (and may hold more)."""

    index: Index
    titles: list[str]
    by_title: dict[str, Document]

    def line(self, title: str, attribute: Attribute) -> tuple[int, str] | None:
        """(line number, value) of an attribute, or None when this world has no such page or line."""
        document = self.by_title.get(title)
        if document is None:
            return None
        pattern = re.compile(attribute.heading + ": ")
        for number, text in enumerate(document.lines, 1):
            match = pattern.match(text)
            if match:
                return number, text[match.end() :]
        return None


def redraw(rng: random.Random, pieces: Pieces, page: Document, title: str) -> Document:
    """One page under a new title, with new figures; some lines are dropped, so that line numbers and gaps vary."""
    rename = renamer(page.title, title)
    keep = rng.uniform(0.45, 1.0)
    lines = [title]
    for text in page.lines[1:]:
        wanted = ALWAYS.match(text) is not None
        if rng.random() > (0.94 if wanted else keep):
            continue
        heading, colon, value = text.partition(": ")
        value = renumber(rng, rename(value))
        if wanted and TEXT_HEADINGS.match(text) and rng.random() < 0.7:
            value = scramble(rng, pieces, value)
        lines.append(heading + colon + value)
    return Document(slug(title), title, tuple(lines))


def draw_world(rng: random.Random, pages: list[Document], pieces: Pieces, size: int) -> World:
    """At most `size` invented countries; one title in seven stays real, one in twenty is one that has other names."""
    chosen = rng.sample(pages, size)
    made: dict[str, Document] = {}
    for page in chosen:
        roll = rng.random()
        title = page.title if roll < 0.15 else rng.choice(tuple(ALIASES)) if roll < 0.2 else name(rng, pieces)
        document = redraw(rng, pieces, page, title)
        if document.id and all(document.id != d.id for d in made.values()):
            made[title] = document
    return World(Index.memory(made.values()), list(made), made)


def real_world(pages: list[Document], index: Index) -> World:
    """Countries as they are."""
    return World(index, [p.title for p in pages], {p.title: p for p in pages})
