"""What a run tells: one row a step in metrics.jsonl, a line now and then, and the signal to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openk2.train.recipe import Stage

if TYPE_CHECKING:
    from openk2.train.loop import Position


class Progress:
    """Writes metrics.jsonl, whose rows after the position `at` are dropped: they will be made again.

    `recent`: the losses, newest last, of the steps that were as the last one is: of its stage, with or without INT4.
    `say` None: another rank writes and speaks.
    """

    def __init__(
        self, out: Path, at: Position, stages: Sequence[Stage], every: int, say: Callable[[str], None] | None
    ) -> None:
        self._every, self._say = every, say
        self._tokens = sum(stage.tokens for stage in stages)
        self._speed = 0.0
        self.recent: deque[float] = deque(maxlen=1000)
        self.qat = False
        for row in _rows(out / "metrics.jsonl", at.step):
            if (row["stage"], bool(row["qat"])) != (stages[at.stage].name, self.qat):
                self.recent.clear()
            self.qat = bool(row["qat"])
            self.recent.append(row["loss"])
        self._log = None
        if say:
            for name in ("metrics.jsonl", "samples.jsonl"):
                _truncate(out / name, at.step)
            self._log = (out / "metrics.jsonl").open("a", encoding="utf-8")
            if at.step:
                say(f"resumed at step {at.step}, {at.tokens / 1e6:.2f}M tokens")

    def row(self, metrics: dict[str, Any]) -> None:
        """Write one step's metrics; every so many steps also a line for the person."""
        self._speed = 0.9 * (self._speed or metrics["tokens_per_second"]) + 0.1 * metrics["tokens_per_second"]
        if self._log and self._say:
            self._log.write(json.dumps({name: _rounded(value) for name, value in metrics.items()}) + "\n")
            if metrics["step"] % self._every == 0 or metrics["step"] == 1:
                self._log.flush()
                self._say(self._line(metrics))

    def flush(self) -> None:
        """Before a checkpoint: no row up to it may be missing, not even after a power cut."""
        if self._log:
            self._log.flush()
            os.fsync(self._log.fileno())

    def _line(self, m: dict[str, Any]) -> str:
        left = max(self._tokens - m["tokens"], 0) / max(self._speed, 1e-9)
        percent = 100 * m["tokens"] / self._tokens
        return (
            f"{m['stage']} step {m['step']:>6}  {m['tokens'] / 1e6:8.2f}M tokens {percent:5.1f}%  "
            f"loss {m['loss']:7.4f}  {self._speed:6.0f} tok/s  {100 * m['mfu']:4.1f}% MFU  ETA {left / 60:5.1f} min  "
            f"grad {m['grad_norm']:6.3f}  lr {m['lr']:.2e}  logit {max(m['max_logits']):5.1f}  "
            f"load {max(m['load'], default=1.0):4.2f}{'  int4' if m['qat'] else ''}"
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _rows(file: Path, step: int) -> Iterator[dict[str, Any]]:
    """The whole rows of a file up to `step`."""
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("}\n") and (row := json.loads(line))["step"] <= step:
                    yield row


def _truncate(file: Path, step: int) -> None:
    if file.exists():
        kept = file.with_suffix(".part")
        with kept.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(file, step))
        kept.replace(file)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a step ends before the run does. A second SIGINT interrupts at once."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals go elsewhere
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
