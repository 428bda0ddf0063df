"""The workspace as the host sees it: what a box wrote there is read as a stranger's, never followed or trusted."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath

from openk2.errors import UserError

MOST_ENTRIES = 50_000  # that one look goes through
State = dict[str, tuple[int, int, int, int]]  # name below the workspace: inode, size, time of writing and of changing


def read(workspace: Path, name: str, limit: int = 64 << 20) -> bytes:
    """The contents of the file `name` below `workspace`.

    No link is followed at any level, so a link swapped in meanwhile leads nowhere; a FIFO or a device never blocks.
    Raises UserError for a name that leads out, for what is not a plain file, and for one of over `limit` bytes.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        raise UserError(f"{name!r} is not a file of the workspace; name one below it, without `..`.")
    handle = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for index, part in enumerate(parts):
            kind = os.O_NONBLOCK if index == len(parts) - 1 else os.O_DIRECTORY
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=handle)
            os.close(handle)
            handle = below
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{name!r} is not a plain file, so it is not read.")
        if about.st_size > limit:
            raise UserError(f"{name!r} has {about.st_size:,} bytes, more than the {limit:,} that are read at once.")
        with open(handle, "rb", closefd=False) as file:
            return file.read(limit)
    except OSError as error:
        raise UserError(f"{name!r} cannot be read from the workspace: {error.strerror}.") from error
    finally:
        os.close(handle)


def look(workspace: Path) -> tuple[State, int]:
    """Every plain file, and the bytes on disk of all that is below; of very many files, of the first."""
    found: State = {}
    total, left, todo = 0, MOST_ENTRIES, [""]
    while todo and left > 0:
        folder = todo.pop()
        try:
            with os.scandir(workspace / folder) as entries:
                for entry in entries:
                    left -= 1
                    about = entry.stat(follow_symlinks=False)
                    name = f"{folder}{entry.name}"
                    total += about.st_blocks * 512
                    if stat.S_ISDIR(about.st_mode):
                        todo.append(f"{name}/")
                    elif stat.S_ISREG(about.st_mode):
                        found[name] = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        except OSError:
            continue  # it was deleted meanwhile
    return found, total


def changed(before: State, after: State) -> tuple[str, ...]:
    """Names of the files made or written between two looks, without hidden ones, fit to be shown."""
    names = (name for name, about in after.items() if before.get(name, about) != about or name not in before)
    return tuple(sorted(shown(name) for name in names if not any(p.startswith(".") for p in name.split("/"))))


def shown(name: str) -> str:
    """A file name without what a terminal, a line or UTF-8 would stumble over."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)


def own(workspace: Path, user: int) -> None:
    """Give the workspace to the box's user. Never through a link, and never a file that has a second name elsewhere."""
    os.chown(workspace, user, user)
    for _, folders, files, handle in os.fwalk(workspace):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                about = os.stat(name, dir_fd=handle, follow_symlinks=False)
                if stat.S_ISDIR(about.st_mode) or about.st_nlink == 1:
                    os.chown(name, user, user, dir_fd=handle, follow_symlinks=False)
