"""What lifted word problems share: numbers and names drawn anew, so that no problem is met twice."""

from __future__ import annotations

import random
import re

PEOPLE = (
    "Anna Ben Carla David Emma Frank Grace Henry Ivy Jack Kate Liam Mia Noah Olga Paul Quinn Rosa Sam Tara Umar Vera"
    " Will Yara Zoe Amir Bella Chen Dora Elif Farid Gina Hugo Ines Jonas Kofi Lena Marco Nadia Omar Priya Ravi Sofia"
    " Tom Uma Victor Wanda Xenia"
).split()
# Words that begin a sentence, and names of days: capitalised, and nobody.
COMMON = frozenset(
    "The There They How What When Which Who Why Where His Her Its Each Every After Before During For From With Then"
    " That This These Those And But All Some Most Many One Two Three Four Five Six She Mrs Miss Monday Tuesday"
    " Wednesday Thursday Friday Saturday Sunday January February March April May June July August September October"
    " November December Christmas Halloween Easter Find Calculate Suppose Assume While Since Because Today Yesterday"
    " Tomorrow Last Next Our Your Their Out Not Only Both Half Twice Later Now".split()
)
LARGEST = 1e7  # results beyond it make no sense in a word problem


def show(value: float, grouped: str) -> str:
    """12000.0 -> `12,000` (`grouped` is "," for people) or `12_000` ("_" for code), 0.25 -> `0.25`."""
    if value == int(value):
        return f"{int(value):{grouped}}" if abs(value) >= 1000 else str(int(value))
    return repr(round(value, 4))


def draw(rng: random.Random, value: float) -> float:
    """Another number of the same kind: a fraction with as many places, a whole number of about the same size."""
    if value != int(value):
        places = len(repr(value).partition(".")[2])
        return round(max(0.01, value * rng.uniform(0.3, 3.0)), min(places, 2))
    if value <= 1:
        return value
    if value <= 20:
        high = rng.choice((10, 20, 50, 100))
    elif value <= 1000:
        high = rng.choice((100, 300, 1000))
    else:
        high = int(value * 4)
    return float(rng.randint(2, max(3, high)))


def sensible(original: float, value: float) -> bool:
    """Whether a new result can stand for the old one: as positive, as whole, and not too large."""
    if value <= 0 and original > 0:
        return False
    return (original != int(original) or value == int(value)) and abs(value) < LARGEST


def rename(rng: random.Random, text: str) -> str:
    """The people of a problem get other names, the same person the same name."""
    found = [n for n in dict.fromkeys(re.findall(r"\b[A-Z][a-z]{2,}\b", text)) if _is_person(n, text)]
    new = rng.sample(PEOPLE, min(len(found), len(PEOPLE)))
    table = dict(zip(found, new, strict=False))
    return re.sub(r"\b[A-Z][a-z]{2,}\b", lambda m: table.get(m[0], m[0]), text)


def _is_person(word: str, text: str) -> bool:
    after_article = re.search(rf"\b(The|the|of|in|at|from|to|on) {word}\b", text)
    return word not in COMMON and after_article is None and len(word) < 11
