"""The lines an answer rests on: each `[id:line]` it cites, looked up where the run saw it or in the index."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openk2.agent.events import Event, ToolFinished
from openk2.tools.index import Index

_MARK = re.compile(r"\[([^\[\]\n]*?\w:\d[^\[\]\n]*)\]")
_PLACE = re.compile(r"([\w.\-]+):(\d+)(?:\s*[-–]\s*(\d+))?")
_SHOWN = re.compile(r"^\[([\w.\-]+):(\d+)\] (.*)$", re.MULTILINE)
# What python prints is no document. The last three show lines that readers showed in other runs.
READERS = ("search", "open", "find", "fetch", "search_paths", "get_segment", "ask_agent")
LONGEST_RANGE = 12  # lines of `[id:first-last]` that are looked up


@dataclass(frozen=True, slots=True)
class Source:
    """`text` is None when no such line exists; `seen` says whether a tool showed the line in this run."""

    id: str
    line: int
    title: str
    text: str | None
    seen: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cited(answer: str) -> list[tuple[str, int]]:
    """The (id, line) pairs in the answer's marks, each once, in order: `[a:1]`, `[a:1, b:2]`, `[a:3-5]`."""
    places: dict[tuple[str, int], None] = {}
    for mark in _MARK.finditer(answer):
        for id, first, last in _PLACE.findall(mark[1]):
            begin = int(first)
            end = min(int(last), begin + LONGEST_RANGE - 1) if last else begin
            places.update({(id, line): None for line in range(begin, max(begin, end) + 1)})
    return list(places)


def without_marks(answer: str) -> str:
    return _MARK.sub(" ", answer)


def keep_known(answer: str, known: Container[tuple[str, int]]) -> tuple[str, int]:
    """The answer without the marks of which no place is among `known`, and how many those were."""
    dropped = 0

    def look(mark: re.Match[str]) -> str:
        nonlocal dropped
        places = cited(mark[0])
        if not places or any(place in known for place in places):
            return mark[0]
        dropped += 1
        return ""

    kept = re.sub(r" ?" + _MARK.pattern, look, answer)
    return kept, dropped


def shown_lines(events: Iterable[Event]) -> dict[tuple[str, int], str]:
    """The lines of documents that tools have shown."""
    shown: dict[tuple[str, int], str] = {}
    for event in events:
        if isinstance(event, ToolFinished) and event.name in READERS:
            for id, line, text in _SHOWN.findall(event.content):
                shown.setdefault((id, int(line)), text)
    return shown


def sources(answer: str, events: Sequence[Event], index: Index | None) -> list[Source]:
    shown = shown_lines(events)
    return [_source(id, line, shown.get((id, line)), index) for id, line in cited(answer)]


def _source(id: str, line: int, shown: str | None, index: Index | None) -> Source:
    document = index.document(id) if index else None
    if document and 1 <= line <= len(document.lines):
        return Source(id, line, document.title, document.lines[line - 1], shown is not None)
    return Source(id, line, document.title if document else id, shown, shown is not None)
