"""`open` and `find` also read what the tools of this run have shown: by the handle `rN`, or `run` for all of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from openk2.agent.context import call_line, handle
from openk2.agent.state import State
from openk2.tools.base import Tool, ToolError, tool
from openk2.tools.formats import PAGE_CHARS, format_find, format_open
from openk2.tools.index import Document

HANDLE = re.compile(r"r(\d+)")
LINE_CHARS = 400  # a line that is longer is shown as several
LINES_OF_ONE = 3  # of an output, when all are searched
OUTPUTS = 20


@tool(name="open", idempotent=True, timeout=30.0)
def open_output(id: str, line: int = 1) -> str:
    """Read an output of an earlier call from a line on, each line as [id:line] text.

    Args:
        id: The handle of the output, as r12.
        line: The first line to read.
    """
    raise ToolError(f"There is no output {id}.")


@tool(name="find", idempotent=True, timeout=30.0)
def find_output(id: str, pattern: str) -> str:
    """Show the lines that contain a text, letter case aside, in one output of an earlier call or in all of them.

    Args:
        id: The handle of the output, as r12, or "run" for all outputs.
        pattern: The text to find.
    """
    raise ToolError(f"There is no output {id}.")


def with_results(tools: Mapping[str, Tool], state: Callable[[], State]) -> dict[str, Tool]:
    """`tools` with an `open` and a `find` that read outputs of this run and leave every other id to those given."""

    def read(id: str, line: int = 1) -> str | None:
        document = _output(id, state())
        return format_open(document, line, PAGE_CHARS) if document else None

    def search(id: str, pattern: str) -> str | None:
        if id.strip() == "run":
            return _everywhere(state(), pattern)
        document = _output(id, state())
        return format_find(document, pattern) if document else None

    opened, found = tools.get("open", open_output), tools.get("find", find_output)
    return {**tools, "open": _first(read, opened), "find": _first(search, found)}


def _first(read: Callable[..., str | None], given: Tool) -> Tool:
    """The tool `given`, asked only for what `read` leaves to it."""

    @functools.wraps(given.function)
    async def function(**values: Any) -> Any:
        own = read(**values)
        if own is not None:
            return own
        if inspect.iscoroutinefunction(given.function):
            return await given.function(**values)
        return await asyncio.to_thread(given.function, **values)

    return replace(given, function=function)


def _output(id: str, state: State) -> Document | None:
    name = id.strip().strip("[]").partition(":")[0]
    if not (match := HANDLE.fullmatch(name)):
        return None
    result = next((r for r in state.results.values() if r.seq == int(match[1])), None)
    return None if result is None else Document(name, name, tuple(_lines(result.content)))


def _lines(text: str) -> list[str]:
    return [
        line[start : start + LINE_CHARS]
        for line in text.split("\n")
        for start in range(0, max(1, len(line)), LINE_CHARS)
    ]


def _everywhere(state: State, pattern: str) -> str:
    """The lines of all outputs that hold the text, newest outputs first."""
    wanted = " ".join(pattern.split()).casefold()
    calls = {entry.result.seq: entry.call for entry in state.entries if entry.result is not None}
    shown: list[str] = []
    outputs = hits = 0
    for result in reversed(list(state.results.values())):
        lines = [(n, text) for n, text in enumerate(_lines(result.content), 1) if wanted in text.casefold()]
        if not lines:
            continue
        outputs, hits = outputs + 1, hits + len(lines)
        if outputs <= OUTPUTS:
            shown.append(f"In {handle(result)}, {call_line(calls.get(result.seq))}:")
            shown += [f"[{handle(result)}:{n}] {text}" for n, text in lines[:LINES_OF_ONE]]
    if not shown:
        return f"No output of this run holds {pattern!r}."
    return "\n".join([*shown, f"({hits} lines of {outputs} outputs in all)"])
