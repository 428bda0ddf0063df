"""Trajectories by the thousand, and the worlds they happen in.

    k2 synth tools --out WORLDS
    k2 synth dialogues --worlds WORLDS --out OUT --count 100000 --workers 2

Trajectory n of an order belongs to a world and a task seed that follow from n alone.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from openk2.errors import UserError
from openk2.synth import shards
from openk2.synth.rows import packed_lines
from openk2.synth.task.dialogue import Trajectory
from openk2.synth.task.dials import Dials
from openk2.synth.task.episode import Episode
from openk2.synth.task.facts import readable, wire_text
from openk2.synth.task.office import Office
from openk2.synth.task.task import Task, draw_task
from openk2.synth.task.verify import problems
from openk2.synth.trajectory import Record
from openk2.synth.world.spec import WorldSpec, from_json, to_json
from openk2.synth.world.world import World

WORLDS = "worlds.jsonl.gz"
_RUN = 32  # trajectories made in one world before the next: opening one costs as much as several
_SEEDS = 6  # task seeds tried for one trajectory


def write_worlds(folder: Path, specs: Iterator[WorldSpec]) -> tuple[int, int]:
    """Write the specs, those of one name with a number behind it; returns how many worlds and tools there are."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (WORLDS + ".part")
    worlds = tools = 0
    named = Counter[str]()
    with packed_lines(part) as lines:
        for spec in specs:
            named[spec.name] += 1
            if (number := named[spec.name]) > 1:  # a proof says in which world it holds by its name
                spec = replace(spec, name=f"{spec.name}_again{number}")
            lines.write(json.dumps(to_json(spec), separators=(",", ":")) + "\n")
            worlds, tools = worlds + 1, tools + len(spec.tools)
    part.replace(folder / WORLDS)
    return worlds, tools


class Library:
    """The worlds of a folder, read line by line when asked for, the last few kept open."""

    def __init__(self, folder: Path) -> None:
        file = folder / WORLDS
        try:
            with gzip.open(file, "rb") as lines:
                self._lines = lines.read().splitlines()
        except (OSError, EOFError) as error:
            raise UserError(f"{file} cannot be read ({error}); make it with `k2 synth tools`.") from None
        self._open: dict[int, World] = {}
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def spec(self, number: int) -> WorldSpec:
        """Raises UserError for one that this version cannot read."""
        try:
            return from_json(json.loads(self._lines[number]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"World {number} cannot be read ({error!r}); make the worlds anew.") from None

    def world(self, number: int) -> World:
        if number not in self._open:
            if len(self._open) >= 12:
                del self._open[next(iter(self._open))]
            self._open[number] = World(self.spec(number))
        return self._open[number]

    def name(self, number: int) -> str:
        return json.loads(self._lines[number])["name"]

    def named(self, name: str) -> World:
        """Raises UserError for a world that is not there."""
        if not self._numbers:
            self._numbers = {json.loads(line)["name"]: i for i, line in enumerate(self._lines)}
        if name not in self._numbers:
            near = get_close_matches(name, self._numbers, 5, 0.3) or list(self._numbers)[:5]
            raise UserError(f"There is no world {name!r} among the {len(self)} of this folder, but {', '.join(near)}.")
        return self.world(self._numbers[name])

    def office(self, main: World, names: Sequence[str]) -> World:
        """The world with others beside it, or the world itself. Raises UserError for a world that is not there."""
        return Office(main, [self.named(name) for name in names]) if names else main

    def of(self, record: Trajectory) -> World:
        """The world that a trajectory was made in. Raises UserError for a world that is not there."""
        proof = record.get("proof", {})
        return self.office(self.named(proof.get("world", "")), proof.get("beside", ()))

    def digest(self) -> str:
        return hashlib.blake2b(b"\n".join(self._lines), digest_size=16).hexdigest()


def solved(library: Library, order: Order, number: int) -> tuple[tuple[World, Task, Trajectory] | None, Counter[str]]:
    """Task `number` of an order with the planner's trajectory, and what was drawn and not used on the way to it."""
    pick = hashlib.blake2b(f"{order.seed}/{number // _RUN}".encode(), digest_size=8).digest()
    rng = random.Random(pick)
    world = library.world(rng.randrange(len(library)))
    while not readable(world.spec) and rng.random() < 0.95:  # nothing in it needs looking; another one
        world = library.world(rng.randrange(len(library)))
    beside = [library.name(rng.randrange(len(library))) for _ in range(rng.randint(*order.dials.beside))]
    world = library.office(world, beside)
    dropped: Counter[str] = Counter()
    for attempt in range(_SEEDS):
        seed = (order.seed * 1_000_003 + number) * _SEEDS + attempt
        task = draw_task(world, seed, order.dials)
        if task is None:
            dropped["no task"] += 1
            continue
        try:
            record = Episode(world, task, order.dials.faults).run()
        except RuntimeError as error:
            dropped[f"episode: {error}"] += 1
            continue
        if found := problems(record, world):
            dropped[f"refused: {found[0]}"] += 1
            continue
        return (world, task, record), dropped
    return None, dropped


@dataclass(frozen=True)
class Order(shards.Order):
    """Trajectories of the planner in the worlds of a folder."""

    worlds: str  # folder
    count: int
    seed: int
    size: int = 1000  # of a shard
    dials: Dials = Dials()  # noqa: RUF009

    def about(self) -> dict[str, Any]:
        worlds = library(self.worlds)
        return {"dials": asdict(self.dials), "worlds": len(worlds), "worlds_blake2b": worlds.digest()}

    def sources(self) -> str:
        return "made by openk2 (MIT) from API descriptions: botocore (Apache-2.0), Toucan MCP specifications (MIT)"

    def records(self, numbers: range, dropped: Counter[str]) -> Iterator[Record]:
        for number in numbers:
            found, told = solved(library(self.worlds), self, number)
            dropped += told
            if found is not None:
                yield {"n": number} | found[2]

    def line(self, record: Record) -> str:
        keys = list(record)
        at = keys.index("tools")
        before, after = ({key: record[key] for key in part} for part in (keys[:at], keys[at + 1 :]))
        tools = ",".join(map(wire_text, record["tools"]))  # not written anew for each record
        return f'{super().line(before)[:-1]},"tools":[{tools}],{super().line(after)[1:]}'


@lru_cache(maxsize=4)
def library(folder: str) -> Library:
    return Library(Path(folder))
