"""A system in a process of its own: asked, answered in time, and ended; a crash is one sentence and nothing more."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from openk2.bench.rounds import Failed

_ROOT = Path(__file__).parents[2]
_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SECONDS = 900.0  # for one answer


class Process:
    """`name` is for people. Every call raises Failed, with the reason, when the process cannot answer."""

    def __init__(self, name: str, argument: str, threads: int, worker: str = "openk2.bench.worker") -> None:
        self.name = name
        path = os.pathsep.join(p for p in (str(_ROOT), os.environ.get("PYTHONPATH")) if p)
        environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        environment |= dict.fromkeys(_BLAS, str(threads))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", worker, argument], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._errors, encoding="utf-8",
        )  # fmt: skip
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def ask(self, do: str, *, seconds_left: float = SECONDS, **message: Any) -> dict[str, Any]:
        """One message, one answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **message}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=seconds_left)
        except OSError:
            line = None
        except queue.Empty:
            self.close()
            raise Failed(f"{self.name} gave no answer in {seconds_left:.0f} s ({do})") from None
        if line is None:
            raise Failed(f"{self.name} ended by itself ({do}): {self._why()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process; safe to call again."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what it did not read any more
                    continue

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _why(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        try:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            how += ", as when memory is short" * (code == -signal.SIGKILL)
        except ValueError:
            how = f"signal {-code}"
        return f"{how}; {said[-1][:200]}" if said else how
