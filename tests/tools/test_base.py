"""The tool contract: schema from the signature, validation before the call, timeouts, cut results."""

import asyncio
import json
import time
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel

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


# ------------------------------------------------------------------------------------------------ any typed function


class Unit(Enum):
    KM = "km"
    MILES = "miles"


@dataclass
class Place:
    name: str
    height: float = 0.0


class Trip(BaseModel):
    stops: list[Place]


def test_the_types_a_parameter_may_have():
    @tool
    def travel(
        trip: Trip,
        unit: Unit,
        via: Annotated[Place | None, "Where to pass."] = None,
        how: Literal["foot", "bus"] = "bus",
        schema: int = 0,
        _copy: bool = False,
        model_fields: str = "",
    ) -> Place:
        """Travel."""
        assert isinstance(trip.stops[0], Place) and isinstance(unit, Unit) and not _copy and model_fields == ""
        return Place(f"{trip.stops[0].name} {unit.value} {how} {schema}", via.height if via else -1)

    assert travel.parameters["properties"]["via"]["description"] == "Where to pass."
    assert list(travel.parameters["properties"]) == ["trip", "unit", "via", "how", "schema", "_copy", "model_fields"]
    assert run(travel, trip={"stops": [{"name": "Ulm"}]}, unit="km", via={"name": "Bonn", "height": 60}, schema=3) == (
        ToolResult('{"name": "Ulm km bus 3", "height": 60.0}')
    )
    wrong = run(travel, trip={"stops": [{"name": "Ulm", "height": "high"}]}, unit="feet").content
    assert "trip.stops.0.height: Input should be a valid number" in wrong and "unit: Input should be 'km'" in wrong


def test_methods_partials_and_callable_objects():
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @tool(private=True)
        def stock(self, item: str) -> str:
            """Tell the stock."""
            return f"{self.name} has no {item}"

        @tool
        async def order(self, item: str) -> str:
            """Order."""
            return f"{self.name} ordered {item}"

        async def __call__(self, item: str) -> str:
            """Ask the shop."""
            return f"{self.name} was asked for {item}"

    shop = Shop("Ann's")
    assert run(shop.stock, item="tea") == ToolResult("Ann's has no tea") and shop.stock.private
    assert run(Shop("Bo's").order, item="tea") == ToolResult("Bo's ordered tea")
    assert run(tool(shop), item="tea") == ToolResult("Ann's was asked for tea") and tool(shop).name == "Shop"

    def power(base: int, exponent: int) -> int:
        """Raise."""
        return base**exponent

    squared = tool(name="square")(partial(power, exponent=2))
    assert run(squared, base=7) == ToolResult("49") and squared.description == "Raise."
    assert list(squared.parameters["properties"]) == ["base"] and tool(partial(power, 2)).name == "power"


def test_types_of_the_place_of_definition():
    source = (
        "from __future__ import annotations\nfrom enum import Enum\nfrom openk2.tools import tool\n"
        "def make():\n    class Size(Enum):\n        BIG = 'big'\n"
        "    @tool\n    def shirt(size: Size) -> str:\n        'Sew.'\n        return size.name\n    return shirt\n"
        "@tool\ndef later(when: Later) -> str:\n    'Wait.'\n    return when\nLater = str\n"
        "@tool\ndef never(when: Nowhere) -> str:\n    'Wait.'\n    return when\n"
    )
    space: dict[str, Any] = {"__name__": "made"}
    exec(compile(source, "made", "exec"), space)
    assert run(space["make"](), size="big") == ToolResult("BIG")
    assert run(space["later"], when="now") == ToolResult("now")
    with pytest.raises(UserError, match="never has a type that is not defined"):
        space["never"].spec()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [("x, /", "no type|positional-only"), ("x: int, /", "positional-only"), ("*x: int", "name every parameter")],
)
def test_parameters_that_no_model_can_fill(parameters: str, says: str):
    space: dict[str, Any] = {}
    exec(f"def made({parameters}):\n    'Do.'", space)
    with pytest.raises(UserError, match=says):
        tool(space["made"])

    @tool
    def wired(line: asyncio.Lock) -> str:
        """Send."""
        return str(line)

    with pytest.raises(UserError, match="wired has a parameter that no JSON can give"):
        wired.spec()


def test_check_comes_before_the_call_and_before_approval():
    @tool(needs_approval=lambda values: f"It pays {values['sum']} euros." if values["sum"] > 10 else None)
    def pay(sum: int) -> str:
        """Pay."""
        return f"paid {sum}"

    assert pay.check('{"sum": "12"}') == {"sum": 12} and pay.approval({"sum": 12}) == "It pays 12 euros."
    assert pay.approval({"sum": 3}) is None and greet.approval({}) is None
    assert replace(greet, needs_approval=True).approval({}) == "greet asks before it runs."
    refused = pay.check('{"sum": "much"}')
    assert isinstance(refused, ToolResult) and refused.is_error and "sum: Input should be" in refused.content
    assert asyncio.run(pay.call({"sum": 3})) == ToolResult("paid 3")


def test_a_result_keeps_its_files_and_source():
    @tool(output_limit=10)
    def draw() -> ToolResult:
        """Draw."""
        return ToolResult("x" * 100, files=("a.png",), source="https://a.example/")

    result = run(draw)
    assert result.files == ("a.png",) and result.source == "https://a.example/" and "left out" in result.content


def test_a_tool_that_ends_the_program_ends_only_its_call():
    import sys

    @tool
    def leave() -> str:
        """Leave."""
        sys.exit(3)

    @tool
    async def leave_later() -> str:
        """Leave."""
        sys.exit(3)

    for made in (leave, leave_later):
        result = run(made)
        assert result.is_error and "SystemExit: 3" in result.content
