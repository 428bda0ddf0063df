"""Trajectories by the thousand: shards of compressed JSON lines, the same bytes however many work at them.

    k2 synth tools --out WORLDS
    k2 synth dialogues --worlds WORLDS --out OUT --count 100000 --workers 2

Trajectory n of a run belongs to a world and a task seed that follow from n alone; shard k holds n from k * size on. So
shards can be made in any order, by processes or by Ray, killed and gone on with: one that is there is whole, and kept.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openk2 import __version__
from openk2.errors import UserError
from openk2.paths import install
from openk2.synth.rows import packed_lines
from openk2.synth.task.dialogue import Trajectory
from openk2.synth.task.dials import Dials
from openk2.synth.task.episode import Episode
from openk2.synth.task.office import Office
from openk2.synth.task.plan import some
from openk2.synth.task.task import draw_task
from openk2.synth.task.verify import problems
from openk2.synth.world.spec import WorldSpec, from_json, to_json
from openk2.synth.world.world import World

WORLDS = "worlds.jsonl.gz"
_RUN = 16  # trajectories made in one world before the next: opening one costs as much as several
_SEEDS = 6  # task seeds tried for one trajectory


@dataclass(frozen=True)
class Order:
    """What is to be made; two orders that are equal give equal bytes."""

    worlds: str  # folder
    count: int
    seed: int
    size: int = 1000  # of a shard
    dials: Dials = Dials()  # noqa: RUF009

    @property
    def shards(self) -> int:
        return -(-self.count // self.size)


def write_worlds(folder: Path, specs: Iterator[WorldSpec]) -> tuple[int, int]:
    """Write the specs; returns how many worlds and tools there are."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (WORLDS + ".part")
    worlds = tools = 0
    with packed_lines(part) as lines:
        for spec in specs:
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
        return from_json(json.loads(self._lines[number]))

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
            raise UserError(f"There is no world {name!r} among the {len(self)} of this folder.")
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


def trajectory(library: Library, order: Order, number: int) -> tuple[Trajectory | None, Counter[str]]:
    """Trajectory `number` of an order, and what was drawn and not used on the way to it."""
    pick = hashlib.blake2b(f"{order.seed}/{number // _RUN}".encode(), digest_size=8).digest()
    rng = random.Random(pick)
    world = library.world(rng.randrange(len(library)))
    beside = [library.name(rng.randrange(len(library))) for _ in range(some(rng, order.dials.beside))]
    world = library.office(world, beside)
    dropped: Counter[str] = Counter()
    for attempt in range(_SEEDS):
        seed = (order.seed * 1_000_003 + number) * _SEEDS + attempt
        task = draw_task(world, seed, order.dials)
        if task is None:
            dropped["no task"] += 1
            continue
        try:
            record = Episode(world, task).run()
        except RuntimeError as error:
            dropped[f"episode: {error}"] += 1
            continue
        if found := problems(record, world):
            dropped[f"refused: {found[0]}"] += 1
            continue
        return record, dropped
    return None, dropped


def make_shard(order: Order, out: Path, shard: int) -> dict[str, Any]:
    """Write one shard and what is in it; `NAME.json` stands once the shard is whole."""
    library = _library(order.worlds)
    path = out / f"part-{shard:05d}.jsonl.gz"
    told: Counter[str] = Counter()
    calls: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    part = path.with_suffix(".part")
    digest = hashlib.blake2b(digest_size=16)
    with packed_lines(part) as lines:
        for number in range(shard * order.size, min((shard + 1) * order.size, order.count)):
            record, dropped = trajectory(library, order, number)
            told += dropped
            if record is None:
                continue
            line = json.dumps({"n": number} | record, ensure_ascii=False, separators=(",", ":")) + "\n"
            digest.update(line.encode())
            lines.write(line)
            calls[record["proof"]["calls"]] += 1
            kinds[record["kind"]] += 1
    part.replace(path)
    summary = {
        "file": path.name, "trajectories": calls.total(), "kinds": dict(sorted(kinds.items())),
        "calls": {str(n): calls[n] for n in sorted(calls)}, "dropped": dict(sorted(told.items())),
        "blake2b": digest.hexdigest(),
    }  # fmt: skip
    side = path.with_name(path.name.replace(".jsonl.gz", ".json"))
    side.with_suffix(".tmp").write_text(json.dumps(summary), encoding="utf-8")
    side.with_suffix(".tmp").replace(side)
    return summary


_LIBRARIES: dict[str, Library] = {}


def _library(folder: str) -> Library:
    if folder not in _LIBRARIES:
        _LIBRARIES[folder] = Library(Path(folder))
    return _LIBRARIES[folder]


def make(
    order: Order, out: Path, workers: int = 1, ray: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Make all shards that are not there, and the manifest; returns it. Raises UserError for another order's folder."""
    out.mkdir(parents=True, exist_ok=True)
    library = _library(order.worlds)
    wanted = {
        "version": __version__, "seed": order.seed, "count": order.count, "size": order.size,
        "dials": json.loads(json.dumps(asdict(order.dials))),
        "worlds": len(library), "worlds_blake2b": library.digest(),
    }  # fmt: skip
    file = out / "order.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != wanted:
        raise UserError(
            f"{out} holds trajectories of another order; give another --out, or the same options as before."
        )
    file.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    done = {n: json.loads(p.read_text()) for n in range(order.shards) if (p := out / f"part-{n:05d}.json").exists()}
    missing = [n for n in range(order.shards) if n not in done]
    started, made = time.monotonic(), 0
    for number, summary in _all(order, out, missing, workers, ray):
        done[number] = summary
        made += summary["trajectories"]
        seconds = time.monotonic() - started
        left = (len(missing) - (len(done) - (order.shards - len(missing)))) * order.size / max(made / seconds, 1e-9)
        rate = made / seconds
        say(f"{len(done)}/{order.shards} shards, {made:,} trajectories, {rate:.0f}/s, {left / 60:.1f} min left")
    manifest = wanted | {
        "licence": "made by openk2 (MIT) from API descriptions: botocore (Apache-2.0), Toucan MCP specifications (MIT)",
        "trajectories": sum(done[n]["trajectories"] for n in sorted(done)),
        "shards": [done[n] for n in sorted(done)],
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _all(order: Order, out: Path, shards: list[int], workers: int, ray: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Shards as they get done: in this process, in several, or on a Ray cluster that sees the same folders."""
    if ray:
        yield from _by_ray(order, out, shards)
    elif workers == 1:
        yield from ((n, make_shard(order, out, n)) for n in shards)
    else:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            jobs = {pool.submit(make_shard, order, out, n): n for n in shards}
            yield from ((jobs[job], job.result()) for job in as_completed(jobs))


def _by_ray(order: Order, out: Path, shards: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"Ray is not installed; install it with: {install('ray')}") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote = ray.remote(make_shard)
    jobs = {remote.remote(order, out, n): n for n in shards}
    while jobs:
        (ready,), _ = ray.wait(list(jobs), num_returns=1)
        yield jobs.pop(ready), ray.get(ready)


def read_records(path: Path) -> Iterator[Trajectory]:
    """Of a shard, a file of JSON lines, or a folder of shards. Raises UserError for what cannot be read."""
    files = sorted(path.glob("*.jsonl.gz")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no *.jsonl.gz.")
    for file in files:
        try:
            with (
                gzip.open(file, "rt", encoding="utf-8")
                if file.suffix == ".gz"
                else file.open(encoding="utf-8") as lines
            ):
                yield from map(json.loads, lines)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); make it again.") from None
