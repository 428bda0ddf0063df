"""How people ask: question frames, their fillers, and small carelessness. A fifth of all wordings is held out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from openk2.synth.heldout import held_out

LOOKUP = (
    "What is the {p} of {c}?", "What's the {p} of {c}?", "What is {c}'s {p}?", "Tell me the {p} of {c}.",
    "Give me the {p} of {c}.", "I need the {p} of {c}.", "Could you find the {p} of {c}?",
    "Do you know the {p} of {c}?", "Look up the {p} of {c}.", "Please find the {p} of {c}.", "Find the {p} for {c}.",
    "What does the library say about the {p} of {c}?", "I would like to know the {p} of {c}.",
    "Can you tell me the {p} of {c}?", "Can you look up the {p} for {c}?", "the {p} of {c}", "{p} of {c}",
    "{p} of {c}?", "What about the {p} of {c}?", "How about the {p} of {c}?", "Show me the {p} of {c}.",
    "What is the latest figure for the {p} of {c}?", "According to the Factbook, what is the {p} of {c}?",
    "Search for the {p} of {c}.", "My homework asks for the {p} of {c}.", "Check the {p} of {c}, please.",
    "For {c}, what is the {p}?", "In {c}, what is the {p}?", "When it comes to {c}, what is the {p}?",
    "Which {p} does {c} have?", "What {p} does {c} have?", "Find out the {p} of {c}.",
    "I am writing about {c}. What is its {p}?", "We talked about {c} today. What is its {p}?",
    "Quick question: the {p} of {c}?", "Would you look up {c} and tell me its {p}?", "Let me know the {p} of {c}.",
    "Report the {p} of {c}.", "State the {p} of {c}.",
)  # fmt: skip
# As people type into a search field: most without a verb.
SHORT = (
    "{p} of {c}?", "{p} of {c}?", "{p} of {c}", "{p} of {c}", "{p} {c}", "{c} {p}", "{c} {p}?", "{p} {c}?",
    "{p} in {c}", "{p} in {c}?", "{p} for {c}?", "{c}: {p}", "{c}: {p}?", "{c}, {p}?", "{c}, {p}", "{p}, {c}",
    "{c}'s {p}?", "{c}'s {p}", "{c} - {p}", "{p} - {c}", "{p}: {c}?", "and the {p} of {c}?", "And {p} of {c}?",
    "whats the {p} of {c}", "what is {c}'s {p}", "what's {c}'s {p}?", "what {p} in {c}?", "{c}, what {p}?",
    "the {p} in {c}?", "What is the {p} in {c}?", "What's the {p} in {c}?", "tell me {c}'s {p}", "{c} has which {p}?",
    "{p} of {c} please", "{p} of {c}, please", "do you know {c}'s {p}?", "what's the {p} of {c}",
    "need the {p} of {c}", "search {p} {c}", "{p} there in {c}?", "so {p} of {c}?", "the {c} {p}?",
)  # fmt: skip
# Which of two (more) has more (less): what people say instead of `has the largest area`.
CASUAL = (
    "Which {s}, {l}?", "Which {s}: {l}?", "Which country {s}, {l}?", "Which country {s}: {l}?", "What {s}, {l}?",
    "{l}, which {s}?", "{l}: which {s}?", "Who {s}, {l}?", "Which one {s}, {l}?", "Which {s} - {l}?",
    "Tell me which {s}: {l}.", "Do you know which {s}, {l}?", "Which of {l} {s}?", "Which place {s}, {l}?",
    "What {s}: {l}?", "{l}: what {s}?", "Guess which {s}: {l}.", "Which {s}? {l}",
)  # fmt: skip
# By label: (more of two, most of several, less of two, least of several); what goes for both is in both.
COMPARATIVES: dict[str, tuple[tuple[str, ...], ...]] = {
    "total area": (
        ("is bigger", "is larger", "is bigger", "has more land", "has the larger area"),
        ("is the biggest", "is the largest", "is biggest", "is largest"),
        ("is smaller", "has less land", "has the smaller area"), ("is the smallest", "is smallest"),
    ),
    "total population": (
        ("has more people", "has more inhabitants", "is more populous", "has the larger population"),
        ("has the most people", "has more people", "is the most populous"),
        ("has fewer people", "has the smaller population", "has fewer inhabitants"), ("has the fewest people",),
    ),
    "people per square kilometre": (
        ("is more crowded", "is more densely populated", "is denser"), ("is the most crowded", "is the densest"),
        ("is less crowded", "is less densely populated"), ("is the least crowded",),
    ),
    "real GDP per capita": (
        ("is richer", "has richer people", "is wealthier"), ("is the richest", "is the wealthiest"),
        ("is poorer", "has poorer people"), ("is the poorest",),
    ),
    "GDP official exchange rate": (
        ("has the bigger economy", "has a larger economy", "has a higher GDP"), ("has the biggest economy",),
        ("has the smaller economy", "has a lower GDP"), ("has the smallest economy",),
    ),
    "coastline": (
        ("has the longer coast", "has a longer coastline", "has more coast"), ("has the longest coast",),
        ("has the shorter coast", "has a shorter coastline"), ("has the shortest coast",),
    ),
    "mean elevation": (
        ("is higher on average", "lies higher"), ("is the highest on average",), ("is lower on average", "lies lower"),
        ("is the lowest on average",),
    ),
    "total median age": (
        ("is older on average", "has older people"), ("has the oldest people",), ("is younger on average",
        "has younger people"), ("has the youngest people",),
    ),
}  # fmt: skip
# Names that the library knows as others, as people say them.
ALIASES = {
    "United States": ("USA", "US", "America", "the USA", "the US", "the U.S.", "the States"),
    "United Kingdom": ("UK", "the UK", "Britain", "Great Britain", "the U.K."),
    "United Arab Emirates": ("UAE", "the UAE", "the Emirates"),
    "Czechia": ("Czech Republic", "the Czech Republic"),
    "Côte d'Ivoire": ("Ivory Coast", "the Ivory Coast"),
    "Netherlands": ("Holland",),
    "Burma": ("Myanmar",),
}
WITH_ARTICLE = re.compile(r"^(United|Republic|Democratic|Federated)|(Islands|Republic|Emirates|Netherlands|Kingdom)$")
DIFFERENCE = (
    "What is the difference in {p} between {a} and {b}?",
    "What is the difference between the {p} of {a} and the {p} of {b}?", "By how much do {a} and {b} differ in {p}?",
    "How far apart are {a} and {b} in {p}?", "How far apart are the {p} of {a} and that of {b}?",
    "Subtract the {p} of {b} from that of {a}.", "How much more {p} does {a} have than {b}?",
    "Find the gap in {p} between {a} and {b}.", "Tell me the difference in {p} between {a} and {b}.",
    "What separates {a} and {b} in {p}, in numbers?", "How big is the difference in {p} between {a} and {b}?",
    "Work out the difference in {p} between {a} and {b}.", "Take the {p} of {a} and subtract the {p} of {b}.",
    "I need the difference in {p} between {a} and {b}.", "Calculate how much the {p} of {a} differs from that of {b}.",
)  # fmt: skip
RATIO = (
    "What is the ratio of the {p} of {a} to that of {b}?", "How many times the {p} of {b} is the {p} of {a}?",
    "Divide the {p} of {a} by the {p} of {b}.", "How many times larger is the {p} of {a} than that of {b}?",
    "How does the {p} of {a} compare to that of {b}, as a ratio?", "What is the {p} of {a} divided by the {p} of {b}?",
    "Give me the ratio of {a} to {b} in {p}.", "What is the ratio between the {p} of {a} and the {p} of {b}?",
    "How many times does the {p} of {b} fit into that of {a}?", "Express the {p} of {a} as a multiple of that of {b}.",
    "Calculate the ratio of the {p} of {a} to the {p} of {b}.",
    "By what factor does the {p} of {a} exceed that of {b}?",
)  # fmt: skip
TOTAL = (
    "What is the combined {p} of {a} and {b}?", "Add the {p} of {a} and the {p} of {b}.",
    "What is the {p} of {a} and {b} together?", "What do {a} and {b} have together in {p}?",
    "What is the sum of the {p} of {a} and that of {b}?", "How much is the {p} of {a} plus the {p} of {b}?",
    "Taken together, what is the {p} of {a} and {b}?",
)  # fmt: skip
COMPARE = (
    "Which of {l} has the {s}?", "Which country has the {s}: {l}?", "Among {l}, which has the {s}?",
    "Out of {l}, which one has the {s}?", "Compare {l}. Which has the {s}?", "Of {l}, which has the {s}?",
    "Tell me which of {l} has the {s}.", "Who has the {s} among {l}?", "Which one has the {s}, {l}?",
    "I want to know which of {l} has the {s}.", "Find out which of {l} has the {s}.",
    "Take {l}. Where do you find the {s}?", "Between {l}, which has the {s}?", "Which has the {s}: {l}?",
    "Looking at {l}, which has the {s}?", "Which of these has the {s}: {l}?",
    "Please tell me which of {l} has the {s}.", "Can you find out which of {l} has the {s}?",
    "Name the one with the {s}: {l}.", "Who wins on the {s} among {l}?",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Which wordings may be used: those of training, or those held out from it."""

    held: bool = False

    def pick(
        self, rng: random.Random, frames: tuple[str, ...], fillers: tuple[str, ...], own: tuple[str, ...] = ()
    ) -> tuple[str, str]:
        """(frame, filler) on the wanted side of the split; `own` frames are whole questions without filler."""
        for _ in range(200):
            if own and rng.random() < 0.4:
                frame, filler = rng.choice(own), ""
                out = held_out("wording", frame)
            else:
                frame, filler = rng.choice(frames), rng.choice(fillers)
                out = held_out("frame", frame) or held_out("wording", f"{frame}|{filler}")
            if out == self.held:
                return frame, filler
        raise LookupError("no wording on this side of the split")


def as_said(text: str) -> str:
    """Spelled as it is."""
    return text


def careless(rng: random.Random) -> Callable[[str], str]:
    """How one question is spelled by somebody in a hurry: in small letters, seldom in capitals."""
    return str.upper if rng.random() < 0.06 else str.lower


def said_name(rng: random.Random, title: str) -> str:
    """A country in a question: its name, a common other one, with its article where it has one."""
    if title in ALIASES and rng.random() < 0.5:
        return rng.choice(ALIASES[title])
    return f"the {title}" if WITH_ARTICLE.search(title) and rng.random() < 0.6 else title


def styled(rng: random.Random, text: str) -> str:
    """The small carelessness of people: letter case, end marks, a greeting."""
    roll = rng.random()
    if roll < 0.06:
        text = text[0].lower() + text[1:]
    elif roll < 0.10:
        text = text.rstrip("?.")
    elif roll < 0.13:
        text = rng.choice(("Hi, ", "Hello! ", "Please: ", "Hey, ", "Thanks in advance. ", "One question. ")) + text
    return text


def listed(rng: random.Random, items: list[str]) -> str:
    """`A, B and C`, or with `or`."""
    last = rng.choice((" and ", " or ", ", and ", ", or ")) if len(items) > 2 else rng.choice((" and ", " or "))
    return ", ".join(items[:-1]) + last + items[-1]
