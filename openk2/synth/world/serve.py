"""A world over MCP, so that any agent can work in it."""

from __future__ import annotations

import json
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent
from mcp.types import Tool as McpTool

from openk2.synth.world.world import World, schema


def server(world: World, instructions: str) -> Server[Any]:
    """The MCP server of a world in its present state; calls change it, as they would a service."""

    async def list_tools(*_: Any) -> ListToolsResult:
        return ListToolsResult(
            tools=[McpTool(name=t.name, description=t.doc, input_schema=schema(t)) for t in world.spec.tools]
        )

    async def call_tool(_: Any, params: Any) -> CallToolResult:
        result = world.call(params.name, params.arguments or {})
        text = TextContent(type="text", text=json.dumps(result, ensure_ascii=False))
        return CallToolResult(content=[text], structured_content=result, is_error="error" in result)

    return Server(world.spec.name, instructions=instructions, on_list_tools=list_tools, on_call_tool=call_tool)


def run(world: World, instructions: str) -> None:
    """Serve over standard input and output until the client leaves."""
    made = server(world, instructions)

    async def serve() -> None:
        async with stdio_server() as (read, write):
            await made.run(read, write, made.create_initialization_options())

    anyio.run(serve)
