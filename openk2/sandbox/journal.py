"""The journal of a box: the code of every finished call, so that a lost Python process can be rebuilt.

A file of one JSON object a line beside the workspace, where the box cannot reach it; each line is on disk before the
call's result is given out. Without a file the journal lives as long as its box.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from openk2.errors import UserError


class Journal:
    def __init__(self, path: Path | None = None):
        """Open or make `path`. Raises UserError where it cannot be read or is not a journal."""
        self._path = path
        self.calls: list[tuple[str, int | None]] = []  # the code, and how many of its statements finished (None: all)
        self.shell = ""  # where the last shell command ended: a script that leads there
        self._handle = -1
        if path is None:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._handle = os.open(path, flags, 0o600)
            if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                raise OSError(0, "it is not a plain file")
            with open(self._handle, "rb", closefd=False) as file:
                data = file.read()
            whole = data.rfind(b"\n") + 1  # a crash may have torn the last line
            os.ftruncate(self._handle, whole)
            for line in data[:whole].splitlines():
                self._take(json.loads(line))
        except OSError as error:
            raise UserError(f"The journal {path} cannot be used: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a journal of Python calls; move it away to go on without it.") from error

    def call(self, code: str, done: int | None) -> None:
        """A call has finished; after an error, `done` of its statements had."""
        self._write({"code": code, "done": done})

    def shell_ended(self, state: str) -> None:
        self._write({"shell": state})

    def forget(self) -> None:
        """The state could not be rebuilt and the model was told: earlier calls count no more."""
        self._write({"gone": True})

    def _take(self, entry: dict[str, Any]) -> None:
        if "code" in entry:
            self.calls.append((entry["code"], entry["done"]))
        elif "shell" in entry:
            self.shell = entry["shell"]
        elif entry["gone"]:
            self.calls.clear()

    def _write(self, entry: dict[str, Any]) -> None:
        if self._handle >= 0:
            data = json.dumps(entry).encode() + b"\n"
            size = os.fstat(self._handle).st_size
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
                os.fsync(self._handle)
            except OSError as error:
                os.ftruncate(self._handle, size)  # half a line must not stand before the next one
                raise UserError(f"The journal {self._path} cannot be written: {error.strerror}.") from error
        self._take(entry)

    def close(self) -> None:
        """Give up the file. Without one, the calls are forgotten: the process that had their state is gone."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self.calls.clear()
        self.shell = ""
