"""Names and figures drawn anew for every example, so that copying what was found is the only way to be right.

Invented names are glued from the tokenizer's own pieces: over many examples every word piece of the vocabulary is
copied, in names of every length. (With a closed set of names a small model memorises and does not read.)
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openk2.chat.tokenizer import Tokenizer

PATTERNS = (
    ("{}", 46), ("{} {}", 18), ("{} Islands", 5), ("Republic of {}", 2), ("North {}", 2), ("South {}", 2),
    ("New {}", 3), ("Saint {}", 3), ("{} and {}", 5), ("{}-{}", 3), ("{} {} {}", 4), ("East {}", 1), ("West {}", 1),
    ("United {}", 1), ("Democratic Republic of the {}", 1), ("{} Republic", 1), ("{} Island", 1), ("{} and the {}", 1),
    ("{} of {}", 1),
)  # fmt: skip
TEMPLATES, WEIGHTS = zip(*PATTERNS, strict=True)


@dataclass(frozen=True)
class Pieces:
    """Word pieces: `starts` begin a word (from ` Xyz` tokens), `middles` continue one."""

    starts: tuple[str, ...]
    middles: tuple[str, ...]

    @classmethod
    def of(cls, tokens: list[str]) -> Pieces:
        starts = tuple(t[1:] for t in tokens if re.fullmatch(r" [A-Z][a-z]*", t))
        lower = tuple(t[1:].capitalize() for t in tokens if re.fullmatch(r" [a-z]{2,}", t))
        middles = tuple(t for t in tokens if re.fullmatch(r"[a-z]{1,8}", t))
        return cls(starts + lower, middles)


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """The ASCII word pieces of a vocabulary."""
    ordinary = (t for t in range(tokenizer.n_vocab) if not tokenizer.is_special(t))
    raw = (tokenizer.decode_bytes([t]) for t in ordinary)
    return Pieces.of([piece.decode() for piece in raw if piece.isascii()])


def word(rng: random.Random, pieces: Pieces) -> str:
    """One capitalised word of one to four pieces, at most 14 letters."""
    text = rng.choice(pieces.starts)
    for _ in range(rng.choices((0, 1, 2, 3), (3, 5, 3, 1))[0]):
        text += rng.choice(pieces.middles)
    return text[:14] if len(text) > 2 else text + rng.choice(pieces.middles)


ACCENTS = {
    "a": "áàâäãåă", "c": "çćč", "d": "đ", "e": "éèêëěę", "g": "ğ", "i": "íìîïı", "l": "ł", "n": "ñńň", "o": "óòôöõøő",
    "s": "šşś", "t": "ţť", "u": "úùûüůű", "y": "ý", "z": "žźż",
}  # fmt: skip


def odd_word(rng: random.Random, pieces: Pieces) -> str:
    """A word as texts about countries have them: now and then a SURNAME or a word with an accent."""
    text = word(rng, pieces)
    roll = rng.random()
    if roll < 0.1:
        return text.upper()
    if roll < 0.2:
        places = [i for i, letter in enumerate(text) if letter in ACCENTS]
        if places:
            at = rng.choice(places)
            return text[:at] + rng.choice(ACCENTS[text[at]]) + text[at + 1 :]
    return text


def name(rng: random.Random, pieces: Pieces) -> str:
    """A name as countries have them: `Xyz`, `New Xyz`, `Xyz and Abc`, `Xyz Islands` ..."""
    template = rng.choices(TEMPLATES, WEIGHTS)[0]
    return template.format(*(word(rng, pieces) for _ in range(template.count("{}"))))


def number_like(rng: random.Random, text: str) -> str:
    """A new figure in the form of `text` (`1,234`, `12.5`, `2023`), of a size that varies by a factor of 100 or so."""
    whole, dot, part = text.partition(".")
    digits = whole.replace(",", "")
    if not dot and len(digits) == 4 and "," not in whole and digits[:2] in ("18", "19", "20"):
        return str(rng.randint(1950, 2025))
    grouped = "," in whole or (len(digits) <= 3 and not dot and rng.random() < 0.15)
    length = max(1, len(digits) + rng.choice((-2, -1, 0, 0, 0, 1, 2)) if grouped else min(3, len(digits)))
    if not grouped and length < 3 and rng.random() < 0.3:
        length += 1
    value = rng.randint(10 ** (length - 1), 10**length - 1) if length > 1 else rng.randint(0, 9)
    head = f"{value:,}" if grouped else str(value)
    return head + dot + "".join(rng.choice("0123456789") for _ in part)


def renumber(rng: random.Random, text: str) -> str:
    """Every figure of a text drawn anew."""
    return re.sub(r"\d[\d,]*\d(?:\.\d+)?|\d(?:\.\d+)?", lambda m: number_like(rng, m[0]), text)
