"""shell(command): bash in the box that Python runs in, beside it: the same files, another process."""

from __future__ import annotations

from dataclasses import replace

from openk2.sandbox.box import Box
from openk2.tools.base import Tool, ToolResult, tool
from openk2.tools.python import in_box, result


def shell_tool(box: Box) -> Tool:
    """The tool `shell`. Give it the box of `python`, so that both see the same workspace."""

    # Not idempotent: commands change files. The timeout is the box's.
    @tool(timeout=None, output_limit=box.policy.output + 1000, egress=bool(box.policy.network))
    async def shell(command: str) -> ToolResult:
        """Run a command in bash and return what it prints. The folder and exported variables are kept for the next
        command; what still runs in the background when it ends is stopped.

        Args:
            command: The command to run; several lines are a script.
        """
        return result(await in_box(box, box.shell, command))

    return replace(shell, close=box.close)
