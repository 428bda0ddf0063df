"""`kill -9` at random moments, then resume: the same answer, and no finished call is repeated.

`OPENK2_KILLS=100` kills a hundred times instead of twenty.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from crash_program import POINTS, STEPS
from killing import check_no_finished_call_ran_again, kill_and_go_on  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.calls import INTERRUPTED
from openk2.agent.events import ReplyReceived, ToolFinished, ToolStarted

KILLS = int(os.environ.get("OPENK2_KILLS", "20"))
PROGRAM = Path(__file__).with_name("crash_program.py")


def test_killed_at_random_moments(tmp_path: Path) -> None:
    dice = random.Random(3)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        folder, effects = tmp_path / f"run{rounds}", tmp_path / f"effects{rounds}"
        command = [sys.executable, str(PROGRAM), str(folder), str(effects)]
        out, killed = kill_and_go_on(
            command,
            KILLS - kills,
            ready=(folder / log.LOG).exists,
            delay=lambda: dice.uniform(0.0, 0.12),
            again=lambda command=command: command,
        )
        kills += killed
        assert out == "All done.\n"
        check(log.read(folder), Counter(effects.read_text().split("\n")[:-1]))


def test_killed_at_every_kind_of_point(tmp_path: Path) -> None:
    """Inside a write, between write and sync, inside a tool: each kind in turn, the first or a later time."""
    dice = random.Random(5)
    for kill in range(KILLS):
        point = POINTS[kill % len(POINTS)]
        number = dice.randint(1, 2 * STEPS if point in ("tool", "effect") else 5 * STEPS)
        folder, effects = tmp_path / f"run{kill}", tmp_path / f"effects{kill}"
        command = [sys.executable, str(PROGRAM), str(folder), str(effects)]
        done = subprocess.run([*command, point, str(number)], capture_output=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, (point, number, done.stderr)
        before = log.read(folder)
        again = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (again.returncode, again.stdout) == (0, "All done.\n"), (point, number, again.stderr)
        events = log.read(folder)
        assert events[: len(before)] == before, "a step that was finished is lost"
        check(events, Counter(effects.read_text().split("\n")[:-1]))


def check(events: list, effects: Counter[str]) -> None:
    started = Counter((e.reply, e.index) for e in events if isinstance(e, ToolStarted))
    finished = [e for e in events if isinstance(e, ToolFinished)]
    assert len(finished) == 2 * STEPS == len({(e.reply, e.index) for e in finished})  # each call answered once
    assert sum(isinstance(e, ReplyReceived) for e in events) == STEPS + 1  # no reply was asked for twice
    check_no_finished_call_ran_again(events)
    for n in range(STEPS):
        assert effects[f"write {n}"] <= 1, "a call that is not idempotent was repeated"
        assert effects[f"look {n}"] >= 1
    for event in finished:
        if event.name == "write":
            assert started[event.reply, event.index] == 1
            assert event.content in (INTERRUPTED, f"written {number(event)}")
        else:
            assert event.content.startswith("seen ")


def number(event: ToolFinished) -> int:
    """The scripted ids count two calls a step."""
    return int(event.id.rpartition(":")[2]) // 2
