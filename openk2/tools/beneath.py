"""Files beneath a folder and nowhere else, whatever is done to the names meanwhile.

Each part of a path is opened from the folder before it and never through a link (openat with O_NOFOLLOW), so a link
put in the place of a folder between a check and its use leads nowhere. Only plain files are opened: a FIFO would block,
a device would act.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from openk2.tools.base import ToolError

MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Place:
    """A path as parts beneath `root`; `shown` is what the model calls it."""

    root: Path
    parts: tuple[str, ...]
    shown: str


def place_in(root: Path, path: str) -> Place | None:
    """The place of `path` (relative to `root`, or absolute) beneath `root`; None where it is not beneath it."""
    if "\0" in path:
        raise ToolError(f"{path!r} is not a path.")
    whole = Path(os.path.normpath(root / path))
    try:
        parts = whole.relative_to(root).parts
    except ValueError:
        return None
    return Place(root, parts, "/".join(parts) or ".")


@contextmanager
def folder(place: Place, parts: tuple[str, ...] | None = None, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` beneath the place's root. Raises ToolError where a part is no folder."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, part in enumerate(place.parts if parts is None else parts):
            made = False
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
                    made = True
            try:
                inner = os.open(part, flags, dir_fd=handle)
                if made:
                    _same_owner(handle, inner)
            except OSError as error:
                raise ToolError(_why("/".join(place.parts[: number + 1]), error, part, handle)) from None
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


@contextmanager
def plain_file(place: Place) -> Iterator[int]:
    """A descriptor of a plain file, for reading. Raises ToolError where it is missing or something else."""
    if not place.parts:
        raise ToolError(f"{place.shown} is a folder; list_files shows it.")
    with folder(place, place.parts[:-1]) as handle:
        name = place.parts[-1]
        try:
            _plain(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode, place.shown)
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
        except OSError as error:
            raise ToolError(_why(place.shown, error, name, handle)) from None
    try:
        _plain(os.fstat(opened).st_mode, place.shown)
        yield opened
    finally:
        os.close(opened)


def write(place: Place, data: bytes) -> bool:
    """Put `data` in the place at once, folders made as needed; whether the file is new.

    The file is replaced, not written into: a hard link elsewhere keeps what it had. Raises ToolError.
    """
    if not place.parts:
        raise ToolError(f"{place.shown} is a folder.")
    with folder(place, place.parts[:-1], make=True) as handle:
        name = place.parts[-1]
        mode = 0o644
        new = True
        try:
            mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
            _plain(mode, place.shown)
            new = False
        except FileNotFoundError:
            pass
        part = f".{name[:100]}.{secrets.token_hex(4)}.part"
        try:
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            try:
                with os.fdopen(opened, "wb") as file:
                    file.write(data)
                    os.fchmod(opened, stat.S_IMODE(mode) & 0o777)
                    _same_owner(handle, opened)
                os.replace(part, name, src_dir_fd=handle, dst_dir_fd=handle)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part, dir_fd=handle)
                raise
        except OSError as error:
            raise ToolError(_why(place.shown, error, name, handle)) from None
    return new


def walk(place: Place) -> Iterator[tuple[str, os.stat_result]]:
    """(path beneath the place, what it is) for all below a folder, by name; links are told, not followed."""
    with folder(place) as handle:
        yield from _walk(handle, "", 0)


def _walk(handle: int, above: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    for name in sorted(os.listdir(handle)):
        try:
            about = os.stat(name, dir_fd=handle, follow_symlinks=False)
            yield above + name, about
            if stat.S_ISDIR(about.st_mode) and depth < MAX_DEPTH:
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
                try:
                    yield from _walk(inner, f"{above}{name}/", depth + 1)
                finally:
                    os.close(inner)
        except OSError:
            continue  # gone meanwhile, or not ours to read


def _plain(mode: int, shown: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = (
        (stat.S_ISDIR, "a folder; list_files shows it"),
        (stat.S_ISLNK, "a link; links are not followed"),
        (stat.S_ISFIFO, "a pipe, not a file"),
        (stat.S_ISSOCK, "a socket, not a file"),
    )
    raise ToolError(f"{shown} is {next((what for test, what in kinds if test(mode)), 'a device, not a file')}.")


def _why(shown: str, error: OSError, name: str, handle: int) -> str:
    if isinstance(error, FileNotFoundError):
        return f"There is no {shown}."
    try:
        if stat.S_ISLNK(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
            return f"{shown} is a link; links are not followed."
    except (OSError, ValueError):
        pass
    if isinstance(error, NotADirectoryError):
        return f"{shown} is not a folder."
    return f"{shown} cannot be used ({error.strerror})."


def _same_owner(folder: int, made: int) -> None:
    """What root makes in a folder belongs to the folder's owner: code in the box runs as that user."""
    if os.geteuid() == 0 == os.fstat(made).st_uid:
        owner = os.fstat(folder)
        os.fchown(made, owner.st_uid, owner.st_gid)
