"""Search records by the thousand: shards of compressed JSON lines, the same bytes from the same seed.

    k2 synth search --data DATA --out OUT --count 10000

Record n belongs to collection n // 20; both follow from the seed and n alone, so shards can be made in any order and by
several processes, killed and gone on with: one that is there is whole, and kept.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from openk2 import __version__
from openk2.errors import UserError
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
class Order:
    """What is to be made; two orders that are equal give equal bytes."""

    data: str  # folder
    count: int
    seed: int
    size: int = 1000  # of a shard, in records: a multiple of USES
    split: Split = "train"

    @property
    def shards(self) -> int:
        return -(-self.count // self.size)


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


def make_shard(order: Order, out: Path, shard: int) -> dict[str, Any]:
    """Write one shard and what is in it; `NAME.json` stands once the shard is whole."""
    path = out / f"part-{shard:05d}.jsonl.gz"
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("kinds", "hops", "calls", "detours", "dropped")}
    lines: list[bytes] = []
    first, last = shard * order.size, min((shard + 1) * order.size, order.count)
    for group in range(first // USES, -(-last // USES)):
        made, dropped = records(order, group)
        counts["dropped"] += dropped
        for record in made:
            lines.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            counts["kinds"][record["kind"]] += 1
            counts["hops"][str(record["proof"]["hops"])] += 1
            counts["calls"][str(sum(m["role"] == "tool" for m in record["messages"]))] += 1
            counts["detours"][str(record["proof"]["detours"])] += 1
    text = b"".join(lines)
    part = path.with_suffix(".part")
    part.write_bytes(gzip.compress(text, 3, mtime=0))
    part.replace(path)
    summary = {"file": path.name, "records": len(lines), "blake2b": hashlib.blake2b(text, digest_size=16).hexdigest()}
    summary |= {name: dict(sorted(count.items())) for name, count in counts.items()}
    side = out / f"part-{shard:05d}.json"
    side.with_suffix(".tmp").write_text(json.dumps(summary), encoding="utf-8")
    side.with_suffix(".tmp").replace(side)
    return summary


def make(order: Order, out: Path, workers: int = 1, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Make all shards that are not there, and the manifest; returns it. Raises UserError for another order's folder."""
    if order.size % USES:
        raise UserError(f"A shard holds a multiple of {USES} records, not {order.size}: give another --shard.")
    out.mkdir(parents=True, exist_ok=True)
    wanted = {"version": __version__} | {k: v for k, v in asdict(order).items() if k != "data"}
    file = out / "order.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != wanted:
        raise UserError(f"{out} holds records of another order; give another --out, or the same options as before.")
    file.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    done = {n: json.loads(p.read_text()) for n in range(order.shards) if (p := out / f"part-{n:05d}.json").exists()}
    missing = [n for n in range(order.shards) if n not in done]
    started, made = time.monotonic(), 0
    for number, summary in zip(missing, _all(order, out, missing, workers), strict=True):
        done[number] = summary
        made += summary["records"]
        rate = made / (time.monotonic() - started)
        say(f"{len(done)}/{order.shards} shards, {made:,} records, {rate:.0f}/s")
    summaries = [done[n] for n in sorted(done)]
    manifest = wanted | {"sources": SOURCES, "records": sum(s["records"] for s in summaries), "shards": summaries}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _all(order: Order, out: Path, shards: list[int], workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from (make_shard(order, out, n) for n in shards)
    else:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            yield from pool.map(make_shard, repeat(order), repeat(out), shards)
