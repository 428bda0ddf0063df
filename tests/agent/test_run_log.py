"""The log survives torn lines, refuses a second writer, and reads back what was written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openk2.agent import log
from openk2.agent.events import Note, ReplyReceived, RunStarted, from_line, to_line
from openk2.chat.messages import Message, ToolCall
from openk2.errors import UserError
from openk2.providers.base import Usage


def filled(folder: Path, notes: int = 3) -> list:
    with log.Log.create(folder) as opened:
        opened.append(RunStarted(run=folder.name, question="q?", tools=("search",)))
        for n in range(notes):
            opened.append(Note(text=f"note {n}"))
        return opened.events


def test_events_read_back_equal(tmp_path: Path) -> None:
    message = Message(
        "assistant", "a\u2028b \ud800", "why\n", (ToolCall("functions.x:0", "x", '{"a":  1}'),), token_ids=(1, 2)
    )
    reply = ReplyReceived(message=message, usage=Usage(1, 2, 3, 4, 0.5), finish_reason="tool_calls", seconds=0.5)
    assert from_line(to_line(reply)) == reply
    events = filled(tmp_path / "r")
    assert log.read(tmp_path / "r") == events
    assert [e.seq for e in events] == [1, 2, 3, 4]


def test_torn_tail_is_cut_at_every_length(tmp_path: Path) -> None:
    events = filled(tmp_path / "r")
    path = tmp_path / "r" / log.LOG
    whole = path.read_bytes()
    start = len(whole) - len(to_line(events[-1]))
    for size in range(start, len(whole)):
        path.write_bytes(whole[:size])
        assert log.read(tmp_path / "r") == events[:-1]
        with log.Log.open(tmp_path / "r") as opened:
            assert opened.events == events[:-1]
            opened.append(Note(text="after"))
        assert [e.seq for e in log.read(tmp_path / "r")] == [1, 2, 3, 4]
    path.write_bytes(whole + b"\0" * 512)  # what a power cut may leave
    with log.Log.open(tmp_path / "r") as opened:
        assert opened.events == events
    assert path.read_bytes() == whole


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    filled(tmp_path / "r")
    path = tmp_path / "r" / log.LOG
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[2] + lines[3])
    with pytest.raises(UserError, match="damaged at line 2"):
        log.Log.open(tmp_path / "r")
    path.write_bytes(lines[0] + lines[2] + lines[3])
    with pytest.raises(UserError, match="damaged at line 2"):
        log.Log.open(tmp_path / "r")


def test_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    filled(tmp_path / "r")
    program = f"""
import sys
from pathlib import Path
from openk2.agent import log
with log.Log.open(Path({str(tmp_path / "r")!r})):
    print("open", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"open\n"
    assert log.in_use(tmp_path / "r")
    with pytest.raises(UserError, match="Another process"):
        log.Log.open(tmp_path / "r")
    child.kill()
    child.wait()
    child.stdout.close()
    assert not log.in_use(tmp_path / "r")
    log.Log.open(tmp_path / "r").close()


def test_no_run_and_a_taken_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no run"):
        log.Log.open(tmp_path / "none")
    filled(tmp_path / "r")
    with pytest.raises(UserError, match="holds a run already"):
        log.Log.create(tmp_path / "r")


def test_full_disk_leaves_no_half_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = filled(tmp_path / "r")
    write = os.write
    with log.Log.open(tmp_path / "r") as opened:

        def full(handle: int, data: bytes) -> int:
            write(handle, data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError, match="disk is full"):
            opened.append(Note(text="lost"))
        monkeypatch.undo()
        assert log.read(tmp_path / "r") == events
        opened.append(Note(text="kept"))
    assert [e.seq for e in log.read(tmp_path / "r")] == [1, 2, 3, 4, 5]


def test_folders_newest_first(tmp_path: Path) -> None:
    for name in ("20260101-000000-aa", "20260102-000000-aa"):
        filled(tmp_path / name)
    (tmp_path / "other").mkdir()
    assert [p.name for p in log.folders(tmp_path)] == ["20260102-000000-aa", "20260101-000000-aa"]


@pytest.mark.parametrize("at", ["write", "fsync"])
def test_ctrl_c_in_the_middle_of_a_write_leaves_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Pressed twice it interrupts anything, and a chat goes on writing the same log."""
    real = getattr(os, at)

    def interrupted(handle: int, *given: bytes) -> int:
        real(handle, *(data[: len(data) // 2] for data in given))
        raise KeyboardInterrupt

    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q?"))
        with monkeypatch.context() as patch:
            patch.setattr(os, at, interrupted)
            with pytest.raises(KeyboardInterrupt):
                opened.append(Note(text="lost"))
        opened.append(Note(text="kept"))
        assert log.read(tmp_path / "r") == opened.events


@pytest.mark.parametrize("last", ["last", "middle"])
def test_events_of_a_later_version_are_not_cut_off(tmp_path: Path, last: str) -> None:
    filled(tmp_path / "r")
    place = tmp_path / "r" / log.LOG
    with place.open("ab") as file:
        file.write(b'{"seq":5,"ts":1.0,"type":"dreamt","text":"x"}\n')
        if last == "middle":
            file.write(to_line(Note(seq=6, text="after")))
    before = place.read_bytes()
    for opening in (log.Log.open, log.read):
        with pytest.raises(UserError, match="another version"):
            opening(tmp_path / "r")
    assert place.read_bytes() == before
