"""A long tool session in the engine: what is read twice, what forks take, saving and restoring, time a step."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from openk2.bench import report as show
from openk2.bench.report import Report
from openk2.engine import Engine
from openk2.engine.weights import Weights
from openk2.model.config import ModelConfig
from openk2.paths import NANO

_WRITTEN, _READ = 8, 56  # ids a step: of the call, and of its result
_FORKS = 8


def measure(model: Path | None, steps: int) -> Report:
    """A session of `steps` calls: some ids are written by the model, then those of a tool's result are read.

    Raises UserError when the model's context does not hold them. `failed` when more than 0.5% was computed twice, forks
    take 1.1 times the cache or more, or a restored session has other logits.
    """
    folder = model or NANO
    report = Report("session", {"model": str(folder), "steps": steps, "written": _WRITTEN, "read": _READ})
    config = ModelConfig.from_folder(folder)
    if model is None:  # room for all steps: what is written means nothing here
        config = replace(config, max_position_embeddings=65536)
    weights = Weights.load(folder, config)
    engine = Engine(config, weights)
    rng = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        return rng.integers(0, engine.config.vocab_size, count).tolist()

    text, times = draw(64), []
    computed = engine.scheduler.load.computed_tokens
    for _ in range(steps):  # each step asks with the whole text so far, as a chat client does
        start = time.perf_counter()
        session = engine.session(text)
        text += session.generate(max_tokens=_WRITTEN)
        times.append(time.perf_counter() - start)
        text += draw(_READ)
    session = engine.session()
    session.append(text)
    logits = np.array(session.logits)
    ratio = (engine.scheduler.load.computed_tokens - computed) / len(text)
    one = _used(engine)
    forks = [session.fork(len(text)) for _ in range(_FORKS)]
    for fork in forks:
        fork.append(draw(1))
        _ = fork.logits
    share = _used(engine) / one
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sessions"
        start = time.perf_counter()
        engine.save(path, [session])
        saved, size = time.perf_counter() - start, path.stat().st_size
        other = Engine(config, weights)
        start = time.perf_counter()
        (back,) = other.restore(path)
        same = bool(np.array_equal(np.asarray(back.logits), logits))
        restored = time.perf_counter() - start
    rows: list[tuple[str, Any, str]] = [
        ("tokens of the session", len(text), f"{len(text):,}"),
        ("tokens computed for each of them", ratio, f"{ratio:.4f}"),
        (f"cache of {_FORKS} forks, relative to one", share, f"{share:.3f}"),
        ("milliseconds a step, first ten", 1e3 * median(times[:10]), f"{1e3 * median(times[:10]):.2f}"),
        ("milliseconds a step, last ten", 1e3 * median(times[-10:]), f"{1e3 * median(times[-10:]):.2f}"),
        ("file of the session", size, show.size(size)),
        ("milliseconds to save it", 1e3 * saved, f"{1e3 * saved:.1f}"),
        ("milliseconds to restore it", 1e3 * restored, f"{1e3 * restored:.1f}"),
        ("logits after it identical", same, "yes" if same else "NO"),
    ]
    report.rows = [{"what": what, "value": value, "shown": shown} for what, value, shown in rows]
    report.failed = ratio > 1.005 or share >= 1.1 or not same
    return report


def _used(engine: Engine) -> int:
    """Bytes of the cache that texts hold."""
    return engine.scheduler.load.cache_bytes
