"""`kill -9` in heavy mode at random moments, then resume: the same answer, nothing repeated, no budget overspent."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from heavy_crash_program import LIMIT, STEPS  # type: ignore[import-not-found]
from heavy_scripts import logs, replies  # type: ignore[import-not-found]
from killing import check_no_finished_call_ran_again, kill_and_go_on  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.events import ChildFinished, ChildStarted, ReplyReceived, RunFinished

KILLS = 10  # of each kind
PROGRAM = Path(__file__).with_name("heavy_crash_program.py")


@pytest.mark.parametrize("kind", ["ample", "tight"])
def test_kill_at_ten_random_moments(tmp_path: Path, kind: str) -> None:
    dice = random.Random(kind)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        folder, effects = tmp_path / f"run{rounds}", tmp_path / f"effects{rounds}"
        command = [sys.executable, str(PROGRAM), str(folder), str(effects), kind]
        out, killed = kill_and_go_on(
            command,
            KILLS - kills,
            ready=(folder / log.LOG).exists,
            delay=lambda: dice.uniform(0.0, 0.6),
            again=lambda command=command: command,
        )
        kills += killed
        assert out == "It was 1931.\n"
        check(folder, Counter(effects.read_text().split("\n")[:-1]), kind)


def check(folder: Path, effects: Counter[str], kind: str) -> None:
    found = logs(folder)
    own = log.read(folder)
    for events in (own, *found.values()):
        check_no_finished_call_ran_again(events)
        assert sum(isinstance(event, RunFinished) for event in events) == 1
    assert all(count == 1 for mark, count in effects.items() if " write " in mark), "a call was repeated"
    for event in (ChildStarted, ChildFinished):
        named = [e.child for e in own if isinstance(e, event)]
        assert sorted(named) == sorted({*named}) and {*named} >= set("12345678")
    if kind == "ample":
        assert list(found) == [*(f"paths/{n}" for n in range(1, 9)), "merge"]
        counts = [sum(isinstance(e, ReplyReceived) for e in events) for events in found.values()]
        assert counts == [STEPS + 1] * 8 + [3], "a reply was asked for twice"
        assert {mark.split(" ", 1)[1] for mark in effects} == {
            f"{w} {n}" for w in ("write", "look") for n in range(STEPS)
        }
    assert len(replies(folder)) <= (LIMIT if kind == "tight" else 100)
    end = own[-1]
    assert isinstance(end, RunFinished) and end.steps == len(replies(folder))
