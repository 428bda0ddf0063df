"""plan(steps): the model writes down what it is going to do. The log keeps every plan; the last one holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openk2.tools.base import ToolError, tool

MAX_STEPS = 50
MAX_WORDS = 300  # characters of a step
SIGNS = {"todo": "[ ]", "doing": "[>]", "done": "[x]", "dropped": "[-]"}


@dataclass
class Step:
    step: str
    status: Literal["todo", "doing", "done", "dropped"] = "todo"


@tool(idempotent=True, timeout=5.0)
def plan(steps: list[Step]) -> str:
    """Write down the plan, or how far it is. Give all steps each time; at most one is being done.

    Args:
        steps: The whole plan in order; each step with its status: todo, doing, done or dropped.
    """
    if not steps:
        raise ToolError("The plan has no steps.")
    if len(steps) > MAX_STEPS:
        raise ToolError(f"The plan has {len(steps)} steps; {MAX_STEPS} at most. Put small ones together.")
    texts = [" ".join(item.step.split()) for item in steps]
    for number, text in enumerate(texts, 1):
        if not text:
            raise ToolError(f"Step {number} says nothing.")
        if len(text) > MAX_WORDS:
            raise ToolError(f"Step {number} is longer than {MAX_WORDS} characters.")
        if text.casefold() in {earlier.casefold() for earlier in texts[: number - 1]}:
            raise ToolError(f"Step {number} is there twice: {text}")
    if sum(item.status == "doing" for item in steps) > 1:
        raise ToolError("More than one step is `doing`; work on one at a time.")
    lines = [f"{n}. {SIGNS[item.status]} {text}" for n, (item, text) in enumerate(zip(steps, texts, strict=True), 1)]
    left = sum(item.status in ("todo", "doing") for item in steps)
    return "\n".join([*lines, f"({left} of {len(steps)} steps left)"])
