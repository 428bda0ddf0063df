"""openk2: `from openk2 import Agent, tool`. What is named here is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openk2.agent.api import Agent as Agent
    from openk2.agent.api import Answer as Answer
    from openk2.errors import UserError as UserError
    from openk2.tools.base import Tool as Tool
    from openk2.tools.base import ToolError as ToolError
    from openk2.tools.base import tool as tool

__version__ = "0.1.0"

_PLACES = {
    "Agent": "openk2.agent.api", "Answer": "openk2.agent.api", "UserError": "openk2.errors",
    "Tool": "openk2.tools.base", "ToolError": "openk2.tools.base", "tool": "openk2.tools.base",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'openk2' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*_PLACES, "__version__"]
