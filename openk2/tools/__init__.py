"""Tools: what a model can do besides writing. `toolset` builds the built-in ones by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from openk2.errors import UserError
from openk2.tools.base import Tool, ToolError, ToolResult, tool

if TYPE_CHECKING:
    from openk2.sandbox.box import Box, Tier
    from openk2.sandbox.policy import Policy
    from openk2.tools.index import Index

__all__ = ["BUILT_IN", "Tool", "ToolError", "ToolResult", "tool", "toolset"]

BUILT_IN = ("python", "shell", "calculator", "search", "open", "find")


def toolset(
    names: Iterable[str] | None = None,
    *,
    index: Index | None = None,
    workspace: Path | None = None,
    sandbox: Tier | None = None,
    policy: Policy | None = None,
    page_chars: int | None = None,
    journal: Path | None = None,
    resumed: bool = False,
) -> dict[str, Tool]:
    """The built-in tools called `names` (None: all that can be built), in that order.

    `search`, `open` and `find` need an `index`; `python` and `shell` need a `workspace`, the only folder they may write
    to, and share one box. `sandbox`: the boundary it must have; None is the strongest that works here. `page_chars`:
    what `open` shows at once. `journal`: the file, outside the workspace, that a lost Python process is rebuilt from.
    `resumed`: python ran before in this run. Raises UserError for an unknown name and for one that lacks what it needs.
    """
    searching, boxed = ("search", "open", "find"), ("python", "shell")
    box: Box | None = None
    if names is None:
        names = [n for n in BUILT_IN if (index or n not in searching) and (workspace or n not in boxed)]
    tools: dict[str, Tool] = {}
    found: dict[str, Tool] = {}
    for name in names:
        if name in boxed:
            if workspace is None:
                raise UserError(f"The tool {name} needs a workspace: pass the folder that its code may write to.")
            from openk2.sandbox.box import Box
            from openk2.tools.python import python_tool
            from openk2.tools.shell import shell_tool

            box = box or Box(workspace, policy, sandbox, journal=journal, resumed=resumed)
            tools[name] = python_tool(box) if name == "python" else shell_tool(box)
        elif name == "calculator":
            from openk2.tools.calculator import calculator

            tools[name] = calculator
        elif name in searching:
            if index is None:
                raise UserError(f"The tool {name} needs documents: pass an index.")
            from openk2.tools.search import search_tools

            found = found or (search_tools(index, page_chars=page_chars) if page_chars else search_tools(index))
            tools[name] = found[name]
        else:
            raise UserError(f"There is no built-in tool {name}: choose from {', '.join(BUILT_IN)}.")
    return tools
