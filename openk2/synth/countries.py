"""Questions over the library: look-ups, two-figure questions, comparisons; many wordings, a fifth of them held out."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from openk2.synth.attributes import ATTRIBUTES, BY_LABEL, DERIVED, Attribute, Derived, literal
from openk2.synth.heldout import held_out
from openk2.synth.trajectory import Trajectory
from openk2.synth.worlds import World
from openk2.tools.formats import HIT_WIDTH
from openk2.tools.index import Hit

LOOKUP = (
    "What is the {p} of {c}?", "What's the {p} of {c}?", "What is {c}'s {p}?", "Tell me the {p} of {c}.", "Give me the {p} of {c}.",
    "I need the {p} of {c}.", "Could you find the {p} of {c}?", "Do you know the {p} of {c}?", "Look up the {p} of {c}.",
    "Please find the {p} of {c}.", "Find the {p} for {c}.", "What does the library say about the {p} of {c}?",
    "I would like to know the {p} of {c}.", "Can you tell me the {p} of {c}?", "Can you look up the {p} for {c}?", "the {p} of {c}",
    "{p} of {c}", "{p} of {c}?", "What about the {p} of {c}?", "How about the {p} of {c}?", "Show me the {p} of {c}.",
    "What is the latest figure for the {p} of {c}?", "According to the Factbook, what is the {p} of {c}?", "Search for the {p} of {c}.",
    "My homework asks for the {p} of {c}.", "Check the {p} of {c}, please.", "For {c}, what is the {p}?", "In {c}, what is the {p}?",
    "When it comes to {c}, what is the {p}?", "Which {p} does {c} have?", "What {p} does {c} have?", "Find out the {p} of {c}.",
    "I am writing about {c}. What is its {p}?", "We talked about {c} today. What is its {p}?", "Quick question: the {p} of {c}?",
    "Would you look up {c} and tell me its {p}?", "Let me know the {p} of {c}.", "Report the {p} of {c}.", "State the {p} of {c}.",
)  # fmt: skip
DIFFERENCE = (
    "What is the difference in {p} between {a} and {b}?", "What is the difference between the {p} of {a} and the {p} of {b}?",
    "By how much do {a} and {b} differ in {p}?", "How far apart are {a} and {b} in {p}?", "How far apart are the {p} of {a} and that of {b}?",
    "Subtract the {p} of {b} from that of {a}.", "How much more {p} does {a} have than {b}?", "Find the gap in {p} between {a} and {b}.",
    "Tell me the difference in {p} between {a} and {b}.", "What separates {a} and {b} in {p}, in numbers?",
    "How big is the difference in {p} between {a} and {b}?", "Work out the difference in {p} between {a} and {b}.",
    "Take the {p} of {a} and subtract the {p} of {b}.", "I need the difference in {p} between {a} and {b}.",
    "Calculate how much the {p} of {a} differs from that of {b}.",
)  # fmt: skip
RATIO = (
    "What is the ratio of the {p} of {a} to that of {b}?", "How many times the {p} of {b} is the {p} of {a}?",
    "Divide the {p} of {a} by the {p} of {b}.", "How many times larger is the {p} of {a} than that of {b}?",
    "How does the {p} of {a} compare to that of {b}, as a ratio?", "What is the {p} of {a} divided by the {p} of {b}?",
    "Give me the ratio of {a} to {b} in {p}.", "What is the ratio between the {p} of {a} and the {p} of {b}?",
    "How many times does the {p} of {b} fit into that of {a}?", "Express the {p} of {a} as a multiple of that of {b}.",
    "Calculate the ratio of the {p} of {a} to the {p} of {b}.", "By what factor does the {p} of {a} exceed that of {b}?",
)  # fmt: skip
TOTAL = (
    "What is the combined {p} of {a} and {b}?", "Add the {p} of {a} and the {p} of {b}.", "What is the {p} of {a} and {b} together?",
    "What do {a} and {b} have together in {p}?", "What is the sum of the {p} of {a} and that of {b}?",
    "How much is the {p} of {a} plus the {p} of {b}?", "Taken together, what is the {p} of {a} and {b}?",
)  # fmt: skip
COMPARE = (
    "Which of {l} has the {s}?", "Which country has the {s}: {l}?", "Among {l}, which has the {s}?", "Out of {l}, which one has the {s}?",
    "Compare {l}. Which has the {s}?", "Of {l}, which has the {s}?", "Tell me which of {l} has the {s}.", "Who has the {s} among {l}?",
    "Which one has the {s}, {l}?", "I want to know which of {l} has the {s}.", "Find out which of {l} has the {s}.",
    "Take {l}. Where do you find the {s}?", "Between {l}, which has the {s}?", "Which has the {s}: {l}?",
    "Looking at {l}, which has the {s}?", "Which of these has the {s}: {l}?", "Please tell me which of {l} has the {s}.",
    "Can you find out which of {l} has the {s}?", "Name the one with the {s}: {l}.", "Who wins on the {s} among {l}?",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Which wordings may be used: those of training, or those held out from it."""

    held: bool = False

    def pick(self, rng: random.Random, frames: tuple[str, ...], fillers: tuple[str, ...], own: tuple[str, ...] = ()) -> tuple[str, str]:
        """(frame, filler) with the wanted side of the split; `own` frames are whole questions without filler."""
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
    last = rng.choice((" and ", " or ", ", and ", ", or ")) if len(items) > 2 else rng.choice((" and ", " or "))
    return ", ".join(items[:-1]) + last + items[-1]


def find_line(hits: list[Hit], title: str, attribute: Attribute) -> Hit | None:
    pattern = re.compile(attribute.heading + ": ")
    return next((h for h in hits if h.title == title and pattern.match(h.text)), None)


def cite(hit: Hit) -> str:
    return f"[{hit.id}:{hit.line}]"


def value_of(hit: Hit) -> str:
    return hit.text.partition(": ")[2]


MISSING = 0.3  # share of the questions without an answer that are kept: honesty must be learned, but not as the rule


def not_found(rng: random.Random, t: Trajectory, label: str, title: str) -> dict | None:
    if rng.random() > MISSING:
        return None
    t.answer(f"None of these lines gives the {label} of {title}.", f"I could not find the {label} of {title} in the documents.")
    return t.record("missing", gold=None)


def lookup(rng: random.Random, world: World, choice: Choice, missing: float = 0.12) -> dict | None:
    attribute = rng.choice(ATTRIBUTES)
    title = rng.choice(world.titles)
    frame, phrase = choice.pick(rng, LOOKUP, attribute.phrases, attribute.frames)
    index = world.index
    if rng.random() < missing:  # a country that is not there
        title = rng.choice(("New ", "Upper ", "Lower ", "")) + rng.choice(world.titles).split()[0] + rng.choice(("land", "ia", "stan", " City", " Province"))
        if title in world.by_title:
            return None
    t = Trajectory(styled(rng, frame.format(p=phrase, c=title)), index)
    hits = t.search(f"I need the {attribute.label} of {title}.", f"{attribute.label} of {title}")
    hit = find_line(hits, title, attribute)
    if hit is None:
        if title in world.by_title and world.line(title, attribute):
            return None  # the search missed it: nothing to learn from
        return not_found(rng, t, attribute.label, title)
    value = value_of(hit)
    if len(hit.text) > HIT_WIDTH:
        if len(value) > 260:
            return None
        t.call(f"The line {cite(hit)} is cut. I open it.", "open", id=hit.id, line=hit.line)
        reason = "Now it is whole."
    else:
        reason = f"The line {cite(hit)} has it."
    verb = "is"
    t.answer(reason, f"The {attribute.label} of {title} {verb}: {value} {cite(hit)}")
    return t.record("lookup", gold=value, cites=[f"{hit.id}:{hit.line}"], label=attribute.label)


def _figure(t: Trajectory, world: World, title: str, attribute: Attribute, reason: str) -> tuple[str, Hit] | None:
    hits = t.search(reason, f"{attribute.label} of {title}")
    hit = find_line(hits, title, attribute)
    figure = literal(value_of(hit)) if hit else None
    return (figure, hit) if hit and figure else None


def two_figures(rng: random.Random, world: World, choice: Choice) -> dict | None:
    """Difference, ratio or sum of one attribute of two countries; or a quotient of two attributes of one."""
    kind = rng.choices(("difference", "ratio", "total", "derived"), (3, 3, 1, 3))[0]
    if kind == "derived":
        return derived(rng, world, choice)
    attribute = rng.choice([a for a in ATTRIBUTES if a.numeric])
    a, b = rng.sample(world.titles, 2)
    frames = {"difference": DIFFERENCE, "ratio": RATIO, "total": TOTAL}[kind]
    frame, phrase = choice.pick(rng, frames, attribute.phrases)
    t = Trajectory(styled(rng, frame.format(p=phrase, a=a, b=b)), world.index)
    label = attribute.label
    first = _figure(t, world, a, attribute, f"I need the {label} of {a} and of {b}. First {a}.")
    if first is None:
        return not_found(rng, t, label, a) if world.line(a, attribute) is None else None
    x, hit_a = first
    second = _figure(t, world, b, attribute, f"In {a}: {x} {cite(hit_a)}. Next {b}.")
    if second is None:
        return not_found(rng, t, label, b) if world.line(b, attribute) is None else None
    y, hit_b = second
    if kind == "ratio" and float(y.replace("_", "")) == 0:
        return None
    expression = {"difference": f"abs({x} - {y})", "ratio": f"round({x} / {y}, 2)", "total": f"{x} + {y}"}[kind]
    verb = {"difference": "I subtract", "ratio": "I divide", "total": "I add"}[kind]
    result = t.call(f"In {b}: {y} {cite(hit_b)}. {verb}.", "calculator", expression=expression)
    noun = {"difference": "difference", "ratio": "ratio", "total": "sum"}[kind]
    unit = attribute.unit if kind != "ratio" else ""
    t.answer("That is the answer.", f"The {noun} is {result}{unit} {cite(hit_a)} {cite(hit_b)}")
    return t.record(kind, gold=result, cites=[f"{h.id}:{h.line}" for h in (hit_a, hit_b)], expression=expression)


def _pair(t: Trajectory, world: World, title: str, metric: Derived, reason: str) -> tuple[str, str, Hit, Hit] | None:
    """Both figures of a quotient: by one search where one finds both lines, else by two."""
    top, bottom = BY_LABEL[metric.top], BY_LABEL[metric.bottom]
    if metric.label in ("people per square kilometre", "women per man"):
        hits = t.search(reason, f"{metric.query} of {title}")
        one, two = find_line(hits, title, top), find_line(hits, title, bottom)
        x, y = (literal(value_of(h)) if h else None for h in (one, two))
    else:
        first = _figure(t, world, title, top, reason)
        if first is None:
            return None
        x, one = first
        second = _figure(t, world, title, bottom, f"In {title}: {x} {cite(one)}. Next the {metric.bottom}.")
        y, two = second if second else (None, None)
    if not (x and y and one and two) or float(y.replace("_", "")) == 0:
        return None
    return x, y, one, two


def derived(rng: random.Random, world: World, choice: Choice) -> dict | None:
    metric = DERIVED[0] if rng.random() < 0.45 else rng.choice(DERIVED[1:])
    title = rng.choice(world.titles)
    frame, phrase = choice.pick(rng, LOOKUP, metric.phrases, metric.frames)
    t = Trajectory(styled(rng, frame.format(p=phrase, c=title)), world.index)
    found = _pair(t, world, title, metric, f"I need the {metric.top} and the {metric.bottom} of {title}.")
    if found is None:
        return None
    x, y, one, two = found
    expression = f"round({x} / {y}, {metric.digits})"
    note = f"In {title}: {x} {cite(one)}, {y} {cite(two)}." if one.id == two.id and metric.label in ("people per square kilometre", "women per man") else f"{y} {cite(two)}."
    result = t.call(f"{note} I divide.", "calculator", expression=expression)
    t.answer("That is the answer.", f"The {metric.label} of {title}: {result} {cite(one)} {cite(two)}")
    return t.record("derived", gold=result, cites=[f"{h.id}:{h.line}" for h in (one, two)], expression=expression)


def compare(rng: random.Random, world: World, choice: Choice, count: int | None = None) -> dict | None:
    """Which of 2-6 countries has the most or least of something: a figure each, then one line of Python."""
    if rng.random() < 0.3:
        metric: Attribute | Derived = DERIVED[0] if rng.random() < 0.8 else DERIVED[-1]
    else:
        metric = rng.choice([a for a in ATTRIBUTES if a.numeric])
    count = count or rng.choices((2, 3, 4, 5, 6), (3, 5, 3, 1, 1))[0]
    titles = rng.sample(world.titles, min(count, len(world.titles)))
    most = rng.random() < 0.6
    frame, superlative = choice.pick(rng, COMPARE, metric.most if most else metric.least)
    t = Trajectory(styled(rng, frame.format(l=listed(rng, titles), s=superlative)), world.index)
    entries, cites = [], []
    reason = f"I compare the {metric.label}. First {titles[0]}."
    for position, title in enumerate(titles):
        if isinstance(metric, Derived):
            found = _pair(t, world, title, metric, reason)
            if found is None:
                return None
            x, y, one, two = found
            note = f"In {title}: {x} {cite(one)}, {y} {cite(two)}."
            entries.append(f"' {title}': round({x} / {y}, {metric.digits})")
            cites += [one, two]
        else:
            single = _figure(t, world, title, metric, reason)
            if single is None:
                return not_found(rng, t, metric.label, title) if world.line(title, metric) is None else None
            x, hit = single
            note = f"In {title}: {x} {cite(hit)}."
            entries.append(f"' {title}': {x}")
            cites.append(hit)
        reason = f"{note} Next {titles[position + 1]}." if position + 1 < len(titles) else f"{note} I compare."
    if any("'" in title for title in titles):
        return None
    best = "max" if most else "min"
    quotient = isinstance(metric, Derived)
    shown = f"{best}(d, key=d.get), {best}(d.values())" if quotient else f"{best}(d, key=d.get)"
    t.call(reason, "python", code=f"d = {{{', '.join(entries)}}}; print({shown})")
    values = t.namespace["d"]
    if len(set(values.values())) != len(values):
        return None  # a tie has no one answer
    winner = (max if most else min)(values, key=values.get)
    if quotient:
        figure = f"{values[winner]} {metric.label}"
    else:
        figure = value_of(cites[titles.index(winner.strip())])
    t.answer("That name is the answer.", f"It is{winner}: {figure} {' '.join(map(cite, cites))}")
    return t.record(f"compare{len(titles)}", gold=winner.strip(), figure=figure, cites=[f"{h.id}:{h.line}" for h in cites])


