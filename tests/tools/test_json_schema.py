"""The check of arguments against a remote tool's schema, beside the jsonschema library."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest

from openk2.tools.base import Tool, ToolResult
from openk2.tools.json_schema import fault

ADDRESS = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}, "number": {"type": ["integer", "null"], "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    ADDRESS,
    {"type": "array", "items": ADDRESS, "minItems": 1, "maxItems": 2},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
    {"enum": ["a", 1, None, [1], {"x": 1}]},
    {"const": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.5},
    {"anyOf": [{"type": "string"}, {"type": "integer", "maximum": 5}]},
    {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "boolean"}}}]},
    {"not": {"type": "string"}},
    {"$defs": {"tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                        "additionalProperties": {"type": "integer"}}}, "$ref": "#/$defs/tree"},
    {"type": "array", "uniqueItems": True},
    {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "string"}},
    {"type": "string", "maxLength": 2, "unknownKeyword": 7},
    True,
    False,
]  # fmt: skip
VALUES: list[Any] = [
    {}, [], "", "a", "abc", 0, 1, 1.0, 1.5, 2, 3.5, 5, 6, 10, -1, True, False, None, [1], [1, 1], [1, True], [1, 1.0],
    ["x", 1], ["x", 1, 2], ["x"], {"city": "Ulm"}, {"city": "U"}, {"city": "Ulm", "number": 0},
    {"city": "Ulm", "number": None}, {"city": "Ulm", "zip": "1"}, {"number": 1}, [{"city": "Ulm"}], [{"city": 1}],
    [{"city": "Ulm"}] * 3, {"x": 1}, {"x": True}, {"a": True}, {"a": 1}, {"b": "c"}, {"kids": [{"kids": []}]},
    {"kids": [{"kids": 1}]}, {"kids": [{"leaf": "no"}]}, {"leaf": 3}, {"a": "1", "b": "2", "c": "3"}, "äö", "🙂🙂🙂",
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_it_judges_as_jsonschema_does(schema: Any) -> None:
    judge = jsonschema.Draft202012Validator(schema)
    for value in VALUES:
        assert (fault(value, schema) is None) == judge.is_valid(value), value


def test_a_fault_names_its_place() -> None:
    outer = {"type": "object", "properties": {"to": {"type": "array", "items": ADDRESS}}}
    assert fault({"to": [{"city": "Ulm"}, {"city": "B"}]}, outer) == "to[1].city: must have at least 2 characters"
    assert fault({"to": [{"town": 1}]}, outer) == "to[0].city: Field required"
    assert fault({"to": 3}, outer) == "to: must be array, not integer"
    assert fault({"city": "Ulm", "zip": 1}, ADDRESS) == "zip: is not a parameter (city, number)"


def test_what_comes_from_outside_can_neither_hang_nor_crash_it() -> None:
    loop: dict[str, Any] = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "oneOf": [{"$ref": "#"}, {"$ref": "#"}]}
    redos = {"type": "string", "pattern": "^(a+)+$"}
    begin = time.monotonic()
    assert fault({"x": 1}, loop) is None and fault("a" * 60 + "!", redos) is None
    assert time.monotonic() - begin < 2
    for odd in (
        {"type": 7}, {"type": ["odd"]}, {"required": "city"}, {"properties": 3}, {"items": 3}, {"enum": 3},
        {"$ref": "https://x.example/schema"}, {"$ref": 3}, {"$ref": "#/nowhere"}, {"minimum": "3"}, {"anyOf": {}},
        {"multipleOf": 0}, {"required": [[]]},
    ):  # fmt: skip
        for value in ({"city": 1}, [1], 3, "x"):
            fault(value, odd)


def test_a_tool_with_a_given_schema_is_checked() -> None:
    made = Tool("post", "Post.", lambda **values: str(values), schema=ADDRESS)
    assert made.check('{"city": "Ulm"}') == {"city": "Ulm"}
    refused = made.check('{"city": 3}')
    assert isinstance(refused, ToolResult) and refused.content.startswith("post was not called, city: must be string")
