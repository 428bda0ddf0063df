"""`kill -9` at random moments, then resume: the same answer, and no finished call is repeated."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from crash_program import STEPS

from openk2.agent import log
from openk2.agent.events import ReplyReceived, ToolFinished, ToolStarted
from openk2.agent.loop import INTERRUPTED

KILLS = 20
PROGRAM = Path(__file__).with_name("crash_program.py")


def test_kill_at_twenty_random_moments(tmp_path: Path) -> None:
    dice = random.Random(3)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        folder, effects = tmp_path / f"run{rounds}", tmp_path / f"effects{rounds}"
        command = [sys.executable, str(PROGRAM), str(folder), str(effects)]
        while True:
            child = subprocess.Popen(command, stdout=subprocess.PIPE)
            if kills < KILLS:
                deadline = time.monotonic() + 20
                while not (folder / log.LOG).exists() and child.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(dice.uniform(0.0, 0.12))
                child.send_signal(signal.SIGKILL)
            out, _ = child.communicate(timeout=60)
            if child.returncode == 0:
                break
            assert child.returncode == -signal.SIGKILL
            kills += 1
        assert out == b"All done.\n"
        check(log.read(folder), Counter(effects.read_text().split("\n")[:-1]))


def check(events: list, effects: Counter[str]) -> None:
    started = Counter((e.reply, e.index) for e in events if isinstance(e, ToolStarted))
    finished = [e for e in events if isinstance(e, ToolFinished)]
    assert len(finished) == 2 * STEPS == len({(e.reply, e.index) for e in finished})  # each call answered once
    assert sum(isinstance(e, ReplyReceived) for e in events) == STEPS + 1  # no reply was asked for twice
    done: set[tuple[int, int]] = set()
    for event in events:
        if isinstance(event, ToolStarted):
            assert (event.reply, event.index) not in done, "a finished call was run again"
        elif isinstance(event, ToolFinished):
            done.add((event.reply, event.index))
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
