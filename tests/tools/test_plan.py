"""plan(steps): what is accepted and how it reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from openk2.tools.base import ToolResult
from openk2.tools.plan import plan


def written(*steps: Any) -> ToolResult:
    return asyncio.run(plan.run(json.dumps({"steps": steps})))


def test_a_plan_as_text() -> None:
    steps = ({"step": "Find  the\narea", "status": "done"}, {"step": "Divide", "status": "doing"}, {"step": "Check"},
             {"step": "Ask", "status": "dropped"})  # fmt: skip
    text = "1. [x] Find the area\n2. [>] Divide\n3. [ ] Check\n4. [-] Ask\n(2 of 4 steps left)"
    assert written(*steps) == ToolResult(text)
    assert list(plan.parameters["properties"]) == ["steps"] and plan.idempotent


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([], "no steps"),
        ([{"step": " "}], "says nothing"),
        ([{"step": "a"}, {"step": "A"}], "Step 2 is there twice"),
        ([{"step": "a", "status": "doing"}, {"step": "b", "status": "doing"}], "one at a time"),
        ([{"step": "a", "status": "finished"}], "steps.0.status"),
        ([{"step": "x" * 301}], "longer than 300"),
        ([{"step": str(n)} for n in range(51)], "50 at most"),
        (["a"], "steps.0"),
    ],
)
def test_what_is_no_plan(steps: list[Any], says: str) -> None:
    result = written(*steps)
    assert result.is_error and says in result.content
