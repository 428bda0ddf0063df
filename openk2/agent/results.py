"""`open` and `find` also read what this run has shown and said: by the handle `rN`, or `run` for all of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from openk2.agent.entries import call_line, lines
from openk2.agent.state import State
from openk2.tools.base import Tool, ToolError, tool
from openk2.tools.formats import PAGE_CHARS, format_find, format_open
from openk2.tools.index import Document

HANDLE = re.compile(r"r(\d+)")
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
    """The output, the reply or the message of the person that the event `id` holds."""
    name = id.strip().strip("[]").partition(":")[0]
    if not (match := HANDLE.fullmatch(name)):
        return None
    text = next((text for seq, _, text in _texts(state) if seq == int(match[1])), None)
    return None if text is None else Document(name, name, tuple(lines(text)))


def _texts(state: State) -> Iterator[tuple[int, str, str]]:
    """(event, what it is, text) of all that was shown and said, newest first."""
    calls = {entry.result.seq: entry.call for entry in state.everything() if entry.result is not None}
    told = [(result.seq, call_line(calls.get(result.seq)), result.content) for result in state.results.values()]
    for reply in state.replies:
        said = "\n".join(part for part in (reply.message.reasoning, reply.message.content) if part)
        told.append((reply.seq, "what you wrote", said))
    for entry in state.everything():
        if entry.message.role == "user":
            told.append((entry.seq, "what you were told", entry.message.content))
    yield from sorted(told, reverse=True)


def _everywhere(state: State, pattern: str) -> str:
    """The lines of all that was shown and said that hold the text, newest first."""
    wanted = " ".join(pattern.split()).casefold()
    shown: list[str] = []
    found = hits = 0
    for seq, what, content in _texts(state):
        held = [(n, text) for n, text in enumerate(lines(content), 1) if wanted in text.casefold()]
        if not held:
            continue
        found, hits = found + 1, hits + len(held)
        if found <= OUTPUTS:
            shown.append(f"In r{seq}, {what}:")
            shown += [f"[r{seq}:{n}] {text}" for n, text in held[:LINES_OF_ONE]]
    if not shown:
        return f"Nothing that was shown or said in this run holds {pattern!r}."
    return "\n".join([*shown, f"({hits} lines in {found} places in all)"])
