"""Tools: what a model can do besides writing. `toolset` builds the built-in ones by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openk2.errors import UserError
from openk2.tools.base import Tool, ToolError, ToolResult, tool

if TYPE_CHECKING:
    from openk2.sandbox.box import Tier
    from openk2.sandbox.policy import Policy
    from openk2.tools.index import Index
    from openk2.tools.web import Web

__all__ = ["BUILT_IN", "FILES", "Tool", "ToolError", "ToolResult", "tool", "toolset"]

BUILT_IN = ("python", "calculator", "search", "open", "find")  # what is built where no names are given
SEARCHING = ("search", "open", "find")
FILES = ("read_file", "write_file", "edit_file", "list_files", "grep")
BROWSING = ("browse", "click", "type", "scroll", "back")
MOONSHOT = "$web_search"
ALL = (*BUILT_IN, "shell", "fetch", *FILES, "plan", *BROWSING, MOONSHOT)


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
    web: Web | None = None,
    read_only: Sequence[Path] = (),
    private: bool = False,
) -> dict[str, Tool]:
    """The built-in tools called `names` (None: those of BUILT_IN that can be built), in that order.

    `search`, `open` and `find` need an `index` or the `web`; `fetch` and the browser need the `web`; `python`, the
    browser and the files need a `workspace`, the only folder they may write to. `sandbox`: the boundary python must run
    in; None is the strongest that works here; `shell` shares its box. `page_chars`: what `open` shows at once.
    `journal`: the file, outside the workspace, that a lost Python process is rebuilt from. `resumed`: python ran before
    in this run. `read_only`: folders of the person's that the file tools may read. `private`:
    the documents of the index are the person's own. Raises UserError for an unknown name and for one that lacks what
    it needs.
    """

    def boxed() -> dict[str, Tool]:
        from openk2.sandbox.box import Box
        from openk2.tools.python import python_tool
        from openk2.tools.shell import shell_tool

        place = _workspace("python", workspace)
        box = Box(place, policy, sandbox, journal=journal, resumed=resumed)
        return {"python": python_tool(box), "shell": shell_tool(box)}

    def calculator() -> dict[str, Tool]:
        from openk2.tools.calculator import calculator

        return {"calculator": calculator}

    def documents() -> dict[str, Tool]:
        more = {"page_chars": page_chars} if page_chars else {}
        if web is not None:
            from openk2.tools.web import web_tools

            return web_tools(web, index, private=private, **more)
        if index is None:
            return {}
        from openk2.tools.search import search_tools

        return search_tools(index, private=private, **more)

    def files() -> dict[str, Tool]:
        from openk2.tools.files import Files, file_tools

        return file_tools(Files(_workspace("read_file", workspace), read_only))

    def browser() -> dict[str, Tool]:
        if web is None:
            raise UserError("The tool browse needs the web, which is off: switch it on.")
        from openk2.tools.browser import browser_tools

        return browser_tools(web, _workspace("browse", workspace))

    def plan() -> dict[str, Tool]:
        from openk2.tools.plan import plan

        return {"plan": plan}

    def moonshot() -> dict[str, Tool]:
        from openk2.tools.web_search import moonshot_search

        return {MOONSHOT: moonshot_search()}

    groups: dict[str, Callable[[], dict[str, Tool]]] = {
        **dict.fromkeys(("python", "shell"), boxed), "calculator": calculator,
        **dict.fromkeys((*SEARCHING, "fetch"), documents), **dict.fromkeys(FILES, files),
        "plan": plan, **dict.fromkeys(BROWSING, browser), MOONSHOT: moonshot,
    }  # fmt: skip
    if names is None:
        searches = index is not None or web is not None
        names = [n for n in BUILT_IN if (searches or n not in SEARCHING) and (workspace or n != "python")]
    built: dict[Callable[[], dict[str, Tool]], dict[str, Tool]] = {}
    tools: dict[str, Tool] = {}
    for name in names:
        if name not in groups:
            raise UserError(f"There is no built-in tool {name}: choose from {', '.join(ALL)}.")
        group = groups[name]
        if group not in built:
            built[group] = group()
        if name not in built[group]:
            what = "the web, which is off: switch it on" if name == "fetch" else "documents: pass an index"
            raise UserError(f"The tool {name} needs {what}.")
        tools[name] = built[group][name]
    return tools


def _workspace(name: str, workspace: Path | None) -> Path:
    if workspace is None:
        raise UserError(f"The tool {name} needs a workspace: pass the folder that it may write to.")
    return workspace
