"""Questions with gold answers, drawn from what training never saw: countries, wordings, a MAWPS fold, other numbers.

Every suite is made by the generators of `synth/`, so that training and evaluation differ in exactly what is held out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from openk2 import library
from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError
from openk2.synth import chains, countries, newcomer, reach
from openk2.synth.attributes import BY_LABEL
from openk2.synth.heldout import MAWPS_FOLD
from openk2.synth.maths.mawps import load_mawps, tidied
from openk2.synth.maths.short import mawps_problem
from openk2.synth.names import Pieces, pieces_of
from openk2.synth.trajectory import Record
from openk2.synth.wordings import Choice
from openk2.synth.worlds import World, held_out_documents, real_world
from openk2.tools.calculator import evaluate


@dataclass(frozen=True)
class Task:
    """One question. `kind` says how its answer is judged; `cites` are the lines a right answer rests on; `others` are
    the wrong candidates where the gold is a name; `within` is the relative error that a number may have."""

    text: str
    kind: Literal["text", "number", "name", "abstain"]
    gold: str = ""
    cites: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    within: float = 1e-6


@dataclass
class Material:
    """What suites draw from. `data`: the folder of the source files, needed by the suites that say so; `tokenizer`:
    the folder whose vocabulary names are invented from."""

    data: Path | None
    tokenizer: Path

    @cached_property
    def world(self) -> World:
        """The held-out countries as they are, among all others."""
        return real_world(held_out_documents(), library.index())

    def file(self, name: str) -> Path:
        """Raises UserError where the data folder is not given; a file that it lacks is named by its reader."""
        if self.data is None:
            raise UserError(f"This suite needs {name}: name the folder that holds it with --data.")
        return self.data / name

    def pieces(self) -> Pieces:
        return pieces_of(Tokenizer.load(self.tokenizer))


Draw = Callable[[random.Random], Task | None]  # a draw that has no sound task gives None; StopIteration: no more tasks
Prepare = Callable[[Material], Draw]


@dataclass(frozen=True)
class Suite:
    """`what` it asks, the `target` share of right answers, and how its tasks are drawn."""

    what: str
    target: float
    prepare: Prepare


def question(record: Record) -> str:
    return record["messages"][1]["content"]


def _library(make: Callable[..., Record | None], kinds: tuple[str, ...], held: bool) -> Prepare:
    """Records of a generator over the held-out countries; `held`: in held-out wordings."""

    def prepare(material: Material) -> Draw:
        world = material.world

        def draw(rng: random.Random) -> Task | None:
            record = make(rng, world, Choice(held))
            if record is None or record["kind"] not in kinds:
                return None
            proof = record["proof"]
            if record["kind"].startswith("compare"):
                text = question(record)
                others = tuple(t for t in world.titles if t in text and t != proof["gold"])
                return Task(text, "name", proof["gold"], tuple(proof["cites"]), others)
            kind = "text" if record["kind"] == "lookup" else "number"
            return Task(question(record), kind, proof["gold"], tuple(proof["cites"]))

        return draw

    return prepare


def _compare3(rng: random.Random, world: World, choice: Choice) -> Record | None:
    return countries.compare(rng, world, choice, 3)


def _missing(material: Material) -> Draw:
    """Library questions that the library cannot answer: a value it lacks, a country that does not exist."""
    world = material.world

    def draw(rng: random.Random) -> Task | None:
        record = countries.lookup(rng, world, Choice(False), missing=0.5)
        return Task(question(record), "abstain") if record and record["kind"] == "missing" else None

    return draw


def _mawps(held: bool) -> Prepare:
    """MAWPS: the training folds with new numbers, or the held-out fold as it is, each problem once."""

    def prepare(material: Material) -> Draw:
        found = [p for p in load_mawps(material.file("mawps.jsonl.gz")) if (p.fold == MAWPS_FOLD) == held]
        problems = found if held else [p for q in found if (p := tidied(q))]
        order = list(problems)
        random.Random(0).shuffle(order)
        each = iter(order)

        def draw(rng: random.Random) -> Task | None:
            problem = next(each) if held else rng.choice(problems)
            record = mawps_problem(rng, problem, fresh=not held)
            return Task(question(record), "number", record["proof"]["gold"]) if record else None

        return draw

    return prepare


def _chain(length: int) -> Prepare:
    def prepare(_: Material) -> Draw:
        def draw(rng: random.Random) -> Task:
            record = chains.arithmetic_chain(rng, length)
            return Task(question(record), "number", record["proof"]["gold"])

        return draw

    return prepare


def _reach(material: Material) -> Draw:
    """Wordings held out from training, and human-written questions about tables that are not there."""
    pieces = material.pieces()
    tables = reach.load_table_questions(material.file("table_questions_train.jsonl.gz"), held=True)

    def draw(rng: random.Random) -> Task:
        if rng.random() < 0.5:
            return Task(rng.choice(tables), "abstain")
        return Task(question(reach.outside(rng, pieces, held=True)), "abstain")

    return draw


def _listed(listed: Callable[[Material], list[Task]]) -> Prepare:
    """Tasks of a fixed list, in its order, each once."""

    def prepare(material: Material) -> Draw:
        each = iter(listed(material))
        return lambda _: next(each)

    return prepare


def _first_sums(questions: dict[str, str]) -> Prepare:
    def task(text: str, expression: str) -> Task:
        value = evaluate(expression)
        # 14.29 and 14.285714 are as right for 100 / 7; where four places say all of it, only the value is.
        return Task(text, "number", str(value), within=1e-6 if round(value, 4) == value else 1e-3)

    return _listed(lambda _: [task(*item) for item in questions.items()])


def _first_facts(questions: dict[str, tuple[str, str]]) -> Prepare:
    """The gold is the line of the library, up to its first remark."""

    def task(world: World, text: str, id: str, label: str) -> Task:
        title = next(title for title, page in world.by_title.items() if page.id == id)
        line = world.line(title, BY_LABEL[label])
        assert line, f"{id} has no line {label}"
        return Task(text, "text", re.split(r" \(|; |, ", line[1])[0], (f"{id}:{line[0]}",))

    def listed(material: Material) -> list[Task]:
        world = real_world(list(library.documents()), library.index())
        return [task(world, text, *wanted) for text, wanted in questions.items()]

    return _listed(listed)


FIRST_NAMES = [Task(text, "name", names[0], (), names[1:]) for text, names in newcomer.COMPARISONS.items()]
FIRST_UNKNOWN = [Task(text, "abstain") for text in newcomer.UNKNOWN]
TWO = ("difference", "ratio", "total", "derived")
THREE = ("compare3",)
SUITES = {
    "lookup": Suite("one fact of a held-out country", 0.90, _library(countries.lookup, ("lookup",), False)),
    "lookup-wordings": Suite("the same in held-out wordings", 0.80, _library(countries.lookup, ("lookup",), True)),
    "two-hop": Suite("ratio, difference, sum of two facts", 0.80, _library(countries.two_figures, TWO, False)),
    "two-hop-wordings": Suite("the same in held-out wordings", 0.70, _library(countries.two_figures, TWO, True)),
    "compare3": Suite("which of three held-out countries", 0.60, _library(_compare3, THREE, False)),
    "compare3-wordings": Suite("the same in held-out wordings", 0.50, _library(_compare3, THREE, True)),
    "missing": Suite("what the library does not say", 0.90, _missing),
    "mawps-seen": Suite("MAWPS folds 1-4 with new numbers", 0.90, _mawps(False)),
    "mawps-fold0": Suite("MAWPS fold 0 as it is", 0.50, _mawps(True)),
    "chain30": Suite("thirty dependent calls", 0.95, _chain(30)),
    "reach": Suite("questions outside its reach", 0.90, _reach),
    "first-sums": Suite("bare sums a newcomer types", 0.85, _first_sums(newcomer.SUMS)),
    "first-percent": Suite("percentages without a story", 0.85, _first_sums(newcomer.PERCENT)),
    "first-lookups": Suite("short look-ups, most without a verb", 0.85, _first_facts(newcomer.LOOKUPS)),
    "first-spelling": Suite("look-ups in careless spelling", 0.85, _first_facts(newcomer.SPELLING)),
    "first-compare": Suite("which of two or three is bigger", 0.85, _listed(lambda _: FIRST_NAMES)),
    "first-unknown": Suite("what it cannot know", 0.85, _listed(lambda _: FIRST_UNKNOWN)),
}


def find_suite(name: str) -> Suite:
    if name not in SUITES:
        raise UserError(f"There is no suite {name!r}; there are {', '.join(SUITES)}, first and all.")
    return SUITES[name]


def tasks(name: str, material: Material, n: int, seed: int) -> Iterator[Task]:
    """`n` different tasks of a suite (fewer where it has no more), the same for the same seed."""
    draw = find_suite(name).prepare(material)
    rng = random.Random(f"openk2 eval {name} {seed}")
    made = 0
    seen: set[str] = set()
    for _ in range(200 * n):
        if made == n:
            return
        try:
            task = draw(rng)
        except StopIteration:
            return
        if task and task.text not in seen:
            seen.add(task.text)
            made += 1
            yield task
