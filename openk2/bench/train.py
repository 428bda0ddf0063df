"""Training speed beside transformers: the same weights, documents and steps, interleaved, each in its own process.

Every system trains on from the same bf16 weights over the same batches. Two of them, this project's network and
transformers', have the same optimizer, torch's fused AdamW: their losses must agree step by step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from openk2.bench.process import Process
from openk2.bench.report import Report
from openk2.bench.rounds import Failed, interleave, spread
from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.paths import NANO

# Depths: 4.3M and 14.2M active parameters without embedding and head, 5.8M of 15.5M and 16.5M of 50.6M with them.
SIZES = {"5M": 8, "14M": 12}
VOCABULARY = 6144  # of the embedded tokenizer
SYSTEMS = {  # name -> what the worker calls it
    "openk2": "muonclip",
    "openk2, AdamW": "adamw",
    "openk2, torch's Muon": "muon",
    "transformers": "transformers",
}
LONGEST = 3000  # tokens of a document at most
AGREE = 0.02  # relative difference of the losses of a step at most: bf16's, over the steps of a run
Batch = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to measure. `lengths`: the shortest and longest document; their tokens are real text."""

    sizes: Sequence[str] = tuple(SIZES)
    tokens: int = 16_384
    lengths: Sequence[tuple[int, int]] = ((100, 500),)
    threads: int = 2
    rounds: int = 3
    warmup: int = 1
    systems: Sequence[str] = tuple(SYSTEMS)
    configs: dict[str, ModelConfig] = field(default_factory=dict)  # networks of other sizes, by name

    def config(self, size: str) -> ModelConfig:
        """Raises UserError for an unknown size."""
        if size in self.configs:
            return self.configs[size]
        if size not in SIZES:
            raise UserError(f"There is no size {size}; the sizes are {', '.join(SIZES)}.")
        return ModelConfig.from_depth(SIZES[size], VOCABULARY)


def measure(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> Report:
    """A row for each size, length of documents and system. `failed` where the losses do not agree."""
    settings = {"tokens": plan.tokens, "threads": plan.threads, "rounds": plan.rounds, "warmup": plan.warmup}
    report = Report("train", settings)
    for size in plan.sizes:
        config = plan.config(size)
        for lengths in plan.lengths:
            with TemporaryDirectory() as place:
                _weights(config, Path(place))
                _measure(report, plan, size, config, lengths, place, progress)
    report.note(
        "mfu: 6 FLOPs a parameter and token met, and attention's causal half, of the bf16 product of "
        "2048 x 2048 matrices measured in the same rounds."
    )
    return report


def _measure(
    report: Report, plan: Plan, size: str, config: ModelConfig, lengths: tuple[int, int], place: str,
    progress: Callable[[str], None],
) -> None:  # fmt: skip
    from openk2.train.estimate import flops_per_token

    batches = [make_batch(plan.tokens, plan.threads, lengths, seed) for seed in range(plan.warmup + plan.rounds)]
    with ExitStack() as stack:

        def start(name: str) -> Process:
            process = Process(name, SYSTEMS.get(name, name), plan.threads, "openk2.bench.train_worker")
            stack.callback(process.close)
            return process

        processes: dict[str, Process] = {}
        for name in plan.systems:
            opening: dict[str, Any] = {"path": place, "threads": plan.threads}
            try:
                if name == "transformers":
                    progress(f"{size}: looking for the quickest way of transformers")
                    chooser = start(name)
                    few = make_batch(min(plan.tokens, 4096), plan.threads, lengths, -1)
                    opening["way"] = chooser.ask("choose", **opening, **few)["way"]
                    chooser.close()
                process = start(name)
                about = process.ask("open", **opening)["about"]
            except Failed as error:
                report.leave_out(f"{name} at {size}: {error}")
                continue
            processes[name] = process
            report.systems[name if name != "transformers" else f"transformers at {size}"] = about
        matrices = start("matrix products")
        steps: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}

        def step(name: str) -> float:
            steps[name].append(processes[name].ask("step", **batches[len(steps[name])]))
            return plan.tokens / steps[name][-1]["seconds"]

        measures: dict[str, Callable[[], float]] = {name: lambda name=name: step(name) for name in processes}
        measures["peak"] = lambda: matrices.ask("peak", threads=plan.threads)["operations_per_second"]
        found = interleave(
            measures,
            plan.warmup + plan.rounds,
            lambda name, error: report.leave_out(f"{name} at {size}: {error}"),
            lambda text: progress(f"{size}: {text}"),
        )
        peak = median(found.pop("peak"))
        documents = [n for batch in batches for part in batch["parts"] for n in part]
        context = sum(n * n for n in documents) / sum(documents)
        flops = flops_per_token(config, context, 1 - len(documents) / sum(documents))
        speeds = {name: spread(values[plan.warmup :]) for name, values in found.items()}
        memory = {name: processes[name].ask("memory")["bytes"] for name in speeds}
    count = config.count()
    for name, speed in speeds.items():
        timed = steps[name][plan.warmup :]
        report.rows.append({
            "size": size, "lengths": list(lengths), "system": name, "tokens_per_second": speed,
            "ours_relative": speeds["openk2"]["median"] / speed["median"] if "openk2" in speeds else None,
            "mfu": flops * speed["median"] / peak, "peak_flops": peak, "flops_per_token": flops,
            "optimizer_share": median(one["optimizer_seconds"] / one["seconds"] for one in timed),
            "peak_bytes": memory[name], "losses": [round(one["loss"], 4) for one in steps[name]],
            "parameters": {"active": count.active, "total": count.total},
        })  # fmt: skip
    _compare(report, size, steps)


def _compare(report: Report, size: str, steps: dict[str, list[dict[str, Any]]]) -> None:
    """The losses of this project's network and of transformers' under the same optimizer."""
    ours, theirs = (steps.get(name, []) for name in ("openk2, AdamW", "transformers"))
    if not ours or len(ours) != len(theirs):
        return
    worst = max(abs(b["loss"] / a["loss"] - 1) for a, b in zip(ours, theirs, strict=True))
    report.note(
        f"{size}: with AdamW, the losses of {len(ours)} steps ({ours[0]['loss']:.3f} to {ours[-1]['loss']:.3f}) "
        f"differ from transformers' by at most {100 * worst:.2f}%."
    )
    if not worst < AGREE:
        report.failed = True


def _weights(config: ModelConfig, place: Path) -> None:
    """A checkpoint of fresh weights, as a training run of this project is exported."""
    from openk2.train.export import export
    from openk2.train.loop import build

    export(config, build(config, 0).tensors(), place, int4=False)


def make_batch(tokens: int, parts: int, lengths: tuple[int, int], seed: int) -> Batch:
    """`parts` equal parts of whole documents of real text, drawn by the seed; the last of a part is cut to fit."""
    rng = random.Random(seed)
    pages = _pages()
    batch: Batch = {"ids": [], "parts": []}
    for _ in range(parts):
        left, drawn = tokens // parts, []
        while left:
            page = rng.choice(pages)
            length = min(left, rng.randint(*lengths), len(page))
            start = rng.randrange(len(page) - length + 1)
            batch["ids"] += page[start : start + length]
            drawn.append(length)
            left -= length
        batch["parts"].append(drawn)
    return batch


@cache
def _pages() -> list[list[int]]:
    """Pages of the embedded library as tokens, long ones."""
    from openk2.chat.tokenizer import Tokenizer
    from openk2.library import documents

    if not (NANO / "tiktoken.model").exists():
        raise UserError("The embedded tokenizer is not in this checkout; `k2 bench train` needs it.")
    tokenizer = Tokenizer.load(NANO)
    pages = (tokenizer.encode("\n".join(document.lines)) for document in documents())
    return list(islice((page for page in pages if len(page) >= LONGEST), 40))
