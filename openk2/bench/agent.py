"""What the agent itself costs a step, beside a plain loop and other runtimes: the model answers at once.

Every runtime goes through the same session in a process of its own, in interleaved rounds, against one server that
measures from outside (`agent_server`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from openk2.bench.report import Report
from openk2.bench.rounds import Failed, interleave

OURS = ("openk2", "openk2 without fsync")
ROOT = Path(__file__).parents[2]
NEAR = 5  # steps on either side that a figure is the median of
SECONDS = 600.0  # for one session


def measure(steps: int, rounds: int, peers: Sequence[str], progress: Callable[[str], None] = lambda _: None) -> Report:
    """`rounds` sessions of `steps` calls each. `failed` where a runtime of ours did not send every thought back."""
    report = Report("agent", {"steps": steps, "rounds": rounds})
    server = subprocess.Popen(
        [sys.executable, "-m", "openk2.bench.agent_server", str(steps)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert server.stdout is not None
        base = f"http://127.0.0.1:{int(server.stdout.readline())}"
        names = ["raw loop", *OURS, *peers]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

        def one(name: str) -> float:
            runs[name].append(_session(base, name, len(runs[name]), steps))
            return runs[name][-1]["seconds"]

        interleave(
            {name: lambda name=name: one(name) for name in names},
            rounds,
            lambda name, error: report.leave_out(f"{name}: {error}"),
            progress,
        )
    finally:
        server.kill()
        server.wait()
    for name in names:
        if len(runs[name]) == rounds:
            report.systems[name] = runs[name][0]["about"]
            report.rows.append(_row(name, runs[name], steps))
    report.failed = any(row["back"] < steps for row in report.rows if row["system"] in OURS)
    report.note(f"ms a step: from the end of a reply to the whole next request; the median of {2 * NEAR + 1} steps.")
    return report


def _session(base: str, name: str, number: int, steps: int) -> dict[str, Any]:
    session = f"{name.replace(' ', '-')}-{number}"
    begin = time.perf_counter()
    command = [sys.executable, "-m", "openk2.bench.agent_clients", name, f"{base}/{session}/v1", str(steps)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer in {SECONDS:.0f} s") from None
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"it ended by itself: {done.stderr.strip().splitlines()[-1:]}") from None
    if "error" in said:
        raise Failed(said["error"])
    with urllib.request.urlopen(f"{base}/{session}/report") as answer:
        seen = json.loads(answer.read())
    if seen["steps"] != steps + 1:
        raise Failed(f"it asked {seen['steps']} times, not {steps + 1}")
    return {**said, **seen, "seconds": time.perf_counter() - begin}


def _row(name: str, runs: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    def at(step: int) -> float:
        """ms of the steps around one."""
        low = min(max(0, step - NEAR - 1), steps - 2 * NEAR - 1)
        return round(1000 * median(median(run["gaps"][max(0, low) : low + 2 * NEAR + 1]) for run in runs), 2)

    return {
        "system": name,
        "first_ms": at(1),
        "third_ms": at(steps // 3),
        "last_ms": at(steps),
        "seconds": round(median(run["seconds"] for run in runs), 2),
        "peak_bytes": round(median(run["peak_bytes"] for run in runs)),
        "back": min(run["back"] for run in runs),
        "steps": steps,
    }
