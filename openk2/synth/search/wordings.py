"""Queries in words: each operation has several, and they are put into one another.

`ask` gives the question with `{}` for every name, which is what a wording is held out by, and the names in order.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from openk2.synth.attributes import ATTRIBUTES

if TYPE_CHECKING:
    from openk2.synth.search.questions import Query

ATTRIBUTE = {a.label: a for a in ATTRIBUTES}
NOUNS = {
    "with": (
        "the film with {} and {}", "the film starring {} and {}", "the film in which {} and {} play",
        "the film whose cast names {} and {}", "the film that has both {} and {}",
    ),
    "director": (
        "the director of {0}", "the person who directed {0}", "whoever directed {0}", "the one who directed {0}",
    ),
    "other": (
        "the other film here by the director of {0}", "the other film that my files have by the director of {0}",
        "the other film in these documents by whoever directed {0}",
        "the other film in my files by the director of {0}",
    ),
    "cell": (
        "the {c} given for {} in “{}”", "the {c} of {} in the table of “{}”", "the {c} listed for {} in “{}”",
        "what “{p}” gives as the {c} of {}",
    ),
}  # fmt: skip
WHOLE = {
    "year": (
        "When did {0} come out?", "Which year is {0} from?", "In which year was {0} released?",
        "From what year is {0}?",
        "What year do my files give for {0}?", "I need the year of {0}.", "Find the year of {0}.",
    ),
    "cast": (
        "Who plays in {0}?", "Who is in the cast of {0}?", "Which actors does {0} have?", "List the cast of {0}.",
        "Who are the actors of {0}?", "I want to know who plays in {0}.",
    ),
    "genres": (
        "What kind of film is {0}?", "Which genres does {0} have?", "What genre is given for {0}?",
        "Under which genres is {0} filed?", "Tell me the genres of {0}.",
    ),
    "director": (
        "Who directed {0}?", "Who is the director of {0}?", "By whom was {0} directed?", "Which director made {0}?",
        "Tell me who directed {0}.", "Find out who directed {0}.",
    ),
    "born": (
        "When was {0} born?", "What is the date of birth of {0}?", "On which day was {0} born?",
        "Find the date of birth of {0}.", "I need the birthday of {0}, with the year.",
    ),
    "attr": (
        "What is the {n} of {0}?", "Tell me the {n} of {0}.", "Find the {n} of {0}.", "Look up the {n} of {0}.",
        "What do my documents give as the {n} of {0}?",
    ),
    "cell": (
        "Find {0}.", "Tell me {0}.", "I need {0}.", "Look up {0}.", "Can you find {0}?", "Show me {0}.",
    ),
    "between year": (
        "How many years lie between {0} and {1}?", "How many years apart are {0} and {1}?",
        "What is the difference in years between {0} and {1}?", "By how many years do {0} and {1} differ?",
    ),
    "earlier year": (
        "Which came out first, {0} or {1}?", "Which is older: {0} or {1}?",
        "Which of the two is the earlier film, {0} or {1}?",
        "Was {0} or {1} released first?",
    ),
    "earlier born": (
        "Who was born first, {0} or {1}?", "Who is older: {0} or {1}?",
        "Who has the earlier date of birth, {0} or {1}?",
    ),
    "more": (
        "Which has the {n}: {0} or {1}?", "Which of the two has the {n}, {0} or {1}?", "Does {0} or {1} have the {n}?",
    ),
}  # fmt: skip
COUNTRY_OF = (
    "the country of {} in “{}”",
    "the country that “{p}” gives for {}",
    "the country listed for {} in “{}”",
    "the country behind {} in the table of “{}”",
)


def ask(query: Query, rng: random.Random) -> tuple[str, list[str]]:
    """The question with its names left out, and the names."""
    return _Speaker(rng).whole(query)


class _Speaker:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.title = rng.choice(("{}", "“{}”", "the film “{}”", "the film {}"))

    def whole(self, query: Query) -> tuple[str, list[str]]:
        operation, *parts = query
        noun, sides = "", [p for p in parts if isinstance(p, list)]
        if operation in ("attr", "more"):
            attribute = ATTRIBUTE[parts[0]]
            noun = self.rng.choice(attribute.most if operation == "more" else attribute.phrases)
        elif operation in ("between", "earlier"):
            operation = f"{operation} {sides[0][0]}"
            sides = [side[-1] for side in sides]
        if operation == "cell":
            sides = [query]
        frame = self.rng.choice(WHOLE[operation])
        if operation == "attr" and sides[0][0] == "country" and self.rng.random() < 0.5:
            frame = self.rng.choice(ATTRIBUTE[parts[0]].frames).replace("{c}", "{0}")
        inner = [self.noun(side, land=operation in ("attr", "more")) for side in sides]
        text = frame.replace("{n}", noun)
        for place, (words, _) in enumerate(inner):
            text = text.replace(f"{{{place}}}", words)
        return text[:1].upper() + text[1:], [name for _, names in inner for name in names]

    def noun(self, query: Query, land: bool = False) -> tuple[str, list[str]]:
        """`land`: a cell is meant as the country that it names."""
        operation, *parts = query
        if operation == "film":
            return self.title, [parts[0]]
        if operation in ("person", "country"):
            return "{}", [parts[0]]
        words = self.rng.choice(COUNTRY_OF if land and operation == "cell" else NOUNS[operation])
        if operation == "with":
            return words, parts
        if operation == "cell":
            page, row, column = parts
            turned = "{p}" in words
            words = words.replace("{c}", column if column.isupper() else column.lower()).replace("{p}", "{}")
            return words, [page, row] if turned else [row, page]
        inner, names = self.noun(parts[-1])
        return words.replace("{0}", inner), names
