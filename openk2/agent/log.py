"""The append-only log of a run: `RUNS/ID/log.jsonl`, beside the run's `workspace/`.

An event is on disk (fsync) before `append` returns, so whatever depends on it may start. One process writes a run at a
time. A line that a crash tore is cut off when the log is opened again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from openk2.agent.events import Event, RunFinished, RunStarted, UnknownEvent, from_line, to_line
from openk2.errors import UserError
from openk2.paths import data_dir, sync_folder

E = TypeVar("E", bound=Event)
LOG = "log.jsonl"
WORKSPACE = "workspace"


def runs_dir() -> Path:
    return data_dir() / "runs"


def new_id() -> str:
    """Sorts by time, to some microseconds; the random end keeps runs that start together apart."""
    now = time.time()
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now % 1 * 65536):04x}{secrets.token_hex(1)}"


class Log:
    """An open log. `events` holds all of it; `append` is the only way to write."""

    def __init__(self, folder: Path, handle: int, events: list[Event]) -> None:
        self.folder = folder
        self.events = events
        self._handle = handle

    @classmethod
    def create(cls, folder: Path) -> Log:
        """Make the run's folder. Raises UserError where it cannot be written or holds a run already."""
        try:
            (folder / WORKSPACE).mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise UserError(f"{folder} holds a run already; resume it or choose another folder.") from None
        except OSError as error:
            raise _unwritable(folder, error) from None
        _lock(handle, folder)
        for place in (folder, folder.parent):
            sync_folder(place)
        return cls(folder, handle, [])

    @classmethod
    def open(cls, folder: Path) -> Log:
        """Open a run to go on with it. Raises UserError when there is none, it is damaged, or it is in use."""
        try:
            handle = os.open(folder / LOG, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UserError(f"There is no run at {folder}; `k2 runs list` shows those that exist.") from None
        except OSError as error:
            raise _unwritable(folder, error) from None
        _lock(handle, folder)
        try:
            events, whole = _parse((folder / LOG).read_bytes(), folder)
            if whole < os.fstat(handle).st_size:
                os.ftruncate(handle, whole)
                os.fsync(handle)
            (folder / WORKSPACE).mkdir(exist_ok=True)
        except OSError as error:
            os.close(handle)
            raise _unwritable(folder, error) from None
        except UserError:
            os.close(handle)
            raise
        return cls(folder, handle, events)

    @property
    def workspace(self) -> Path:
        return self.folder / WORKSPACE

    @property
    def started(self) -> RunStarted:
        if not self.events or not isinstance(self.events[0], RunStarted):
            raise UserError(f"The run at {self.folder} was stopped before it began; ask again.")
        return self.events[0]

    @property
    def finished(self) -> RunFinished | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, RunFinished) else None

    def append(self, event: E) -> E:
        """Number the event, put it on disk, and return it. Raises UserError when the disk is full."""
        event = replace(event, seq=len(self.events) + 1, ts=time.time())
        line = to_line(event)
        size, count = os.fstat(self._handle).st_size, len(self.events)
        try:
            _write(self._handle, line)
            os.fsync(self._handle)
            self.events.append(event)
        except BaseException as error:  # Ctrl-C as well: who writes on must not find half an event, or one unknown
            os.ftruncate(self._handle, size)
            del self.events[count:]
            if isinstance(error, OSError):
                raise _unwritable(self.folder, error) from None
            raise
        return event

    def close(self) -> None:
        """Give up the lock. Closing twice does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(folder: Path) -> list[Event]:
    """The events of a run that may be in use right now; a torn last line is passed over. Writes nothing."""
    try:
        return _parse((folder / LOG).read_bytes(), folder)[0]
    except FileNotFoundError:
        raise UserError(f"There is no run at {folder}; `k2 runs list` shows those that exist.") from None
    except OSError as error:
        raise UserError(f"The run at {folder} cannot be read: {error.strerror}.") from None


def in_use(folder: Path) -> bool:
    """Whether a process is writing the run."""
    try:
        handle = os.open(folder / LOG, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def folders(root: Path) -> Iterator[Path]:
    """The run folders below `root`, newest first."""
    if root.is_dir():
        yield from sorted((p.parent for p in root.glob(f"*/{LOG}")), key=lambda p: p.name, reverse=True)


def _parse(data: bytes, folder: Path) -> tuple[list[Event], int]:
    """The whole events and the number of bytes they take. Only the last line may be torn."""
    events: list[Event] = []
    place = 0
    while place < len(data):
        end = data.find(b"\n", place)
        if end < 0:
            break
        try:
            event = from_line(data[place:end])
            if event.seq != len(events) + 1:
                raise ValueError("numbers are missing")
        except UnknownEvent as error:
            raise UserError(f"{folder / LOG} holds {error} of another version of openk2; open it with that.") from None
        except ValueError as error:
            if data.find(b"\n", end + 1) < 0:
                break
            line = len(events) + 1
            raise UserError(f"{folder / LOG} is damaged at line {line} ({error}); the run cannot be resumed.") from None
        events.append(event)
        place = end + 1
    return events, place


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UserError(f"Another process is writing the run {folder.name}; wait for it or stop it.") from None


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _unwritable(folder: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk is full at {folder}; free some space, then try again.")
    return UserError(f"{folder} cannot be written ({error.strerror}); choose another place with --run-dir.")
