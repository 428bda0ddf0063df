"""`python -m openk2.bench.worker MODULE`: one system in a process of its own, asked by JSON lines.

    {"do": "open", "path", "threads", "texts", "positions"}   -> {"about", "cache_bytes"}
    {"do": "logits", "ids", "alone"}                          -> {"rows", "data": base64 of float32}
    {"do": "decode", "texts", "steps"} | {"do": "prefill", "ids"}  -> {}, after a pass that is not timed
    {"do": "round", "seconds"}                                -> {"seconds", "passes"} of whole passes
    {"do": "read", "bytes", "threads"}                        -> {"bytes_per_second", "by"}
    {"do": "peak"}                                            -> {"operations_per_second"}

What goes wrong is answered with {"error": sentence}. The end of the input ends the process.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from openk2.bench import machine
from openk2.bench.systems import Pass, Settings, System, load
from openk2.paths import install


class Worker:
    def __init__(self, module: str) -> None:
        self.module = module
        self.system: System | None = None
        self.once: Pass | None = None
        self._read: np.ndarray | None = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        do = message.pop("do")
        if do == "open":
            path = Path(message.pop("path"))
            self.system = load(self.module, path, Settings(**message))
            return {"about": self.system.about, "cache_bytes": self.system.cache_bytes}
        if do == "read":
            return self._read_speed(**message)
        if do == "peak":
            return {"operations_per_second": machine.peak()}
        if do == "round":
            return self._round(**message)
        if self.system is None:
            raise RuntimeError(f"{do} before open")
        if do == "logits":
            rows = np.ascontiguousarray(self.system.logits(**message), np.float32)
            return {"rows": len(rows), "data": base64.b64encode(rows.tobytes()).decode()}
        if do == "decode":
            self.once = self.system.decode(message["texts"], np.array(message["steps"], np.int64))
        elif do == "prefill":
            self.once = self.system.prefill(message["ids"])
        else:
            raise RuntimeError(f"there is no {do}")
        self.once()
        return {}

    def _round(self, seconds: float) -> dict[str, Any]:
        """Whole passes for at least so long."""
        assert self.once is not None
        passes, start = 0, time.perf_counter()
        while True:
            self.once()
            passes += 1
            took = time.perf_counter() - start
            if took >= seconds:
                return {"seconds": took, "passes": passes}

    def _read_speed(self, bytes: int, threads: int) -> dict[str, Any]:
        if self._read is None or self._read.nbytes != bytes:
            self._read = None  # the memory of the one before first
            self._read = np.ones(bytes // 4, np.float32)
        speed, by = machine.read_speed(self._read, threads)
        return {"bytes_per_second": speed, "by": by}


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers go to what stdout was; what others print there goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            said = answer(json.loads(line))
        except ImportError as error:
            said = {"error": f"{error.name or error} is missing; install it: {install('bench')}"}
        except MemoryError:
            said = {"error": "it ran out of memory"}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        out.write(json.dumps(said) + "\n")
        out.flush()


if __name__ == "__main__":
    serve(Worker(sys.argv[1]).answer)
