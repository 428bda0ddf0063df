"""python(code): model-written code in a box. One box a run: variables, files and imports are kept between calls."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from openk2.sandbox.box import Box, Tier
from openk2.sandbox.policy import Policy
from openk2.tools.base import Tool, ToolResult, tool


def python_tool(
    workspace: Path, policy: Policy | None = None, tier: Tier | None = None, *, resumed: bool = False
) -> Tool:
    """The tool `python`, in the strongest sandbox of this machine. The box starts with the first call."""
    box = Box(workspace, policy, tier, resumed=resumed)
    limits = box.policy

    # Not idempotent: a repeat would act a second time on the state that the first left. The timeout is the box's.
    @tool(timeout=None, output_limit=limits.output + 1000)
    async def python(code: str) -> ToolResult:
        """Run Python code and return what it prints and the value of its last expression. Variables stay defined.

        Args:
            code: The code to run.
        """
        call = asyncio.create_task(asyncio.to_thread(box.call, code))
        try:
            outcome = await asyncio.shield(call)
        except asyncio.CancelledError:
            while not call.done():  # again, because the call may not have got as far as having a process
                await asyncio.to_thread(box.kill)
                await asyncio.sleep(0.01)
            raise
        return ToolResult(outcome.text, outcome.is_error)

    return replace(python, close=box.close)
