"""search, open and find through the tool contract."""

import asyncio
import json

import pytest

from openk2.tools.base import Tool, ToolResult
from openk2.tools.formats import format_hits
from openk2.tools.index import Document, Index
from openk2.tools.search import search_tools

INDEX = Index.memory(
    [
        Document("ferns", "Ferns", ("Ferns have fronds.", "Height: 30 cm", "They like shade.")),
        Document("mosses", "Mosses", ("Mosses have no roots.",)),
    ]
)


@pytest.fixture
def tools() -> dict[str, Tool]:
    return search_tools(INDEX)


def run(tool: Tool, **arguments: object) -> ToolResult:
    return asyncio.run(tool.run(json.dumps(arguments)))


def test_search(tools: dict[str, Tool]):
    hits = run(tools["search"], query="height of ferns", k=1)
    assert hits == ToolResult(format_hits(INDEX.search("height of ferns", 1)))
    assert "[ferns:2] " in hits.content and "[ferns:1]" not in hits.content
    assert run(tools["search"], query="zeppelin") == ToolResult("No line matches. Try other words.")
    assert run(tools["search"], query='") OR NEAR(* ^') == ToolResult("No line matches. Try other words.")


def test_open_and_find(tools: dict[str, Tool]):
    text = "[ferns:2] Height: 30 cm\n[ferns:3] They like shade.\n(lines 2-3 of 3)"
    assert run(tools["open"], id="ferns", line=2) == ToolResult(text)
    assert run(tools["open"], id="[ferns:2]", line=2) == ToolResult(text)
    assert run(tools["find"], id="ferns", pattern="SHADE") == ToolResult("[ferns:3] They like shade.")
    assert run(tools["find"], id="ferns", pattern="x") == ToolResult("No line of ferns matches.")
    assert run(tools["open"], id="cats") == ToolResult("No document cats. Search first.", True)
    assert run(tools["find"], id="cats", pattern="x").is_error
