"""Questions with gold answers, drawn from what training never saw: countries, wordings, a MAWPS fold, other numbers.

Every suite is made by the generators of `synth/`, so that training and evaluation differ in exactly what is held out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openk2 import library
from openk2.errors import UserError
from openk2.synth import arithmetic, chains, countries, reach
from openk2.synth.countries import Choice
from openk2.synth.heldout import MAWPS_FOLD
from openk2.synth.make import pieces_of
from openk2.synth.names import Pieces
from openk2.synth.worlds import World, held_out_documents, real


@dataclass(frozen=True)
class Task:
    """One question. `kind` says how its answer is judged; `cites` are the lines a right answer rests on."""

    text: str
    kind: str  # text, number, name, abstain
    gold: str = ""
    cites: tuple[str, ...] = ()
    others: tuple[str, ...] = field(default=())  # name: the wrong candidates


@dataclass
class Material:
    """What suites draw from; `data` is only needed by the suites that say so."""

    data: Path | None
    tokenizer: Path
    index: Any = None

    def world(self) -> World:
        self.index = self.index or library.index()
        return real(held_out_documents(), self.index)

    def file(self, name: str) -> Path:
        path = (self.data or Path()) / name
        if self.data is None or not path.exists():
            raise UserError(f"This suite needs {name}: name the folder that holds it with --data.")
        return path

    def pieces(self) -> Pieces:
        from openk2.chat.tokenizer import Tokenizer

        return pieces_of(Tokenizer.load(self.tokenizer))


Draw = Callable[[random.Random], "Task | None"]


def question(record: dict[str, Any]) -> str:
    return record["messages"][1]["content"]


def _library(make: Callable[..., dict[str, Any] | None], kinds: tuple[str, ...], held: bool) -> Callable[[Material], Draw]:
    def prepare(material: Material) -> Draw:
        world = material.world()

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


def _compare3(rng: random.Random, world: World, choice: Choice) -> dict[str, Any] | None:
    return countries.compare(rng, world, choice, 3)


def _missing(material: Material) -> Draw:
    """Library questions that the library cannot answer: a value it lacks, a country that does not exist."""
    world = material.world()

    def draw(rng: random.Random) -> Task | None:
        record = countries.lookup(rng, world, Choice(False), missing=0.5)
        return Task(question(record), "abstain") if record and record["kind"] == "missing" else None

    return draw


def _mawps(held: bool) -> Callable[[Material], Draw]:
    def prepare(material: Material) -> Draw:
        problems = [p for p in arithmetic.load_mawps(material.file("mawps.jsonl.gz")) if (p.fold == MAWPS_FOLD) == held]
        order = list(problems)
        random.Random(0).shuffle(order)
        position = iter(order)

        def draw(rng: random.Random) -> Task | None:
            problem = next(position) if held else rng.choice(problems)  # the held-out fold as it is, each once
            record = arithmetic.mawps_problem(rng, problem, fresh=not held)
            return Task(question(record), "number", record["proof"]["gold"]) if record else None

        return draw

    return prepare


def _chain(length: int) -> Callable[[Material], Draw]:
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


TWO = ("difference", "ratio", "total", "derived")
THREE = ("compare3",)
# name: (what it asks, target share of right answers, how to make it)
SUITES: dict[str, tuple[str, float, Callable[[Material], Draw]]] = {
    "lookup": ("one fact of a held-out country", 0.90, _library(countries.lookup, ("lookup",), False)),
    "lookup-wordings": ("the same in held-out wordings", 0.80, _library(countries.lookup, ("lookup",), True)),
    "two-hop": ("difference, ratio, sum or quotient of two facts", 0.80, _library(countries.two_figures, TWO, False)),
    "two-hop-wordings": ("the same in held-out wordings", 0.70, _library(countries.two_figures, TWO, True)),
    "compare3": ("which of three held-out countries", 0.60, _library(_compare3, THREE, False)),
    "compare3-wordings": ("the same in held-out wordings", 0.50, _library(_compare3, THREE, True)),
    "missing": ("what the library does not say", 0.90, _missing),
    "mawps-seen": ("MAWPS folds 1-4 with new numbers", 0.90, _mawps(False)),
    "mawps-fold0": ("MAWPS fold 0 as it is", 0.50, _mawps(True)),
    "chain30": ("thirty dependent calls", 0.95, _chain(30)),
    "reach": ("questions outside its reach", 0.90, _reach),
}


def tasks(name: str, material: Material, n: int, seed: int) -> Iterator[Task]:
    """`n` tasks of a suite, the same for the same seed."""
    if name not in SUITES:
        raise UserError(f"There is no suite {name!r}; there are {', '.join(SUITES)}, and all.")
    draw = SUITES[name][2](material)
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
