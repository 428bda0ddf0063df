"""A new run that begins like another: its first events, its files, and from there on a way of its own.

The events are copied as they are. Files are copied as they are now, which may be later than the event: what tools have
written since is there, what they have deleted since is not. Runs within the run that began later are left out.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openk2.agent.events import ChildStarted, Event, RunStarted, UserSaid, to_line
from openk2.agent.log import LOG, new_id, read
from openk2.agent.setup import Setup
from openk2.errors import UserError
from openk2.paths import sync_folder


def fork(
    source: Path, upto: int | None, root: Path, *, say: str | None = None, setup: Setup | None = None
) -> Path:
    """Make a run below `root` of the first `upto` events of the run in `source` (None: all); return its folder.

    `say` is said next. `setup` takes the place of the run's own: another model, mode or documents. Raises UserError
    where there are no such events or the disk does not take them.
    """
    events = read(source)
    if not events or not isinstance(events[0], RunStarted):
        raise UserError(f"The run at {source} was stopped before it began; there is nothing to fork.")
    upto = len(events) if upto is None else upto
    if not 1 <= upto <= len(events):
        raise UserError(f"{source.name} has the events 1 to {len(events)}; {upto} is none of them.")
    run = new_id()
    kept: list[Event] = [started(events[0], run, source.name, setup), *events[1:upto]]
    if say:
        kept.append(UserSaid(seq=upto + 1, ts=time.time(), text=say))
    folder = root / run
    left = {source / LOG, *(source / event.folder for event in events[upto:] if isinstance(event, ChildStarted))}
    try:
        shutil.copytree(
            source, folder, symlinks=True, copy_function=_copy,
            ignore=lambda at, names: [name for name in names if Path(at, name) in left],
        )  # fmt: skip
        _write(folder, kept)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"The run could not be copied to {folder} ({error}).") from None
    return folder


def started(first: RunStarted, run: str, parent: str, setup: Setup | None) -> RunStarted:
    """The first event of the new run."""
    if setup is None:
        return replace(first, run=run, parent=parent)
    made = setup.started(run, first.question, parent=parent)
    return replace(made, seq=first.seq, ts=first.ts, outside=first.outside, private=first.private)


def _write(folder: Path, events: Sequence[Event]) -> None:
    """The log, whole or not at all."""
    part = folder / f"{LOG}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.writelines(map(to_line, events))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / LOG)
    for place in (folder, folder.parent):
        sync_folder(place)


def _copy(source: str, target: str) -> str:
    """A file's copy that shares its blocks where the file system can; anything else than a file is left out."""
    if Path(source).is_symlink() or not Path(source).is_file():
        return target
    with Path(source).open("rb") as given, Path(target).open("xb") as made:
        left = os.fstat(given.fileno()).st_size
        while left > 0:
            try:
                done = os.copy_file_range(given.fileno(), made.fileno(), left)
            except OSError:  # between file systems that cannot
                shutil.copyfileobj(given, made)
                break
            if not done:
                break
            left -= done
    shutil.copymode(source, target)
    return target
