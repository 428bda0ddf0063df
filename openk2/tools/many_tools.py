"""Thousands of tools behind two: `find_tools` searches them, `call_tool` calls one. Only what is found is read."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any

from openk2.tools.base import Tool, ToolError, ToolResult, tool
from openk2.tools.formats import shorten
from openk2.tools.index import words

MOST = 60  # tools that are offered as they are
FOUND = 8
SCHEMA_LENGTH = 3000  # characters of a schema that are shown


def offered(tools: Mapping[str, Tool], own: int = 0, most: int = MOST) -> dict[str, Tool]:
    """What a model is offered of `tools` beside `own` others: themselves, or the pair that reaches them."""
    if len(tools) + own <= most:
        return dict(tools)
    return {made.name: made for made in pair(tools)}


def pair(tools: Mapping[str, Tool]) -> tuple[Tool, Tool]:
    """The tools `find_tools` and `call_tool` over `tools`."""
    names = ToolIndex(tools)

    @tool(idempotent=True, timeout=30.0, untrusted=any(made.untrusted for made in tools.values()))
    def find_tools(query: str) -> str:
        """Find tools by what they do. Each comes with its name, what it does and the schema of its arguments.

        Args:
            query: A few words of what is wanted.
        """
        found = names.search(query)
        if not found:
            return f"No tool of {len(tools):,} matches. Try other words."
        return "\n\n".join(_shown(tools[name]) for name in found)

    def one(name: str) -> Tool:
        if name in tools:
            return tools[name]
        near = ", ".join(names.search(name)[:3])
        raise ToolError(f"There is no tool {name}; find_tools finds them.{f' Near are {near}.' if near else ''}")

    def approval(values: dict[str, Any]) -> str | None:
        made = tools.get(values["name"])
        checked = made.check(json.dumps(values["arguments"])) if made else None
        return made.approval(checked) if made and isinstance(checked, dict) else None

    @tool(
        needs_approval=approval,
        timeout=None,
        output_limit=max((made.output_limit for made in tools.values()), default=20_000),
        egress=any(made.egress for made in tools.values()),
        untrusted=any(made.untrusted for made in tools.values()),
        private=any(made.private for made in tools.values()),
    )
    async def call_tool(name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool that find_tools found.

        Args:
            name: Its name.
            arguments: Its arguments, as its schema says.
        """
        made = await asyncio.to_thread(one, name)
        return await made.run(json.dumps(arguments))

    return find_tools, call_tool


def _shown(made: Tool) -> str:
    schema = json.dumps(made.parameters, ensure_ascii=False)
    return f"{made.name}: {shorten(made.description, 400)}\nArguments: {shorten(schema, SCHEMA_LENGTH)}"


def _parameters(made: Tool) -> str:
    properties = made.parameters.get("properties")
    return " ".join(properties) if isinstance(properties, dict) else ""


class ToolIndex:
    """Full-text search over names, descriptions and parameters."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._lock = threading.Lock()
        columns = "id UNINDEXED, name, about, parameters, tokenize = porter"
        self._db.execute(f"CREATE VIRTUAL TABLE tools USING fts5({columns})")
        rows = ((t.name, " ".join(words(t.name)), t.description, _parameters(t)) for t in tools.values())
        self._db.executemany("INSERT INTO tools VALUES (?, ?, ?, ?)", rows)

    def search(self, query: str, k: int = FOUND) -> list[str]:
        """The names of the k tools that fit best; the query is plain text."""
        terms = list(dict.fromkeys(words(query)))[:50]
        if not terms:
            return []
        match = " OR ".join(f'"{term}"' for term in terms)
        with self._lock:
            rows = self._db.execute(
                "SELECT id FROM tools WHERE tools MATCH ? ORDER BY bm25(tools, 0, 8.0, 2.0, 1.0) LIMIT ?", (match, k)
            ).fetchall()
        return [row[0] for row in rows]
