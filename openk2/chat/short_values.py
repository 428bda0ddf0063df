"""A short JSON value of each part of a schema: a guess, which the grammar checks, and None where there is none.

It tells whether a recursive schema ever ends, about how long the shortest arguments are, and what to write when a
call has to end soon.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any] | bool

LONGEST = 4096
UNREAD = 16  # the length taken for a pattern that Python does not read
FORMATS = {
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "a@a",
    "hostname": "a",
    "ipv4": "0.0.0.0",
    "ipv6": "::1",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "uri": "a:a",
}


class ShortValues:
    """Short values of a schema's parts. `all` gathers every one that was found."""

    def __init__(self, defs: dict[str, Schema]) -> None:
        self.all: set[str] = {"null", "0", "1", '""', "{}", "[]", "true", "false"}
        self._defs: dict[str, str | None] = dict.fromkeys(defs)
        for _ in range(len(defs) + 1):  # a definition has one once those inside it have
            before = dict(self._defs)
            self._defs |= {name: self.of(schema) for name, schema in defs.items()}
            if before == self._defs:
                break

    def of(self, schema: Schema) -> str | None:
        value = self._of(schema)
        if value is not None and len(value) <= LONGEST:
            self.all.add(value)
        return value

    def _of(self, schema: Schema) -> str | None:
        if isinstance(schema, bool):
            return "0" if schema else None
        found: list[str | None] = []
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                found.append(_least([self.of(option) for option in schema[keyword]]))
        found += [self.of(option) for option in schema.get("allOf", ())]
        if "$ref" in schema:
            found.append(self._defs[schema["$ref"].rpartition("/")[2]])
        if "const" in schema:
            return _json(schema["const"]) if None not in found else None
        if "enum" in schema:
            values = [_json(value) for value in schema["enum"]]
            self.all.update(value for value in values[:64] if len(value) <= LONGEST)
            return _least(values) if None not in found else None
        if "type" in schema or not found or schema.keys() & {"required", "minItems", "prefixItems", "properties"}:
            types = schema.get("type", ["object"] if found else ["null", "string", "array", "object", "number"])
            found.append(_least([self._typed(t, schema) for t in ([types] if isinstance(types, str) else types)]))
        return _merged(found)

    def _typed(self, name: str, schema: dict[str, Any]) -> str | None:
        if name == "string":
            if "format" in schema:
                return _json(FORMATS[schema["format"]])
            return _json("a" * max(schema.get("minLength", 0), _width(schema.get("pattern"))))
        if name == "array":
            prefix = [self.of(item) for item in schema.get("prefixItems", ())]
            item = self.of(schema.get("items", True))
            least = schema.get("minItems", 0)
            items = (prefix + [item] * max(least - len(prefix), 0))[:least]
            return None if None in items else f"[{','.join(filter(None, items))}]"
        if name == "object":
            members = {key: self.of(value) for key, value in schema.get("properties", {}).items()}
            others = [self.of(value) for value in schema.get("patternProperties", {}).values()]
            other = _least([self.of(schema.get("additionalProperties", True)), *others])
            wanted = {key: members.get(key, other) for key in schema.get("required", ())}
            for key, value in members.items():
                if len(wanted) < schema.get("minProperties", 0) and value is not None:
                    wanted.setdefault(key, value)
            if None in wanted.values():
                return None
            return "{" + ",".join(f"{_json(key)}:{value}" for key, value in wanted.items()) + "}"
        if name in ("number", "integer"):
            return _number(schema)
        return "null" if name == "null" else "true"


def _number(schema: dict[str, Any]) -> str:
    step = schema.get("multipleOf", 1)
    tries = [0, step, -step]
    for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if keyword in schema:
            limit = schema[keyword]
            tries += [limit, math.floor(limit), math.ceil(limit), limit + 1, limit - 1]
            tries += [math.floor(limit / step) * step, math.ceil(limit / step) * step]
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    fitting = [_json(x) for x in tries if low <= x <= high and above < x < below]
    return _least(fitting) or _json(tries[-1])


def _merged(values: list[str | None]) -> str | None:
    """One value for several demands: objects are joined, of others the longest stands for all."""
    if None in values:
        return None
    texts = [value for value in values if value is not None]
    if len(texts) > 1 and all(text.startswith("{") for text in texts):
        joined: dict[str, Any] = {}
        for text in texts:
            joined |= json.loads(text)
        return _json(joined)
    return max(texts, key=len)


def _least(values: Sequence[str | None]) -> str | None:
    return min((value for value in values if value is not None), key=len, default=None)


def _width(pattern: str | None) -> int:
    """The least length of what a pattern matches."""
    if pattern is None:
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re._parser.parse(pattern).getwidth()[0]  # type: ignore[attr-defined]
    except (re.error, AttributeError, OverflowError, RecursionError):
        return UNREAD


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
