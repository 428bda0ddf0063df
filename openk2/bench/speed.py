"""`decode` and `prefill`: the same weights in the engine and in each peer, round by round, beside the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openk2.bench import limit, machine, models
from openk2.bench.models import Model
from openk2.bench.report import Report
from openk2.bench.rounds import Failed, interleave, spread
from openk2.bench.runner import Case, Runner
from openk2.bench.systems import KNOWN, OURS
from openk2.engine.session import free_memory
from openk2.errors import UserError
from openk2.paths import install

Kind = Literal["decode", "prefill"]
MEMORY = "memory"  # the round that measures the limit
CHECKED = (48, 8)  # ids of the text on which systems are compared, and how many of them are read one at a time
WRONG = 0.5  # relative difference of logits beyond which a system computes something else; unrelated ones have 1.4
_ROOM = 1.15  # memory that a model takes, relative to its bytes


@dataclass(frozen=True)
class Plan:
    """What to measure. `tokens` of a text are decoded in a pass, behind `context`; `prompts`: lengths to prefill."""

    kind: Kind
    sizes: Sequence[str] = ("5M", "50M", "300M")
    model: Path | None = None
    threads: Sequence[int] = (1, 2)
    batch: Sequence[int] = (1, 8)
    peers: Sequence[str] = ("llama.cpp", "transformers")
    tokens: int = 32
    context: int = 128
    prompts: Sequence[int] = (128, 512, 2048)
    rounds: int = 5
    seconds: float = 1.0
    folder: Path | None = None


def measure(plan: Plan, progress: Callable[[str], None] = lambda text: None) -> Report:
    """Measure it. Raises UserError for what a person can mend; a peer that fails is left out, with the reason."""
    if unknown := set(plan.peers) - KNOWN.keys():
        raise UserError(f"There is no peer {', '.join(sorted(unknown))}; the peers are {', '.join(list(KNOWN)[1:])}.")
    settings = {name: list(v) if isinstance(v, tuple | list) else v for name, v in asdict(plan).items()}
    settings |= {name: None if settings[name] is None else str(settings[name]) for name in ("model", "folder")}
    if plan.kind == "decode":
        del settings["prompts"]
    else:
        settings = {name: v for name, v in settings.items() if name not in ("tokens", "context", "batch")}
    report = Report(plan.kind, settings)
    loaded, said = machine.library()
    if loaded is None:
        report.note(f"openk2 runs without its kernels: {said}.")
    names = [OURS, *(name for name in dict.fromkeys(plan.peers) if _installed(name, report))]
    place = plan.folder or models.default_place()
    found = [models.of_folder(plan.model, place)] if plan.model else _made(plan, place, progress)
    for model in found:
        paths = dict(_paths(names, model, report, progress))
        for threads in plan.threads:
            One(plan, model, paths, threads, report, progress).run()
    return report


def _installed(name: str, report: Report) -> bool:
    if find_spec(KNOWN[name].package) is None:
        report.leave_out(f"{name} is not installed: {install('bench')}")
        return False
    return True


def _made(plan: Plan, place: Path, progress: Callable[[str], None]) -> Iterator[Model]:
    for size in plan.sizes:
        yield models.find(size, place, progress)


def _paths(
    names: Sequence[str], model: Model, report: Report, progress: Callable[[str], None]
) -> Iterator[tuple[str, Path]]:
    """What each system reads of a model; those that cannot hold it in memory are left out before it is made."""
    for name in names:
        form = KNOWN[name].form
        needed = _ROOM * (model.bf16_bytes() if form == "bf16" else _bytes(model.folder))
        if form != "own" and needed > free_memory():
            report.leave_out(
                f"{name} at {model.name} needs {needed / 1e9:.0f} GB of memory, {free_memory() / 1e9:.0f} GB are free"
            )
            continue
        try:
            yield name, model.folder if form == "own" else getattr(model, form)(progress)
        except UserError as error:
            report.leave_out(f"{name} at {model.name}: {error}")


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*.safetensors"))


class One:
    """A model on a number of threads."""

    def __init__(
        self, plan: Plan, model: Model, paths: dict[str, Path], threads: int, report: Report,
        progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.plan, self.model, self.threads, self.report = plan, model, threads, report
        self.config = model.config
        self._say = lambda text: progress(f"{model.name}, {threads} thread{'s' * (threads > 1)}, {text}")
        texts = max(plan.batch) if plan.kind == "decode" else 1
        longest = plan.context + plan.tokens if plan.kind == "decode" else max(plan.prompts)
        positions = max(longest, sum(CHECKED))
        if positions > self.config.max_position_embeddings:
            raise UserError(
                f"{model.name} reads at most {self.config.max_position_embeddings:,} tokens and {positions:,} are "
                "asked for; lower --context, --tokens or --prompts."
            )
        self.runners = {name: Runner(name, path, threads, texts, positions) for name, path in paths.items()}
        together = sum(_ROOM * _bytes(path) for path in paths.values())
        self.alone = together > free_memory()
        if self.alone:
            report.note(
                f"At {model.name} each system was loaded anew for each round: they do not fit in memory together."
            )
        self.stored = {name: limit.Stored.of(model.folder if path.is_file() else path) for name, path in paths.items()}
        self.rng = np.random.default_rng(0)

    def run(self) -> None:
        with ExitStack() as stack:
            for runner in self.runners.values():
                stack.callback(runner.close)
            differences = self._compare()
            for parameters, case in self._cases():
                rows = self._rounds(parameters, case)
                for row in rows:
                    row["difference"] = differences.get(row["system"])
                self.report.rows += rows

    # --- the same network ---------------------------------------------------------------------------------------------

    def _compare(self) -> dict[str, float]:
        """The largest relative difference of each system's logits from ours; who computes something else is dropped."""
        text, alone = CHECKED
        ids = self._ids(text)
        self._say("comparing logits")
        found: dict[str, np.ndarray] = {}
        for name, runner in list(self.runners.items()):
            try:
                found[name] = runner.logits(ids, alone)
                self.report.systems.setdefault(name, runner.about)
            except Failed as error:
                self._drop(name, error)
            if self.alone:
                runner.close()
        if OURS not in found:
            return {}
        ours, differences = found.pop(OURS), {}
        for name, theirs in found.items():
            difference = relative_difference(theirs, ours)
            if difference > WRONG:
                self._drop(name, Failed(f"{name} computes something else: its logits differ by {difference:.2f}"))
            else:
                differences[name] = difference
        return differences

    def _drop(self, name: str, error: Failed) -> None:
        if name == OURS:
            raise error
        self.report.leave_out(f"{error} (at {self.model.name}, {self.threads} threads)")
        self.runners.pop(name).close()

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _cases(self) -> Iterator[tuple[dict[str, Any], Case]]:
        plan = self.plan
        if plan.kind == "prefill":
            for tokens in plan.prompts:
                ids = self._ids(tokens)
                yield {"prompt": tokens}, Case({"do": "prefill", "ids": ids}, tokens)
            return
        for batch in plan.batch:
            texts = [self._ids(plan.context) for _ in range(batch)]
            steps = [self._ids(batch) for _ in range(plan.tokens)]
            case = Case({"do": "decode", "texts": texts, "steps": steps}, batch * plan.tokens)
            yield {"batch": batch, "context": plan.context}, case

    def _rounds(self, parameters: dict[str, Any], case: Case) -> list[dict[str, Any]]:
        shown = ", ".join(f"{name} {value}" for name, value in parameters.items())

        def of(runner: Runner) -> Callable[[], float]:
            def speed() -> float:
                try:
                    return runner.speed(case, self.plan.seconds)
                finally:
                    if self.alone:
                        runner.close()

            return speed

        measures = {name: of(runner) for name, runner in self.runners.items()}
        found = interleave(
            {MEMORY: self._limit, **measures}, self.plan.rounds, self._drop, lambda text: self._say(f"{shown}, {text}")
        )
        reached = spread(found.pop(MEMORY))
        ours = spread(found[OURS])["median"]
        return [self._row(name, parameters, spread(values), reached, ours) for name, values in found.items()]

    @property
    def _cached(self) -> bool:
        return self.stored[OURS].working_set <= machine.cache_bytes()

    def _limit(self) -> float:
        """Bytes a second, of memory or of the cache that holds the model; operations a second for prefill."""
        process = self.runners[OURS].process
        if self.plan.kind == "prefill":
            return process.ask("peak")["operations_per_second"]
        bytes = max(machine.READ_BYTES, 4 * machine.cache_bytes())
        if self._cached:
            bytes = max(1 << 20, self.stored[OURS].working_set // 4 * 4)
        read = process.ask("read", bytes=bytes, threads=self.threads)
        if read["by"] == "numpy":
            self.report.note("Memory was read by numpy, which is slower than the memory: shares are too high.")
        return read["bytes_per_second"]

    def _row(
        self, name: str, parameters: dict[str, Any], speed: dict[str, Any], reached: dict[str, Any], ours: float
    ) -> dict[str, Any]:
        count = self.config.count()
        row = {
            "size": self.model.name, "system": name, "threads": self.threads, **parameters,
            "tokens_per_second": speed, "ours_relative": ours / speed["median"],
            "parameters": {"active": count.active - count.embedding, "total": count.total},
        }  # fmt: skip
        if self.plan.kind == "prefill":
            operations = limit.prefill_operations(self.config, parameters["prompt"]) / parameters["prompt"]
            row |= {"operations_per_token": operations, "operations_per_second": reached}
            most = reached["median"] / operations
        else:
            stored, middle = self.stored[name], parameters["context"] + (self.plan.tokens + 1) / 2
            touched = stored.bytes_per_token(parameters["batch"], middle, self.runners[name].cache_bytes)
            row |= {"bytes_per_token": touched, "bytes_per_second": reached}
            row["limited_by"] = "cache" if self._cached else "memory"
            most = reached["median"] / touched
        return row | {"limit_tokens_per_second": most, "share": speed["median"] / most}

    def _ids(self, count: int) -> list[int]:
        return self.rng.integers(0, self.config.vocab_size, count).tolist()


def relative_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest |theirs - ours| / |ours| of a row of logits; infinite where the shapes differ or one is no number."""
    if theirs.shape != ours.shape:
        return float("inf")
    found = np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1)
    return float(found.max()) if np.isfinite(found).all() else float("inf")
