"""A disk that is full, a folder that cannot be written, a clock that jumps: clear words, and nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_program import STEPS

from openk2.agent import log
from openk2.agent.budget import Budget
from openk2.agent.events import ReplyReceived, RunFinished, RunStarted
from openk2.agent.log import Log
from openk2.agent.loop import Loop
from openk2.agent.parts import Parts
from openk2.agent.setup import Setup
from openk2.agent.state import State
from openk2.errors import UserError
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import tool

PROGRAM = Path(__file__).with_name("crash_program.py")


def program(folder: Path, effects: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The run of crash_program; `limit`: bytes that a file may have."""
    command = [sys.executable, str(PROGRAM), str(folder), str(effects)]
    if limit is not None:
        code = (
            f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
            f"sys.argv = {command[1:]!r}; sys.path.insert(0, {str(PROGRAM.parent)!r});"
            f"runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
        )
        command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("limit", [700, 1500, 4000])
def test_a_log_that_may_not_grow(tmp_path: Path, limit: int) -> None:
    folder, effects = tmp_path / "run", tmp_path / "effects"
    done = program(folder, effects, limit)
    assert done.returncode != 0 and "UserError" in done.stderr and "cannot be written" in done.stderr
    events = log.read(folder)
    assert len(events) > 0 and (folder / log.LOG).stat().st_size <= limit
    again = program(folder, effects)
    assert again.stdout == "All done.\n" and log.read(folder)[: len(events)] == events
    assert sum(isinstance(event, ReplyReceived) for event in log.read(folder)) == STEPS + 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_and_one_that_is_read_only(disk: Path, tmp_path: Path) -> None:
    (disk / "other").write_bytes(bytes(8000))
    done = program(disk / "run", tmp_path / "effects")
    assert "The disk is full at" in done.stderr and done.returncode != 0
    events = log.read(disk / "run")
    assert events
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\)"):
        Log.open(disk / "run")
    with pytest.raises(UserError, match="cannot be written"):
        Log.create(disk / "new")
    assert log.read(disk / "run") == events
    subprocess.run(["mount", "-o", "remount,rw,size=1m", str(disk)], check=True)
    again = program(disk / "run", tmp_path / "effects")
    assert again.stdout == "All done.\n" and log.read(disk / "run")[: len(events)] == events


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_uses_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    now = time.time()

    @tool(idempotent=True)
    def look(n: int) -> str:
        """Look."""
        monkeypatch.setattr(time, "time", lambda: now + n + jump * (n % 2))
        return f"seen {n}"

    steps = [call(("look", f'{{"n": {n}}}'), first=n) for n in range(6)]
    with Log.create(tmp_path / "run") as run:
        run.append(RunStarted(run="run", question="Do it.", budget=Budget(seconds=1000.0).to_json()))
        end = asyncio.run(Loop(run, ScriptedProvider([*steps, say("Done.")]), {"look": look}).run())
    assert isinstance(end, RunFinished) and (end.reason, end.answer) == ("stop", "Done.")
    assert State.of(log.read(tmp_path / "run")).spent.seconds < 1000.0
    assert 0 <= end.seconds < 60


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Log.create(tmp_path / "file" / "run")


def test_documents_that_are_still_being_read_hold_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, gate = Setup(), threading.Event()
    monkeypatch.setattr(Setup, "index", lambda self, on_skip=None: gate.wait(30))

    def stopped(self: Setup) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Setup, "provider", stopped)
    with log.Log.create(tmp_path / "r") as opened:
        opened.append(setup.started("r", "q"))
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            Parts.open(opened)
    assert time.monotonic() - begin < 10
    gate.set()
