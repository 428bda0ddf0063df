"""The processes of a box as the host sees them: which there are, what they use, and how to end them all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    started: int  # clock ticks after boot: tells a process from a later one with the same number
    resident: int  # bytes
    dead: bool


def table() -> dict[int, Process]:
    """Every process that /proc, or on macOS ps, shows us."""
    if sys.platform == "darwin":
        return _from_ps(subprocess.run(["/bin/ps", "-axo", "pid=,ppid=,rss=,stat="], capture_output=True).stdout)
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (three times as fast as Path.iterdir, and called often)
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            found[int(name)] = Process(
                int(name), int(fields[1]), int(fields[19]), int(fields[21]) * _PAGE, fields[0] in b"ZX"
            )
    return found


def _from_ps(lines: bytes) -> dict[int, Process]:
    found = {}
    for line in lines.splitlines():
        pid, parent, kilobytes, state = line.split()[:4]
        found[int(pid)] = Process(int(pid), int(parent), 0, int(kilobytes) << 10, state[:1] == b"Z")
    return found


def nameless_files(pids: Iterable[int]) -> int:
    """Bytes on disk of files that these processes hold open though their names are gone: no folder shows them."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            handles = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208  (as above)
        except OSError:
            continue
        for handle in handles:
            try:
                about = os.stat(f"/proc/{pid}/fd/{handle}")  # noqa: PTH116
            except OSError:
                continue
            if stat.S_ISREG(about.st_mode) and about.st_nlink == 0:
                sizes[about.st_dev, about.st_ino] = about.st_blocks * 512
    return sum(sizes.values())


def members(root: int, user: int | None = None, also: set[int] | None = None) -> dict[int, Process]:
    """`root`, its descendants, everything of `user` (a user id that is the box's own), and `also`; without zombies.

    Descent is enough where orphans are adopted by the supervisor, which the code cannot end.
    """
    everything = table()
    children: dict[int, list[int]] = {}
    for process in everything.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, todo = set(), [root, *(also or ())]
    if user is not None:
        todo += [pid for pid in everything if _owner(pid) == user]
    while todo:
        pid = todo.pop()
        if pid in everything and pid not in found:
            found.add(pid)
            todo += children.get(pid, ())
    return {pid: everything[pid] for pid in found if not everything[pid].dead}


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116  (as above)
    except OSError:
        return None


def kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def end_all(root: int, user: int | None, also: set[int], seconds: float = 5.0) -> bool:
    """Kill the box's processes, `root` last, until none is left; whether that was reached.

    Descendants go first: as long as the supervisor lives, what forks away meanwhile is still found below it.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rest = set(members(root, user, also)) - {root, os.getpid()}
        if not rest:
            kill({root})
            return True
        kill(rest)
        time.sleep(0.002)
    kill({root})
    return False
