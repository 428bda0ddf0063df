"""python(code): model-written code in a box. One box a run: variables, files and imports are kept between calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from openk2.sandbox.box import Box, Outcome
from openk2.tools.base import Tool, ToolResult, tool

MOST_FILES = 20  # names that the model is told


def python_tool(box: Box) -> Tool:
    """The tool `python`. The box starts with the first call, and closing the tool closes it."""

    # Not idempotent: a repeat would act a second time on the state that the first left. The timeout is the box's.
    @tool(timeout=None, output_limit=box.policy.output + 1000, egress=bool(box.policy.network))
    async def python(code: str) -> ToolResult:
        """Run Python code and return what it prints and the value of its last expression. Variables stay defined.

        Args:
            code: The code to run.
        """
        return result(await in_box(box, box.call, code))

    return replace(python, close=box.close)


async def in_box(box: Box, call: Callable[[str], Outcome], text: str) -> Outcome:
    """Run `call(text)` beside the event loop; when the task is cancelled, end what it started."""
    running = asyncio.create_task(asyncio.to_thread(call, text))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():  # again, because the call may not have got as far as having a process
            await asyncio.to_thread(box.kill)
            await asyncio.sleep(0.01)
        raise


def result(outcome: Outcome) -> ToolResult:
    """What the model reads: the output, and where files were made or written, their names."""
    text = outcome.text
    if outcome.files:
        more = f" and {len(outcome.files) - MOST_FILES} more" if len(outcome.files) > MOST_FILES else ""
        text += f"\nFiles: {', '.join(outcome.files[:MOST_FILES])}{more}"
    return ToolResult(text, outcome.is_error, outcome.files)
