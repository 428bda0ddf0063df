"""Records by the thousand: shards of compressed JSON lines and a manifest, the same bytes however many work at them.

Record n of an order follows from the order and n alone; shard k holds n from k * size on. So shards can be made in any
order, by processes or by Ray, killed and gone on with: one that is there is whole, and kept.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from openk2 import __version__
from openk2.errors import UserError
from openk2.paths import install
from openk2.synth.rows import packed_lines
from openk2.synth.trajectory import Record


class Order(ABC):
    """What is to be made: `count` records, `size` in a shard. Equal orders give equal bytes. Rooms inherit from it."""

    count: int
    seed: int
    size: int

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What decides on the bytes beside count, seed and size; as JSON."""

    @abstractmethod
    def sources(self) -> Any:
        """Where the content comes from, with licences; as JSON."""

    @abstractmethod
    def records(self, numbers: range, dropped: Counter[str]) -> Iterator[Record]:
        """The records of these numbers, each with its number as `n`; what was drawn in vain is counted in `dropped`."""

    def line(self, record: Record) -> str:
        """The record as one line of JSON."""
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    def tallied(self, record: Record) -> dict[str, Any]:
        """What the manifest counts of a record: by name, the value it has."""
        return {"kinds": record["kind"], "calls": sum(m["role"] == "tool" for m in record["messages"])}

    @property
    def shards(self) -> int:
        return -(-self.count // self.size)


def make_shard(order: Order, out: Path, shard: int) -> dict[str, Any]:
    """Write one shard and what is in it; `part-N.json` stands once the shard is whole."""
    path = out / f"part-{shard:05d}.jsonl.gz"
    dropped = Counter[str]()
    tallies: dict[str, Counter[Any]] = {}
    digest, count = hashlib.blake2b(digest_size=16), 0
    part = path.with_suffix(".part")
    with packed_lines(part) as lines:
        for record in order.records(range(shard * order.size, min((shard + 1) * order.size, order.count)), dropped):
            line = order.line(record) + "\n"
            digest.update(line.encode())
            lines.write(line)
            count += 1
            for name, value in order.tallied(record).items():
                tallies.setdefault(name, Counter())[value] += 1
    part.replace(path)
    summary = {"file": path.name, "records": count, "blake2b": digest.hexdigest()}
    for name, tally in (*tallies.items(), ("dropped", dropped)):
        summary[name] = {str(value): tally[value] for value in sorted(tally)}
    _write(out / f"part-{shard:05d}.json", json.dumps(summary))
    return summary


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def make(
    order: Order, out: Path, workers: int = 1, ray: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Make all shards that are not there, and the manifest; returns it.

    `workers`: processes, 0 for one a core. Raises UserError where `out` holds another order's shards.
    """
    wanted = {"version": __version__, "seed": order.seed, "count": order.count, "size": order.size} | order.about()
    wanted = json.loads(json.dumps(wanted))
    out.mkdir(parents=True, exist_ok=True)
    file = out / "order.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != wanted:
        raise UserError(f"{out} holds records of another order; give another --out, or the same options as before.")
    _write(file, json.dumps(wanted, indent=1) + "\n")
    done = {n: json.loads(p.read_text()) for n in range(order.shards) if (p := out / f"part-{n:05d}.json").exists()}
    missing = [n for n in range(order.shards) if n not in done]
    started, made = time.monotonic(), 0
    for shards, (number, summary) in enumerate(_all(order, out, missing, workers, ray), 1):
        done[number] = summary
        made += summary["records"]
        seconds = time.monotonic() - started
        left = seconds / shards * (len(missing) - shards) / 60
        say(f"{len(done)}/{order.shards} shards, {made:,} records, {made / seconds:.0f}/s, {left:.1f} min left")
    summaries = [done[n] for n in sorted(done)]
    total = sum(summary["records"] for summary in summaries)
    manifest = wanted | {"sources": order.sources(), "records": total, "shards": summaries}
    _write(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
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


def read_records(path: Path) -> Iterator[Record]:
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
