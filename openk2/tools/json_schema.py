"""Arguments against a JSON Schema that a remote tool declares: the first fault, in the words of the person's own tools.

Ours, because it must judge alike on every install, and because a schema comes from outside: `pattern` is not run (a
hostile expression never ends), and `format` and unknown keywords constrain nothing; the remote side checks those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

MAX_DEPTH = 64  # of schemas inside schemas
MAX_STEPS = 20_000  # of one check: a schema that branches into itself never ends. Beyond, the remote side judges alone
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip


@dataclass
class _Root:
    schema: Any
    left: int = MAX_STEPS


def fault(value: Any, schema: Any) -> str | None:
    """What is wrong with `value`, as `path: what`; None where it fits."""
    root = _Root(schema)
    found = _fault(value, schema, root, "", 0)
    return found if root.left >= 0 else None


def _fault(value: Any, schema: Any, root: _Root, path: str, depth: int) -> str | None:
    where = path or "arguments"
    root.left = root.left - 1 if depth <= MAX_DEPTH else -1
    if schema is False:
        return f"{where}: nothing is allowed here"
    if not isinstance(schema, dict) or root.left < 0:
        return None
    target = _target(schema["$ref"], root.schema) if "$ref" in schema else None
    if target is not None and (found := _fault(value, target, root, path, depth + 1)):
        return found
    return (
        _type(value, schema, where)
        or _choice(value, schema, where)
        or _size(value, schema, where)
        or _inside(value, schema, root, path, depth)
        or _combined(value, schema, root, path, depth)
    )


def _type(value: Any, schema: dict[str, Any], where: str) -> str | None:
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, list) or any(_is(value, name) for name in names):
        return None
    return f"{where}: must be {' or '.join(map(str, names))}, not {_kind(value)}"


def _is(value: Any, name: Any) -> bool:
    if not isinstance(name, str) or name not in TYPES:
        return True
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[name])


def _kind(value: Any) -> str:
    return next((name for name in TYPES if _is(value, name)), type(value).__name__)


def _choice(value: Any, schema: dict[str, Any], where: str) -> str | None:
    if isinstance(schema.get("enum"), list) and not any(_same(value, item) for item in schema["enum"]):
        return f"{where}: must be one of {', '.join(map(repr, schema['enum'][:20]))}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where}: must be {schema['const']!r}"
    return None


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and is not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a == b


def _size(value: Any, schema: dict[str, Any], where: str) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if (least := _number(schema, "minimum")) is not None and value < least:
            return f"{where}: must be at least {least:g}"
        if (most := _number(schema, "maximum")) is not None and value > most:
            return f"{where}: must be at most {most:g}"
        if (least := _number(schema, "exclusiveMinimum")) is not None and value <= least:
            return f"{where}: must be more than {least:g}"
        if (most := _number(schema, "exclusiveMaximum")) is not None and value >= most:
            return f"{where}: must be less than {most:g}"
        step = _number(schema, "multipleOf")
        if step and not math.isclose(value / step, round(value / step), rel_tol=1e-12, abs_tol=1e-12):
            return f"{where}: must be a multiple of {step:g}"
        return None
    for kind, unit, low, high in (
        (str, "characters", "minLength", "maxLength"),
        (list, "items", "minItems", "maxItems"),
        (dict, "properties", "minProperties", "maxProperties"),
    ):
        if isinstance(value, kind):
            if (least := _number(schema, low)) is not None and len(value) < least:
                return f"{where}: must have at least {least:g} {unit}"
            if (most := _number(schema, high)) is not None and len(value) > most:
                return f"{where}: must have at most {most:g} {unit}"
    if schema.get("uniqueItems") is True and isinstance(value, list):
        for place, item in enumerate(value):
            if any(_same(item, other) for other in value[:place]):
                return f"{where}: has the same item twice"
    return None


def _number(schema: dict[str, Any], keyword: str) -> float | None:
    value = schema.get(keyword)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _inside(value: Any, schema: dict[str, Any], root: _Root, path: str, depth: int) -> str | None:
    if isinstance(value, dict):
        known = schema["properties"] if isinstance(schema.get("properties"), dict) else {}
        required = schema.get("required")
        for key in required if isinstance(required, list) else ():
            if isinstance(key, str) and key not in value:
                return f"{_join(path, key)}: Field required"
        rest = schema.get("additionalProperties", True)
        patterns = bool(schema.get("patternProperties"))  # what they match is the remote side's to say
        for key, item in value.items():
            if key in known:
                found = _fault(item, known[key], root, _join(path, key), depth + 1)
            elif rest is False and not patterns:
                found = f"{_join(path, key)}: is not a parameter ({', '.join(known) or 'there are none'})"
            else:
                found = None if patterns else _fault(item, rest, root, _join(path, key), depth + 1)
            if found:
                return found
    if isinstance(value, list):
        first = schema["prefixItems"] if isinstance(schema.get("prefixItems"), list) else []
        for number, item in enumerate(value):
            part = first[number] if number < len(first) else schema.get("items", True)
            if found := _fault(item, part, root, f"{path}[{number}]", depth + 1):
                return found
    return None


def _combined(value: Any, schema: dict[str, Any], root: _Root, path: str, depth: int) -> str | None:
    where = path or "arguments"
    for part in _parts(schema, "allOf"):
        if found := _fault(value, part, root, path, depth + 1):
            return found
    if options := _parts(schema, "anyOf"):
        faults = [_fault(value, part, root, path, depth + 1) for part in options]
        if all(faults):
            return f"{where}: fits none of the allowed forms ({'; '.join(str(f) for f in faults[:4])})"
    if options := _parts(schema, "oneOf"):
        faults = [_fault(value, part, root, path, depth + 1) for part in options]
        if faults.count(None) != 1:
            return f"{where}: fits {faults.count(None)} of the allowed forms, must fit exactly one"
    if "not" in schema and _fault(value, schema["not"], root, path, depth + 1) is None:
        return f"{where}: has a form that is ruled out"
    return None


def _parts(schema: dict[str, Any], keyword: str) -> list[Any]:
    parts = schema.get(keyword)
    return parts if isinstance(parts, list) else []


def _target(ref: Any, root: Any) -> Any:
    """What `#/...` points to; None for a reference outside the schema, which is never fetched."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    place = root
    for part in ref[1:].split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and part in place:
            place = place[part]
        elif isinstance(place, list) and part.isdigit() and int(part) < len(place):
            place = place[int(part)]
        else:
            return None
    return place


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
