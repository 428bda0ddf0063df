"""A world over MCP, so that any agent can work in it, and how far it came with a task."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent, ToolAnnotations
from mcp.types import Tool as McpTool

from openk2.synth.world.claims import Absorbs, Removes, RemovesEach
from openk2.synth.world.spec import Tool
from openk2.synth.world.world import Result, World, schema


class Served:
    """A world in its present state, which calls change as they would a service. `tools`: those that are offered.

    `reached`: whether the goal of a task holds now. `result`: a JSON file that says so after each call.
    """

    def __init__(
        self,
        world: World,
        tools: tuple[str, ...],
        reached: Callable[[], bool] | None = None,
        result: Path | None = None,
    ) -> None:
        self.world, self.tools, self.reached, self.result = world, tools, reached, result
        self.calls = self.refused = 0
        self._keep()

    def call(self, name: str, arguments: dict[str, Any]) -> Result:
        self.calls += 1
        if name in self.tools:
            result = self.world.call(name, arguments)
        else:
            result = {"error": {"code": "UnknownTool", "message": f"There is no tool {name!r}."}}
        self.refused += "error" in result
        self._keep()
        return result

    def _keep(self) -> None:
        if self.result is not None:
            told = {"world": self.world.spec.name, "calls": self.calls, "refused": self.refused}
            goal = {"reached": self.reached()} if self.reached else {}
            self.result.write_text(json.dumps(told | goal) + "\n", encoding="utf-8")

    def told(self) -> str:
        """What happened so far, in a sentence."""
        goal = f" The task's goal is {'' if self.reached() else 'not '}reached." if self.reached else ""
        return f"{self.world.spec.name}: {self.calls} calls, {self.refused} of them refused.{goal}"


def server(served: Served, instructions: str) -> Server[Any]:
    """The MCP server. Tools say whether they only read, so that clients can ask a person before the others."""
    tools = [
        McpTool(name=tool.name, description=tool.doc, input_schema=schema(tool), annotations=_hints(tool))
        for tool in map(served.world.spec.tool, served.tools)
    ]

    async def list_tools(*_: Any) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call_tool(_: Any, params: Any) -> CallToolResult:
        result = served.call(params.name, params.arguments or {})
        text = TextContent(type="text", text=json.dumps(result, ensure_ascii=False))
        return CallToolResult(content=[text], structured_content=result, is_error="error" in result)

    return Server(served.world.spec.name, instructions=instructions, on_list_tools=list_tools, on_call_tool=call_tool)


def _hints(tool: Tool) -> ToolAnnotations:
    destroys = any(isinstance(claim, Removes | RemovesEach | Absorbs) for claim in tool.claims)
    return ToolAnnotations(read_only_hint=tool.reads, destructive_hint=destroys, open_world_hint=False)


def run(served: Served, instructions: str) -> None:
    """Serve over standard input and output until the client leaves, and tell standard error what was done."""
    made = server(served, instructions)

    async def serve() -> None:
        async with stdio_server() as (read, write):
            await made.run(read, write, made.create_initialization_options())

    anyio.run(serve)
    print(served.told(), file=sys.stderr, flush=True)
