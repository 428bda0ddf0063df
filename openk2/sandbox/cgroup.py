"""A control group around a box, where this process may make one: limits that hold for all its processes together."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_serial = itertools.count()


class Group:
    """One or more cgroup folders (version 1 has one for each controller) that the box's processes are put in."""

    def __init__(self, folders: list[Path]):
        self._folders = folders

    @classmethod
    def create(cls, memory: int, processes: int) -> Group | None:
        """A group with both limits, or None where it cannot be made (the common case for a user without rights).

        Version 1: below our own groups. Version 2: beside our own group, in one that was delegated to us with both
        controllers (a systemd user session is).
        """
        name = f"openk2-{os.getpid()}-{next(_serial)}"
        limits = {"memory": {"memory.limit_in_bytes": memory}, "pids": {"pids.max": processes}}
        folders: list[Path] = []
        held: set[str] = set()  # limits that have a group
        try:
            for controllers, path in _own_groups():
                if controllers == "":  # version 2; beside version 1 it may be mounted elsewhere, or be empty
                    if (parent := _delegated((_ROOT / path).parent)) is not None:
                        made = {"memory.max": memory, "memory.swap.max": 0, "pids.max": processes}
                        folders.append(_make(parent / name, made))
                        held |= set(limits)
                    continue
                for controller in set(controllers.split(",")) & set(limits):
                    folders.append(_make(_ROOT / controllers / path / name, limits[controller]))
                    held.add(controller)
            if not set(limits) <= held:
                raise OSError("no controller for one of the limits")
        except OSError:
            for folder in folders:
                _remove(folder)
            return None
        return cls(folders)

    def add(self, pid: int) -> None:
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def processes(self) -> set[int]:
        """The processes in the group now."""
        found: set[int] = set()
        for folder in self._folders:
            try:
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
            except OSError:
                continue
        return found

    def remove(self) -> None:
        for folder in self._folders:
            _remove(folder)


def _own_groups() -> list[tuple[str, str]]:
    """(controllers, path below the mount) of this process; controllers are empty for version 2."""
    rows = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    return [(controllers, path.lstrip("/")) for _, controllers, path in rows]


def _delegated(parent: Path) -> Path | None:
    try:
        enabled = (parent / "cgroup.subtree_control").read_text().split()
    except OSError:
        return None
    return parent if {"memory", "pids"} <= set(enabled) else None


def _make(folder: Path, limits: dict[str, int]) -> Path:
    for old in folder.parent.glob("openk2-*"):  # left by a host that was killed
        owner = old.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(old)
    folder.mkdir()
    try:
        for name, value in limits.items():
            if name == "memory.swap.max" and not (folder / name).exists():
                continue
            (folder / name).write_text(str(value))
    except OSError:
        _remove(folder)
        raise
    return folder


def _remove(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # a process is still on its way out; the empty folder does no harm
