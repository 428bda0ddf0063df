"""A tool's JSON Schema (draft 2020-12, and what older drafts write differently) made ready for a grammar.

The grammar library takes most of JSON Schema, says no to some of it and is blind to a little. What comes out of
`prepare` holds only what it enforces exactly; everything else is rewritten to an equal form or refused with the path
and the keyword. A keyword that JSON Schema does not know is an annotation and constrains nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from openk2.chat.short_values import Schema, ShortValues

TYPES = ("null", "boolean", "number", "string", "array", "object")
LARGEST_LENGTH = 1_000_000  # a longer string or list does not fit any window
LARGEST_REQUIRED = 100_000
LARGEST_NUMBER = 2**53  # beyond it a JSON number no longer is one value for every reader
MOST_ITEMS = 5_000  # the grammar holds each of a bounded list's items

COPIED = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "minItems", "maxItems", "minProperties", "maxProperties",
)  # fmt: skip
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
REFUSED = (
    "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains",
    "maxContains", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
# Formats: what the grammar library enforces exactly, what it does not and a pattern does (it takes the 29th of
# February in any year), and the rest of the standard's. Others are annotations. No year 0 and no leap second: the
# libraries that read dates refuse both.
FORMATS_KNOWN = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[tT]{_TIME}$",
    "json-pointer": "^(?:/(?:[^/~]|~[01])*)*$",
}
FORMATS_REFUSED = (
    "idn-email", "idn-hostname", "uri-reference", "uri-template", "iri", "iri-reference", "regex",
    "relative-json-pointer",
)  # fmt: skip
IN_PLACE = ("anyOf", "oneOf", "allOf", "$ref")


class Refused(ValueError):
    """A schema that no grammar can be made of: where in it, which keyword, and why."""

    def __init__(self, path: str, keyword: str, why: str) -> None:
        super().__init__(f"{keyword!r} at {path or '/'}: {why}")
        self.path, self.keyword, self.why = path, keyword, why


@dataclass(frozen=True, slots=True)
class Prepared:
    """`root` refers to `defs` only as `#/$defs/NAME`. `smallest` is about the length of the shortest value in bytes,
    `values` are short values, as JSON, of the schema's parts, the shortest first; the longest of them says what one
    more opened bracket may cost to close."""

    root: dict[str, Any]
    defs: dict[str, Schema]
    smallest: int
    values: list[str]

    @property
    def required(self) -> tuple[list[str], list[str]]:
        """The names of members that the arguments must have, and those that some object in the schema must have."""
        names: dict[str, None] = {}
        waiting: list[Any] = [self.root, self.defs]
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                if isinstance(part.get("required"), list):
                    names.update(dict.fromkeys(name for name in part["required"] if isinstance(name, str)))
                waiting += [value for key, value in part.items() if key not in ("enum", "const")]
            elif isinstance(part, list):
                waiting += part
        return self.root.get("required") or list(names), list(names)

    def block(self, schema: Schema) -> dict[str, Any]:
        """A schema of this tool that stands alone."""
        whole = {"allOf": [schema]} if isinstance(schema, bool) else dict(schema)
        reached: dict[str, Schema] = {}
        waiting = [whole]
        while waiting:
            for name in set(re.findall(r'"#/\$defs/(r\d+)"', json.dumps(waiting.pop()))) - reached.keys():
                reached[name] = self.defs[name]
                waiting.append({"allOf": [self.defs[name]]})
        return whole | ({"$defs": reached} if reached else {})


def prepare(schema: Schema | None) -> Prepared:
    """The arguments' schema of one tool: always an object's. Raises Refused."""
    schema = {} if schema is None else schema
    reader = _Reader(schema)
    read = reader.read(schema, "", "")
    root: dict[str, Any] = dict(read) if isinstance(read, dict) else {"type": "object"} if read else {"enum": []}
    types = root.setdefault("type", "object")
    if "object" not in ([types] if isinstance(types, str) else types):
        raise Refused("", "type", "the arguments of a call are an object")
    root["type"] = "object"
    while reader.waiting:
        name, target, path, base = reader.waiting.pop()
        reader.defs[name] = reader.read(target, path, base)
    short = ShortValues(reader.defs)
    smallest = short.of(root)
    if smallest is None:
        path, keyword = reader.endless(short)
        raise Refused(path, keyword, "no finite value satisfies it")
    return Prepared(root, reader.defs, len(smallest), sorted(short.all, key=len))


class _Reader:
    """Reads a schema into its prepared form; what `$ref` names is read once, under a name of its own."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.defs: dict[str, Schema] = {}
        self.waiting: list[tuple[str, Schema, str, str]] = []
        self._names: dict[str, str] = {}
        self._anchors: dict[str, tuple[Schema, str, str]] = {}
        self._refs: dict[str, tuple[str, str]] = {}
        self._collect(root, "", "")

    def read(self, schema: Any, path: str, base: str) -> Schema:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            keyword = path.rpartition("/")[2] or "parameters"
            raise Refused(path, keyword, "a schema is an object, true or false")
        base = _joined(base, schema)
        for keyword in REFUSED:
            if keyword in schema:
                raise Refused(path, keyword, "it cannot be enforced while a call is written")
        out: dict[str, Any] = {}
        both: list[Schema] = []  # what has to hold beside `out`
        if "$ref" in schema:
            out["$ref"] = f"#/$defs/{self._reference(schema['$ref'], path, base)}"
        self._types(schema, out, path)
        self._values(schema, out, path)
        self._bounds(schema, out, path)
        self._strings(schema, out, both, path)
        self._items(schema, out, path, base)
        self._members(schema, out, both, path, base)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:
                options = _typed(schema, keyword, list, path)
                if not options:
                    raise Refused(path, keyword, "it is an empty list")
                out[keyword] = [self.read(option, f"{path}/{keyword}/{i}", base) for i, option in enumerate(options)]
        if "not" in schema:
            both.append({"type": self._complement(schema["not"], path)})
        if both:
            out["allOf"] = [*out.get("allOf", ()), *both]
        return out

    def endless(self, short: ShortValues) -> tuple[str, str]:
        """The first reference (else the root) that has no finite value."""
        for name, (path, keyword) in self._refs.items():
            if short.of({"$ref": f"#/$defs/{name}"}) is None:
                return path, keyword
        return "", "parameters"

    def _types(self, schema: dict[str, Any], out: dict[str, Any], path: str) -> None:
        if "type" not in schema:
            return
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        for name in types:
            if name not in (*TYPES, "integer"):
                raise Refused(path, "type", f"{json.dumps(name)} is no type of JSON")
        if not types:
            raise Refused(path, "type", "it is an empty list")
        names = [name for name in dict.fromkeys(types) if name != "integer" or "number" not in types]
        out["type"] = names[0] if len(names) == 1 else names

    def _values(self, schema: dict[str, Any], out: dict[str, Any], path: str) -> None:
        if "const" in schema:
            _plain_numbers(schema["const"], path, "const")
            out["const"] = schema["const"]
        if "enum" in schema:
            values = _typed(schema, "enum", list, path)
            if not values:
                raise Refused(path, "enum", "it is an empty list")
            _plain_numbers(values, path, "enum")
            out["enum"] = list({json.dumps(value, sort_keys=True): value for value in values}.values())

    def _bounds(self, schema: dict[str, Any], out: dict[str, Any], path: str) -> None:
        for keyword in COPIED:
            if keyword in schema:
                out[keyword] = schema[keyword]
        for keyword in COUNTS:
            if keyword not in out:
                continue
            count = out[keyword]
            if isinstance(count, bool) or not isinstance(count, int | float) or count != int(count) or count < 0:
                raise Refused(path, keyword, "it is not a count")
            if keyword.startswith("min") and count > LARGEST_REQUIRED:
                raise Refused(path, keyword, f"{count:g} does not fit any reply")
            out[keyword] = min(int(count), LARGEST_LENGTH)
        if out.get("maxItems", 0) > MOST_ITEMS:
            out["maxItems"] = max(MOST_ITEMS, out.get("minItems", 0))
        for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if out.get(exclusive) is True and limit in out:  # draft 4
                out[exclusive] = out.pop(limit)
            elif isinstance(out.get(exclusive), bool):
                del out[exclusive]
        for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
            if keyword in out:
                if isinstance(out[keyword], bool) or not isinstance(out[keyword], int | float):
                    raise Refused(path, keyword, "it is not a number")
                _plain_numbers(out[keyword], path, keyword)
        if out.get("multipleOf", 1) <= 0:
            raise Refused(path, "multipleOf", "it is not above 0")

    def _strings(self, schema: dict[str, Any], out: dict[str, Any], both: list[Schema], path: str) -> None:
        if "pattern" in schema:
            out["pattern"] = _typed(schema, "pattern", str, path)
        name = schema.get("format")
        if name in FORMATS_REFUSED:
            raise Refused(path, "format", f"{name!r} cannot be enforced while a call is written")
        if name in FORMATS_KNOWN:
            out["format"] = name
        elif name in FORMATS:
            others = [t for t in TYPES if t != "string"]
            both.append({"anyOf": [{"type": "string", "pattern": FORMATS[name]}, {"type": others}]})

    def _items(self, schema: dict[str, Any], out: dict[str, Any], path: str, base: str) -> None:
        prefix, rest = schema.get("prefixItems"), schema.get("items")
        first, later = "prefixItems", "items"
        if isinstance(rest, list):  # before draft 2020-12
            prefix, rest, first, later = rest, schema.get("additionalItems"), "items", "additionalItems"
        if prefix is not None:
            if not isinstance(prefix, list):
                raise Refused(path, first, "it is not a list")
            out["prefixItems"] = [self.read(item, f"{path}/{first}/{i}", base) for i, item in enumerate(prefix)]
        if rest is not None:
            out["items"] = self.read(rest, f"{path}/{later}", base)
        for keyword in ("unevaluatedItems", "unevaluatedProperties"):
            if schema.get(keyword, True) in (True, {}):
                continue
            if schema.keys() & {*IN_PLACE, "not"}:
                raise Refused(path, keyword, "it cannot be enforced beside other schemas")
            known = "items" if keyword.endswith("Items") else "additionalProperties"
            if known not in schema or isinstance(schema[known], list):
                out[known] = self.read(schema[keyword], f"{path}/{keyword}", base)
        if schema.get("uniqueItems") and out.get("maxItems", 2) > 1:
            raise Refused(path, "uniqueItems", "it cannot be enforced while a call is written")

    def _members(self, schema: dict[str, Any], out: dict[str, Any], both: list[Schema], path: str, base: str) -> None:
        for keyword in ("properties", "patternProperties"):
            if keyword in schema:
                members = _typed(schema, keyword, dict, path)
                out[keyword] = {
                    key: self.read(value, f"{path}/{keyword}/{_escaped(key)}", base) for key, value in members.items()
                }
        if "additionalProperties" in schema:
            out["additionalProperties"] = self.read(
                schema["additionalProperties"], f"{path}/additionalProperties", base
            )
        if "required" in schema:
            names = _typed(schema, "required", list, path)
            if not all(isinstance(name, str) for name in names):
                raise Refused(path, "required", "it is not a list of names")
            out["required"] = list(dict.fromkeys(names))
        for key in (*out.get("properties", ()), *out.get("required", ())):
            if re.search(r"[\x00-\x07\x0b\x0e-\x1f\x7f]", key):  # only a \\u escape writes those
                raise Refused(path, "properties", f"the key {json.dumps(key)} holds a control character")
        if out.get("minProperties", 0) <= len(out.get("required", ())):
            out.pop("minProperties", None)
        elif out["minProperties"] > 1 and (path or out.get("additionalProperties") is not False):
            # At the root the grammar counts the declared ones; a key that is given twice must not count twice.
            raise Refused(path, "minProperties", "it cannot be enforced while a call is written")
        self._names_of(schema, both, path, base)

    def _names_of(self, schema: dict[str, Any], both: list[Schema], path: str, base: str) -> None:
        """`propertyNames`: as a closed set of members where it lists them or gives a pattern."""
        if schema.get("propertyNames", True) is True:
            return
        names = self.read(schema["propertyNames"], f"{path}/propertyNames", base)
        kinds = names.keys() - {"type"} if isinstance(names, dict) else {"false"}
        others: Schema = {"type": [t for t in TYPES if t != "object"]}
        if not kinds:
            return  # each key is a string
        if kinds == {"pattern"}:
            assert isinstance(names, dict)
            keyed: Schema = {"type": "object", "patternProperties": {names["pattern"]: True}}
        elif kinds in ({"enum"}, {"const"}):
            assert isinstance(names, dict)
            keys = names["enum"] if kinds == {"enum"} else [names["const"]]
            keyed = {"type": "object", "properties": {key: True for key in keys if isinstance(key, str)}}
        else:
            raise Refused(path, "propertyNames", "it cannot be enforced while a call is written")
        both.append({"anyOf": [{**keyed, "additionalProperties": False}, others]})

    def _complement(self, schema: Any, path: str) -> list[str]:
        """The types that a `not` leaves, where it names types only."""
        read = self.read(schema, f"{path}/not", "")
        types = read.get("type") if isinstance(read, dict) and read.keys() == {"type"} else None
        named = [types] if isinstance(types, str) else types
        left = [t for t in TYPES if t not in named] if named and "integer" not in named else []
        if not left:
            raise Refused(path, "not", "it cannot be enforced while a call is written")
        return left

    def _reference(self, ref: Any, path: str, base: str) -> str:
        """The name in `defs` of what `ref` points to."""
        if not isinstance(ref, str):
            raise Refused(path, "$ref", "it is not a text")
        address, fragment = urldefrag(urljoin(base, ref) if base else ref)
        found = self._anchors.get(address) if not fragment else self._anchors.get(f"{address}#{fragment}")
        if found is None and (not fragment or fragment.startswith("/")):
            start = self._anchors.get(address)
            found = _pointed(start, unquote(fragment)) if start else None
        if found is None:
            raise Refused(path, "$ref", f"{ref!r} names nothing in this schema")
        target, at, target_base = found
        if at not in self._names:
            self._names[at] = name = f"r{len(self._names)}"
            self._refs[name] = (path, "$ref")
            self.waiting.append((name, target, at, target_base))
        return self._names[at]

    def _collect(self, schema: Any, path: str, base: str) -> None:
        """Remember every `$id` and `$anchor`: what references may name beside paths."""
        if path == "":
            self._anchors[""] = (schema, "", base)
        if isinstance(schema, list):
            for i, item in enumerate(schema):
                self._collect(item, f"{path}/{i}", base)
        if not isinstance(schema, dict):
            return
        inner = _joined(base, schema)
        if path == "" or inner != base:
            self._anchors.setdefault(inner, (schema, path, base))
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                self._anchors[f"{inner}#{schema[keyword]}"] = (schema, path, base)
        for key, value in schema.items():
            if key not in ("enum", "const", "default", "examples"):
                self._collect(value, f"{path}/{_escaped(key)}", inner)


def _plain_numbers(value: Any, path: str, keyword: str) -> None:
    """Refuse numbers that a reader of JSON may change, inside any value."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
        raise Refused(path, keyword, f"{value} is beyond what every reader of JSON keeps exactly")
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _plain_numbers(item, path, keyword)


def _typed(schema: dict[str, Any], keyword: str, kind: type, path: str) -> Any:
    if not isinstance(schema[keyword], kind):
        wanted = {list: "a list", dict: "an object", str: "a text"}[kind]
        raise Refused(path, keyword, f"it is not {wanted}")
    return schema[keyword]


def _joined(base: str, schema: dict[str, Any]) -> str:
    """The base address inside a schema. An `$id` that is no address only stands for itself."""
    name = schema.get("$id", schema.get("id"))
    if not isinstance(name, str) or (name.startswith("#") and "$id" not in schema):
        return base
    try:
        return urldefrag(urljoin(base, name))[0]
    except ValueError:
        return base


def _pointed(start: tuple[Schema, str, str], pointer: str) -> tuple[Schema, str, str] | None:
    """What a JSON pointer (RFC 6901) leads to from a schema."""
    schema, path, base = start
    value: Any = schema
    for raw in pointer.split("/")[1:]:
        key = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            base = _joined(base, value)
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
        path += f"/{raw}"
    return value, path, base


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
