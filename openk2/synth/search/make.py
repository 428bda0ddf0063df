"""Search records by the thousand.

    k2 synth search --data DATA --out OUT --count 10000

Record n belongs to collection n // 20; both follow from the seed and n alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from openk2.errors import UserError
from openk2.synth import shards
from openk2.synth.heldout import held_out
from openk2.synth.search.collection import SOURCES, Collection, Library
from openk2.synth.search.questions import Drawer, NoAnswer, Query, Solver, hops, structure
from openk2.synth.search.verify import problems
from openk2.synth.search.walk import Lost, Walker
from openk2.synth.search.wordings import ask
from openk2.synth.trajectory import Record

Split = Literal["train", "entities", "wordings", "structures", "hops"]
SPLITS: tuple[Split, ...] = ("train", "entities", "wordings", "structures", "hops")
USES = 20  # questions asked of one collection
HOPS = {1: 3.0, 2: 4.0, 3: 3.0}  # shares in training; four hops are held out
WITHOUT = 0.12  # share of the questions that have no answer
_TRIES = 100  # draws for one record


@dataclass(frozen=True)
class Order(shards.Order):
    """Records of one side of the split. Raises UserError where a shard would end within a collection."""

    data: str  # folder
    count: int
    seed: int
    size: int = 1000  # of a shard, in records: a multiple of USES
    split: Split = "train"

    def __post_init__(self) -> None:
        if self.size % USES:
            raise UserError(f"A shard holds a multiple of {USES} records, not {self.size}: give another --shard.")

    def about(self) -> dict[str, Any]:
        return {"split": self.split}

    def sources(self) -> Any:
        return SOURCES

    def records(self, numbers: range, dropped: Counter[str]) -> Iterator[Record]:
        for group in range(numbers.start // USES, -(-numbers.stop // USES)):
            made, told = records(self, group)
            dropped += told
            yield from made

    def tallied(self, record: Record) -> dict[str, Any]:
        proof = record["proof"]
        return super().tallied(record) | {"hops": proof["hops"], "detours": proof["detours"]}


@lru_cache(maxsize=2)
def library(data: str, held: bool) -> Library:
    return Library.load(Path(data), held)


@lru_cache(maxsize=2)
def collection(data: str, split: Split, name: str) -> Collection:
    return library(data, split == "entities").draw(name)


def belongs(split: Split, query: Query, wording: str) -> bool:
    """Whether a query in these words (names left out) is on this side. Shapes of one hop are in training all."""
    structural = hops(query) > 1 and held_out("search structure", structure(query))
    worded = held_out("search wording", wording)
    if split == "hops":
        return hops(query) == 4 and not worded
    return (structural, worded) == (split == "structures", split == "wordings")


def records(order: Order, group: int) -> tuple[list[Record], Counter[str]]:
    """The records of one collection, no question twice, and what was drawn and not used on the way to them."""
    here = collection(order.data, order.split, f"{order.split}/{order.seed}/{group}")
    solver, seen, dropped = Solver(here), set[str](), Counter[str]()
    made: list[Record] = []
    present, absent, both = (Drawer(entries) for entries in (here.entries, here.absent, here.all))
    for number in range(group * USES, min((group + 1) * USES, order.count)):
        rng = random.Random(f"openk2 search {order.split} {order.seed} {number}")
        without = rng.random() < WITHOUT
        wanted = 4 if order.split == "hops" else rng.choices(list(HOPS), list(HOPS.values()))[0]
        for _ in range(_TRIES):
            drawer = rng.choice((absent, both)) if without else present
            found = _draw(order, solver, drawer, rng, wanted, without)
            if isinstance(found, str):
                dropped[found] += 1
                continue
            key = _key(found["proof"]["query"])
            if key in seen:
                dropped["asked before"] += 1
                continue
            seen.add(key)
            made.append({"n": number} | found)
            break
    return made, dropped


def _key(query: Query) -> str:
    """Equal for queries that differ in the order of their parts only."""
    return f"{query[0]}({', '.join(sorted(_key(p) if isinstance(p, list) else p for p in query[1:]))})"


def _draw(order: Order, solver: Solver, drawer: Drawer, rng: random.Random, wanted: int, without: bool) -> Record | str:
    """A record of so many hops, or why there is none. `without`: one of a question that has no answer here."""
    here = solver.collection
    try:
        query = drawer.draw(wanted, rng)
        gold = solver.solve(query)
    except NoAnswer:
        return "not one answer"
    if any(id in here.away for id, _ in gold.lines) != without:
        return "other kind wanted"
    wording, names = ask(query, rng)
    if not belongs(order.split, query, wording):
        return "held out"
    try:
        made = Walker(solver, wording.format(*names), rng).run(query, gold)
    except Lost:
        return "not found by the tools"
    made["proof"] |= {
        "query": query, "hops": hops(query), "collection": here.name, "documents": len(here.entries),
        "split": order.split,
    }  # fmt: skip
    if found := problems(made, here):
        return f"refused: {found[0]}"
    return made


def check(made: Record, data: Path) -> list[str]:
    """What is wrong with a record, its collection drawn again from `data`."""
    try:
        split, name = made["proof"]["split"], made["proof"]["collection"]
        if split not in SPLITS:
            return [f"malformed: no split {split}"]
    except (KeyError, TypeError) as error:
        return [f"malformed: {error!r}"]
    return problems(made, collection(str(data), split, name))
