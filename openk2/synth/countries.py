"""Questions over the library: look-ups, two-figure questions, comparisons. Each is answered by executed calls."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from openk2.synth import wordings
from openk2.synth.attributes import ATTRIBUTES, BY_LABEL, DERIVED, NUMERIC, TEXTS, Attribute, Derived, literal
from openk2.synth.trajectory import Record, Trajectory, cite
from openk2.synth.wordings import Choice, as_said, listed, said_name, styled
from openk2.synth.worlds import World
from openk2.tools.formats import HIT_WIDTH
from openk2.tools.index import Hit

MISSING = 0.6  # share of the questions without an answer that are kept: honesty must be learned, but not as the rule
COMMON = ("total population", "total area", "capital name", "exchange rates currency", "languages", "capital name")
LONGEST_VALUE = 260  # characters of a value that is said in an answer


@dataclass(frozen=True)
class Combination:
    """How two figures x and y become one."""

    frames: tuple[str, ...]
    expression: str
    reason: str
    noun: str


COMBINATIONS = {
    "difference": Combination(wordings.DIFFERENCE, "abs({x} - {y})", "I subtract", "difference"),
    "ratio": Combination(wordings.RATIO, "round({x} / {y}, 2)", "I divide", "ratio"),
    "total": Combination(wordings.TOTAL, "{x} + {y}", "I add", "sum"),
}


def find_line(hits: list[Hit], title: str, attribute: Attribute) -> Hit | None:
    pattern = re.compile(attribute.heading + ": ")
    return next((h for h in hits if h.title == title and pattern.match(h.text)), None)


def value_of(hit: Hit) -> str:
    return hit.text.partition(": ")[2]


def not_found(rng: random.Random, t: Trajectory, hits: list[Hit], label: str, title: str, said: str) -> Record | None:
    """Say so. The title that was found is said before what it means, so that the two names stand side by side."""
    if rng.random() > MISSING:
        return None
    if not hits:
        reason = "No line was found."
    elif any(h.title == title for h in hits):
        reason = f"In {title}: no such line."
    else:
        reason = f"In {hits[0].title}: not {said}."
    t.answer(reason, f"I could not find the {label} of {said} in the documents.")
    return t.record("missing", gold=None)


def _absent_title(rng: random.Random, titles: list[str]) -> str:
    start = rng.choice(("New ", "Upper ", "Lower ", ""))
    return start + rng.choice(titles).split()[0] + rng.choice(("land", "ia", "stan", " City", " Province"))


def _spelling(rng: random.Random, share: float) -> Callable[[str], str]:
    """How a question is spelled; a share of them carelessly. Without a share nothing is drawn."""
    return wordings.careless(rng) if share and rng.random() < share else as_said


def lookup(
    rng: random.Random, world: World, choice: Choice, missing: float = 0.12, texts: float = 0.0, odd: float = 0.0
) -> Record | None:
    """One line of one country; a share `missing` of the draws asks for a country that is not there, a share `texts`
    for a line of words in any case, and a share `odd` is spelled carelessly."""
    attribute = rng.choice(TEXTS if rng.random() < texts else ATTRIBUTES)
    title = rng.choice(world.titles)
    frame, phrase = choice.pick(rng, wordings.LOOKUP, attribute.phrases, attribute.frames)
    if rng.random() < missing:
        title = _absent_title(rng, world.titles)
        if title in world.by_title:
            return None
    spell = _spelling(rng, odd)
    called = said_name(rng, title) if odd else title
    question = styled(rng, frame.format(p=phrase, c=called))
    return _looked_up(rng, Trajectory(spell(question), world.index), world, title, spell(title), attribute)


def short_lookup(rng: random.Random, world: World, choice: Choice, missing: float = 0.2) -> Record | None:
    """The same as one types it into a search field: `Capital of Peru?`, `peru population`."""
    # People look up words (capital, currency, language) as often as figures, and a few figures above all.
    roll = rng.random()
    attribute = rng.choice(TEXTS if roll < 0.4 else ATTRIBUTES)
    if roll > 0.75:
        attribute = BY_LABEL[rng.choice(COMMON)]
    title = rng.choice(world.titles)
    frame, phrase = choice.pick(rng, wordings.SHORT, attribute.phrases)
    if rng.random() < missing:
        title = _absent_title(rng, world.titles)
        if title in world.by_title:
            return None
    spell = _spelling(rng, 0.4)
    question = frame.format(p=phrase, c=said_name(rng, title))
    if rng.random() < 0.5:
        question = question[0].upper() + question[1:]
    return _looked_up(rng, Trajectory(spell(question), world.index), world, title, spell(title), attribute)


def _looked_up(
    rng: random.Random, t: Trajectory, world: World, title: str, said: str, attribute: Attribute
) -> Record | None:
    """Search for a line and answer with it. `said`: the title as the question spells it."""
    hits = t.search(f"I need the {attribute.label} of {said}.", f"{attribute.label} of {said}")
    hit = find_line(hits, title, attribute)
    if hit is None:
        if title in world.by_title and world.line(title, attribute):
            return None  # the search missed it: nothing to learn from
        return not_found(rng, t, hits, attribute.label, title, said)
    value = value_of(hit)
    if len(hit.text) > HIT_WIDTH:
        if len(value) > LONGEST_VALUE:
            return None
        t.call(f"In {title}: the line {cite(hit)} is cut. I open it.", "open", id=hit.id, line=hit.line)
        reason = "Now it is whole."
    else:
        reason = f"In {title}: the line {cite(hit)} has it."
    t.answer(reason, f"The {attribute.label} of {title} is: {value} {cite(hit)}")
    return t.record("lookup", gold=value, cites=[f"{hit.id}:{hit.line}"], label=attribute.label)


def _figure(t: Trajectory, title: str, said: str, attribute: Attribute, reason: str) -> tuple[str, Hit] | list[Hit]:
    """Search for a number: (Python literal, hit), or all hits where the search does not find it."""
    hits = t.search(reason, f"{attribute.label} of {said}")
    hit = find_line(hits, title, attribute)
    figure = literal(value_of(hit)) if hit else None
    return (figure, hit) if hit and figure else hits


def two_figures(rng: random.Random, world: World, choice: Choice, odd: float = 0.0) -> Record | None:
    """Difference, ratio or sum of one attribute of two countries; or a quotient of two attributes of one."""
    kind = rng.choices(("difference", "ratio", "total", "derived"), (3, 3, 1, 3))[0]
    if kind == "derived":
        return derived(rng, world, choice, odd)
    combine = COMBINATIONS[kind]
    attribute = rng.choice(NUMERIC)
    a, b = rng.sample(world.titles, 2)
    frame, phrase = choice.pick(rng, combine.frames, attribute.phrases)
    spell = _spelling(rng, odd)
    said_a, said_b = spell(a), spell(b)
    t = Trajectory(spell(styled(rng, frame.format(p=phrase, a=a, b=b))), world.index)
    label = attribute.label
    first = _figure(t, a, said_a, attribute, f"I need the {label} of {said_a} and of {said_b}. First {said_a}.")
    if isinstance(first, list):
        return not_found(rng, t, first, label, a, said_a) if world.line(a, attribute) is None else None
    x, hit_a = first
    second = _figure(t, b, said_b, attribute, f"In {a}: {x} {cite(hit_a)}. Next {said_b}.")
    if isinstance(second, list):
        return not_found(rng, t, second, label, b, said_b) if world.line(b, attribute) is None else None
    y, hit_b = second
    if kind == "ratio" and float(y) == 0:
        return None
    expression = combine.expression.format(x=x, y=y)
    result = t.call(f"In {b}: {y} {cite(hit_b)}. {combine.reason}.", "calculator", expression=expression)
    unit = attribute.unit if kind != "ratio" else ""
    t.answer("That is the answer.", f"The {combine.noun} is {result}{unit} {cite(hit_a)} {cite(hit_b)}")
    return t.record(kind, gold=result, cites=[f"{h.id}:{h.line}" for h in (hit_a, hit_b)], expression=expression)


def _pair(t: Trajectory, title: str, said: str, metric: Derived, reason: str) -> tuple[str, str, Hit, Hit] | None:
    """Both figures of a quotient, with their hits, by a search each."""
    first = _figure(t, title, said, BY_LABEL[metric.top], reason)
    if isinstance(first, list):
        return None
    x, one = first
    second = _figure(t, title, said, BY_LABEL[metric.bottom], f"In {title}: {x} {cite(one)}. Next the {metric.bottom}.")
    if isinstance(second, list) or float(second[0]) == 0:
        return None
    y, two = second
    return x, y, one, two


def derived(rng: random.Random, world: World, choice: Choice, odd: float = 0.0) -> Record | None:
    """A quotient of two lines of one country; nearly half of them ask for people per square kilometre."""
    metric = DERIVED[0] if rng.random() < 0.45 else rng.choice(DERIVED[1:])
    title = rng.choice(world.titles)
    frame, phrase = choice.pick(rng, wordings.LOOKUP, metric.phrases, metric.frames)
    spell = _spelling(rng, odd)
    said = spell(title)
    t = Trajectory(spell(styled(rng, frame.format(p=phrase, c=title))), world.index)
    found = _pair(t, title, said, metric, f"I need the {metric.top} and the {metric.bottom} of {said}.")
    if found is None:
        return None
    x, y, one, two = found
    expression = f"round({x} / {y}, {metric.digits})"
    result = t.call(f"{y} {cite(two)}. I divide.", "calculator", expression=expression)
    t.answer("That is the answer.", f"The {metric.label} of {title}: {result} {cite(one)} {cite(two)}")
    return t.record("derived", gold=result, cites=[f"{h.id}:{h.line}" for h in (one, two)], expression=expression)


def casual_compare(rng: random.Random, world: World, choice: Choice) -> Record | None:
    """Which of 2-4 countries is bigger, richer, ... in everyday words, nearly half of them spelled carelessly."""
    label, (more, most, less, least) = rng.choice(list(wordings.COMPARATIVES.items()))
    label = rng.choices((label, "total area", "total population"), (3, 1, 1))[0]
    more, most, less, least = wordings.COMPARATIVES[label]
    metric = DERIVED[0] if label == DERIVED[0].label else BY_LABEL[label]
    titles = rng.sample(world.titles, min(rng.choices((2, 3, 4), (7, 2, 1))[0], len(world.titles)))
    upward = rng.random() < 0.7
    two = len(titles) == 2
    frame, phrase = choice.pick(rng, wordings.CASUAL, (more if two else most) if upward else (less if two else least))
    called = [said_name(rng, title) for title in titles]
    verb, _, rest = phrase.partition(" ")
    than = two and verb in ("is", "has") and "the" not in rest.split()  # Is Peru bigger than Chile?
    if than and rng.random() < 0.25:
        opening = f"Is {called[0]}" if verb == "is" else f"Does {called[0]} have"
        question = f"{opening} {rest} than {called[1]}?"
    else:
        question = frame.format(l=listed(rng, called), s=phrase)
    spell = _spelling(rng, 0.45)
    return _compared(rng, spell(question), world, titles, spell, metric, upward)


def compare(
    rng: random.Random, world: World, choice: Choice, count: int | None = None, quotients: float = 0.3, odd: float = 0.0
) -> Record | None:
    """Which of 2-6 countries (or `count`) has the most or least of something: a figure each, then a line of Python.

    A share of `quotients` compares a quotient of two figures, most often people per square kilometre.
    """
    # Among quotients density above all: people ask for it.
    quotient = rng.choices((DERIVED[0], DERIVED[-1]), (8, 2))[0] if rng.random() < quotients else None
    metric: Attribute | Derived = quotient or rng.choice(NUMERIC)
    count = count or rng.choices((2, 3, 4, 5, 6), (3, 5, 3, 1, 1))[0]
    titles = rng.sample(world.titles, min(count, len(world.titles)))
    most = rng.random() < 0.6
    frame, superlative = choice.pick(rng, wordings.COMPARE, metric.most if most else metric.least)
    question = styled(rng, frame.format(l=listed(rng, titles), s=superlative))
    spell = _spelling(rng, odd)
    return _compared(rng, spell(question), world, titles, spell, metric, most)


def _compared(
    rng: random.Random, question: str, world: World, titles: list[str], spell: Callable[[str], str],
    metric: Attribute | Derived, most: bool,
) -> Record | None:  # fmt: skip
    """Answer a comparison: the figures of each country, by a search each, then a line of Python."""
    t = Trajectory(question, world.index)
    entries: list[str] = []
    cites: list[Hit] = []
    parts = f", {metric.top} by {metric.bottom}" if isinstance(metric, Derived) else ""
    said = [spell(title) for title in titles]
    reason = f"I compare the {metric.label}{parts}. First {said[0]}."
    for position, title in enumerate(titles):
        if isinstance(metric, Derived):
            found = _pair(t, title, said[position], metric, reason)
            if found is None:
                return None
            x, y, one, two = found
            note = f"{y} {cite(two)}."
            entries.append(f"' {title}': round({x} / {y}, {metric.digits})")
            cites += [one, two]
        else:
            single = _figure(t, title, said[position], metric, reason)
            if isinstance(single, list):
                if world.line(title, metric) is not None:
                    return None  # the search missed it
                return not_found(rng, t, single, metric.label, title, said[position])
            x, hit = single
            note = f"In {title}: {x} {cite(hit)}."
            entries.append(f"' {title}': {x}")
            cites.append(hit)
        reason = f"{note} Next {said[position + 1]}." if position + 1 < len(titles) else f"{note} I compare."
    if any("'" in title for title in titles):
        return None  # it would end the string in the code
    best = "max" if most else "min"
    quotient = isinstance(metric, Derived)
    shown = f"{best}(d, key=d.get), {best}(d.values())" if quotient else f"{best}(d, key=d.get)"
    t.call(reason, "python", code=f"d = {{{', '.join(entries)}}}; print({shown})")
    values: dict[str, float] = t.namespace["d"]
    if len(set(values.values())) != len(values):
        return None  # a tie has no one answer
    winner = (max if most else min)(values, key=values.__getitem__).strip()
    figure = f"{values[f' {winner}']} {metric.label}" if quotient else value_of(cites[titles.index(winner)])
    t.answer("That name is the answer.", f"It is {winner}: {figure} {' '.join(map(cite, cites))}")
    marks = [f"{h.id}:{h.line}" for h in cites]
    return t.record(f"compare{len(titles)}", gold=winner, figure=figure, cites=marks)
