"""The tool contract: schema from the signature, validation before the call, timeouts, cut results."""

import asyncio
import json
import time
from typing import Literal

import pytest

from openk2.errors import UserError
from openk2.tools.base import Tool, ToolError, ToolResult, cut, tool


@tool(idempotent=True, timeout=0.2, output_limit=100)
def greet(name: str, times: int = 1, title: Literal["Dr", "Ms"] | None = None) -> str:
    """Greet somebody.

    Args:
        name: Who is greeted.
        times: How often.
    """
    if name == "nobody":
        raise ToolError("There is nobody.")
    if name == "slow":
        time.sleep(30)
    return " ".join([f"Hello {name}"] * times)


def run(tool: Tool, **arguments: object) -> ToolResult:
    return asyncio.run(tool.run(json.dumps(arguments)))


def test_schema_and_flags():
    assert greet.name == "greet" and greet.description == "Greet somebody." and greet.idempotent and not greet.egress
    assert greet.parameters["required"] == ["name"]
    assert greet.parameters["properties"]["name"] == {"description": "Who is greeted.", "type": "string"}
    assert "title" in greet.parameters["properties"] and "title" not in greet.parameters
    assert greet.spec().to_wire()["function"]["name"] == "greet"
    assert greet("Ann") == "Hello Ann"


def test_a_good_call():
    assert run(greet, name="Ann", times=2) == ToolResult("Hello Ann Hello Ann")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "one JSON object"),
        ("{}", "name: Field required"),
        ('{"name": "Ann", "times": "many"}', "times: Input should be a valid integer"),
        ('{"name": "Ann", "loud": true}', "loud: Extra inputs"),
    ],
)
def test_a_bad_call_is_answered_with_the_error_and_the_schema(arguments: str, says: str):
    result = asyncio.run(greet.run(arguments))
    assert result.is_error and says in result.content and '"properties"' in result.content


def test_errors_timeouts_and_long_results():
    assert run(greet, name="nobody") == ToolResult("There is nobody.", True)
    start = time.monotonic()
    assert "0.2 seconds" in run(greet, name="slow").content
    assert time.monotonic() - start < 15
    long = run(greet, name="Ann", times=100).content
    assert long.startswith("Hello") and "left out" in long and len(long) < 150


def test_cut_keeps_both_ends():
    assert cut("abc", 3) == "abc"
    assert cut("a" * 50 + "z" * 50, 30) == "a" * 20 + "\n… (70 characters left out) …\n" + "z" * 10


def test_async_tools_and_other_values():
    @tool
    async def add(a: int, b: int) -> int:
        """Add."""
        await asyncio.sleep(0)
        return a + b

    assert run(add, a=2, b=3) == ToolResult("5")


def test_whatever_happens_the_model_gets_a_text():
    @tool(timeout=None)
    def odd(what: str) -> object:
        """Do odd things."""
        if what == "own timeout":
            raise TimeoutError("the other side is silent")
        loop: list[object] = []
        loop.append(loop)
        return loop

    assert run(odd, what="own timeout") == ToolResult("TimeoutError: the other side is silent", True)
    assert run(odd, what="circle").content.startswith("ValueError: Circular")
    deep = asyncio.run(odd.run('{"what":' + "[" * 100_000))
    assert deep.is_error and "not valid JSON" in deep.content


def test_what_a_model_cannot_read_is_refused():
    with pytest.raises(UserError, match="no docstring"):

        @tool
        def nameless(x: int) -> int:
            return x

    with pytest.raises(UserError, match="no type"):

        @tool
        def untyped(x):
            """Do."""
