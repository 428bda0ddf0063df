"""When a person is asked before a call runs.

A tool may ask for itself (`Tool.needs_approval`). Beside that there is one rule of the run: once it has read text of
strangers, and private text of the person, nothing leaves the machine unasked, because the one may have been told by the
other to send it. An address that the person wrote, or that a search showed, is no message: reading it is free.
"""

from __future__ import annotations

from typing import Any

from openk2.agent.state import State
from openk2.tools.base import Tool


def reason(tool: Tool, values: dict[str, Any], state: State) -> str | None:
    """Why the person is asked before this call; None: it may run."""
    own = tool.approval(values)
    if own:
        return own
    if not (tool.egress and state.outside and state.private):
        return None
    if _is_given_address(values, state):
        return None
    return (
        f"This run has read pages from outside and files of yours; {tool.name} would send what it is given out of this "
        "machine."
    )


def _is_given_address(values: dict[str, Any], state: State) -> bool:
    """Whether all that goes out is one address that the person gave or a tool's result showed, letter for letter."""
    if set(values) - {"url"} or not isinstance(values.get("url"), str) or not values["url"]:
        return False
    url = values["url"]
    foreign = state.by_the_loop()
    if state.started and state.started.outside:  # a task that a model wrote: strangers may have told it the address
        foreign.add(state.started.seq)
    told = (entry for entry in state.everything() if entry.message.role == "user" and entry.seq not in foreign)
    said = (entry.message.content for entry in told)
    shown = (r.content for r in state.results.values() if r.name == "search" and r.origin in ("outside", "both"))
    return any(url in text.split() or f"({url})" in text for text in (*said, *shown))
