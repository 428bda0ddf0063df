"""read_file, write_file, edit_file, list_files and grep: the run's workspace, and folders a person named to be read.

Writing outside the workspace is impossible, and so is reading outside all of them (`beneath`).
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openk2.tools import beneath, child
from openk2.tools.base import Tool, ToolError, ToolResult, tool
from openk2.tools.beneath import Place
from openk2.tools.formats import shorten

PAGE_CHARS = 16_000  # shown by read_file at once
LINE_WIDTH = 2000
LARGEST = 32 << 20  # bytes of a file that is read or edited; more is worked on with python
MAX_LISTED = 300
MAX_MATCHES = 100
GREP_SECONDS = 10.0
GREP_MEMORY = 512 << 20


class Files:
    """`workspace` is read and written, `read_only` folders are read; both as they are called by a person."""

    def __init__(self, workspace: Path, read_only: Sequence[Path] = ()) -> None:
        self.workspace = workspace.resolve()
        self.read_only = tuple(path.resolve() for path in read_only)

    def to_read(self, path: str) -> Place:
        for root in (self.workspace, *self.read_only):
            if (place := beneath.place_in(root, path)) is not None:
                return place if root == self.workspace else Place(root, place.parts, str(root.joinpath(*place.parts)))
        folders = "".join(f", {root}" for root in self.read_only)
        raise ToolError(f"{path} is outside what may be read: the workspace{folders}.")

    def to_write(self, path: str) -> Place:
        place = beneath.place_in(self.workspace, path)
        if place is None:
            raise ToolError(f"{path} is outside the workspace; files are written only there.")
        return place

    def text(self, place: Place) -> str:
        """The whole of a text file, its bytes kept where they are not UTF-8. Raises ToolError for others."""
        with beneath.plain_file(place) as handle:
            size = os.fstat(handle).st_size
            if size > LARGEST:
                raise ToolError(f"{place.shown} has {size:,} bytes, too many to show; look at it with python.")
            with os.fdopen(os.dup(handle), "rb") as file:
                data = file.read(LARGEST + 1)
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16", "replace")
        if b"\0" in data[:8192]:
            raise ToolError(f"{place.shown} is not text ({size:,} bytes).")
        return data.decode("utf-8", "surrogateescape")


def file_tools(files: Files) -> dict[str, Tool]:
    """The five tools over `files`."""
    private = bool(files.read_only)

    @tool(idempotent=True, timeout=30.0, private=private)
    def read_file(path: str, line: int = 1) -> ToolResult:
        """Read a text file from a line on; each line comes after its number and a tab.

        Args:
            path: The file, relative to the workspace, or in full.
            line: The first line to read.
        """
        place = files.to_read(path)
        lines = files.text(place).encode("utf-8", "replace").decode().splitlines()
        first = min(max(1, line), max(1, len(lines)))
        shown, left = [], PAGE_CHARS
        for number in range(first, len(lines) + 1):
            text = f"{number}\t{shorten(lines[number - 1], LINE_WIDTH)}"
            left -= len(text) + 1
            if shown and left < 0:
                break
            shown.append(text)
        if not lines:
            return ToolResult(f"{place.shown} is empty.", source=place.shown)
        whole = first == 1 and len(shown) == len(lines)
        tail = [] if whole else [f"(lines {first}-{first + len(shown) - 1} of {len(lines)})"]
        return ToolResult("\n".join([*shown, *tail]), source=place.shown)

    @tool(timeout=30.0, output_limit=4000)
    def write_file(path: str, content: str) -> ToolResult:
        """Write a text file in the workspace, folders made as needed. What was there is replaced.

        Args:
            path: The file, relative to the workspace.
            content: The whole text.
        """
        place = files.to_write(path)
        data = content.encode("utf-8", "replace")
        new = beneath.write(place, data)
        did = "Wrote" if new else "Replaced"
        return ToolResult(f"{did} {place.shown}: {_count(content)}, {len(data):,} bytes.", files=(place.shown,))

    @tool(timeout=30.0, output_limit=4000)
    def edit_file(path: str, old: str, new: str) -> ToolResult:
        """Replace a passage of a text file in the workspace. The passage must be there exactly once, to the letter.

        Args:
            path: The file, relative to the workspace.
            old: The passage as it stands in the file, blanks and line ends included.
            new: What takes its place.
        """
        place = files.to_write(path)
        text = files.text(place)
        if "\r\n" in text and "\r\n" not in old:
            old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
        at = _only(place.shown, text, old)
        changed = text[:at] + new + text[at + len(old) :]
        beneath.write(place, changed.encode("utf-8", "surrogateescape"))
        first = text.count("\n", 0, at) + 1
        last = first + new.count("\n")
        lines = changed.encode("utf-8", "replace").decode().splitlines()
        around = [f"{n}\t{shorten(lines[n - 1], 200)}" for n in range(max(1, first - 2), min(len(lines), last + 2) + 1)]
        if len(around) > 12:
            around[6:-5] = ["…"]
        return ToolResult("\n".join([f"Edited {place.shown}. It now reads:", *around]), files=(place.shown,))

    @tool(idempotent=True, timeout=30.0, private=private)
    def list_files(path: str = ".", pattern: str = "") -> str:
        """List the files below a folder with their sizes.

        Args:
            path: The folder, relative to the workspace, or in full.
            pattern: Only paths that match, as in *.csv; none lists all.
        """
        place = files.to_read(path)
        shown = [f"{name}{_kind(about)}" for name, about in beneath.walk(place) if _matches(name, pattern)]
        more = [f"({len(shown) - MAX_LISTED} more; name a folder or a pattern)"] if len(shown) > MAX_LISTED else []
        other = [f"{root}/ (read only)" for root in files.read_only] if not place.parts and not pattern else []
        if place.root != files.workspace:
            other = []
        return "\n".join([*shown[:MAX_LISTED], *more, *other]) or f"No file below {place.shown}."

    @tool(idempotent=True, timeout=GREP_SECONDS + 5, private=private)
    async def grep(pattern: str, path: str = ".", files_like: str = "", ignore_case: bool = False) -> str:
        """Find the lines that match a regular expression (Python's), as path:line: text.

        Args:
            pattern: The regular expression.
            path: A file, or a folder with all below it.
            files_like: Only files whose path matches, as in *.py.
            ignore_case: Whether letter case is left aside.
        """
        place = files.to_read(path)
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ToolError(f"The pattern is not a regular expression: {error}.") from None
        task = {"root": str(place.root), "parts": place.parts, "shown": place.shown, "pattern": pattern,
                "like": files_like, "ignore_case": ignore_case}  # fmt: skip
        answer = await child.run(f"{__name__}:matches", task, GREP_SECONDS, GREP_MEMORY)
        if "error" in answer:
            raise ToolError(f"{place.shown} {answer['error']}.")
        if "problem" in answer:
            raise ToolError(answer["problem"])
        return "\n".join(answer["lines"]) or "No line matches."

    return {made.name: made for made in (read_file, write_file, edit_file, list_files, grep)}


def _count(text: str) -> str:
    lines = len(text.splitlines())
    return f"{lines} line{'s' * (lines != 1)}"


def _only(shown: str, text: str, old: str) -> int:
    """Where `old` is in `text`. Raises ToolError unless it is there once."""
    if not old:
        raise ToolError("The passage to replace is empty; write_file writes a whole file.")
    count = text.count(old)
    if count == 1:
        return text.index(old)
    if count:
        lines, at = [], -1
        while len(lines) < 10 and (at := text.find(old, at + 1)) >= 0:
            lines.append(str(text.count("\n", 0, at) + 1))
        raise ToolError(f"The passage is {count} times in {shown} (lines {', '.join(lines)}); give more around it.")
    loose = r"\s+".join(map(re.escape, old.split()[:200]))
    near = re.search(loose, text) if loose else None
    hint = f" One that differs only in blanks is at line {text.count(chr(10), 0, near.start()) + 1}." if near else ""
    raise ToolError(f"The passage is not in {shown}; read the file and copy it to the letter.{hint}")


def _kind(about: os.stat_result) -> str:
    if stat.S_ISDIR(about.st_mode):
        return "/"
    if stat.S_ISREG(about.st_mode):
        return f" ({about.st_size:,} bytes)"
    return " (a link)" if stat.S_ISLNK(about.st_mode) else " (not a file)"


def _matches(name: str, pattern: str) -> bool:
    return not pattern or fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.rpartition("/")[2], pattern)


# ------------------------------------------------------------------------------------------------ in the child


def matches(task: dict[str, Any]) -> dict[str, Any]:
    """The lines of grep: what matches beneath a place, at most MAX_MATCHES."""
    place = Place(Path(task["root"]), tuple(task["parts"]), task["shown"])
    pattern = re.compile(task["pattern"], re.IGNORECASE if task["ignore_case"] else 0)
    found: list[str] = []
    for file in _files(place, task["like"]):
        try:
            for number, line in _lines(file):
                if pattern.search(line):
                    if len(found) == MAX_MATCHES:
                        return {"lines": [*found, f"(more than {MAX_MATCHES} lines match; be more particular)"]}
                    found.append(f"{file.shown}:{number}: {shorten(line, 300)}")
        except ToolError as error:
            if file is place:
                return {"problem": str(error)}
    return {"lines": found}


def _files(place: Place, like: str) -> Iterator[Place]:
    try:
        for name, about in beneath.walk(place):
            if stat.S_ISREG(about.st_mode) and _matches(name, like) and about.st_size <= LARGEST:
                above = "" if place.shown == "." else f"{place.shown}/"
                yield Place(place.root, (*place.parts, *name.split("/")), above + name)
    except ToolError:  # no folder
        yield place


def _lines(place: Place) -> Iterator[tuple[int, str]]:
    with beneath.plain_file(place) as handle, os.fdopen(os.dup(handle), "rb") as file:
        if b"\0" in file.read(8192):
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            yield number, line[: 1 << 16].decode("utf-8", "replace").rstrip("\r\n")
