"""`kill -9` at random moments, then resume: the same answer, and no finished call is repeated."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

from crash_program import STEPS
from killing import check_no_finished_call_ran_again, kill_and_go_on  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.calls import INTERRUPTED
from openk2.agent.events import ReplyReceived, ToolFinished, ToolStarted

KILLS = 20
PROGRAM = Path(__file__).with_name("crash_program.py")


def test_kill_at_twenty_random_moments(tmp_path: Path) -> None:
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
