"""Schemas of tool arguments: those that calls can be held to (`TAKEN`), and those that are refused by name (`REFUSED`).

Real tools' schemas are plain; these are the hard corners. `of(x=schema, ...)` is an object with these members, all
required and no others.
"""

from __future__ import annotations

from typing import Any

STR, INT, NUM, BOOL, NULL = ({"type": t} for t in ("string", "integer", "number", "boolean", "null"))
ARR, OBJ = {"type": "array"}, {"type": "object"}


def of(**members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def some(required: str = "", /, **members: Any) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": required.split(), "additionalProperties": False}


def text(**keywords: Any) -> dict[str, Any]:
    return of(x={"type": "string", **keywords})


def number(**keywords: Any) -> dict[str, Any]:
    return of(x={"type": "number", **keywords})


def integer(**keywords: Any) -> dict[str, Any]:
    return of(x={"type": "integer", **keywords})


def array(**keywords: Any) -> dict[str, Any]:
    return of(x={"type": "array", **keywords})


def defs(root: dict[str, Any], **named: Any) -> dict[str, Any]:
    return {**root, "$defs": named}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def deep(levels: int) -> dict[str, Any]:
    return of(x=deep(levels - 1)) if levels else of(x=INT)


NODE = some("value", value=INT, left=ref("node"), right=ref("node"))
ODD_TEXTS = ['a"b', "c\\d", "\n", "é", "", "</think>", "<|im_end|>", "\u2028", "😀", " ", "\t", "functions.x:0", "null"]

TAKEN: dict[str, Any] = {
    # nothing said, little said
    "empty": {},
    "true": True,
    "none": None,
    "only object": OBJ,
    "no members": {"type": "object", "properties": {}},
    "no members at all": {"type": "object", "properties": {}, "additionalProperties": False},
    "annotations": {"title": "T", "description": "d", "default": {}, "examples": [{}], "$comment": "c", **of(x=STR)},
    "unknown keywords": {**of(x={"type": "string", "x-order": 1, "optional": True, "nullable": True}), "strict": True},
    "type list": {"type": ["object", "null"], "properties": {"x": INT}, "required": ["x"]},
    "no type": {"properties": {"x": INT}, "required": ["x"]},
    "lengths without a type": {"maxLength": 5_000_000},
    "draft 7": {"$schema": "http://json-schema.org/draft-07/schema#", **of(x=STR)},
    # members
    "one optional": some(x=STR),
    "three optional": some(a=STR, b=INT, c=BOOL),
    "required last": some("c", a=STR, b=INT, c=BOOL),
    "required order": {**of(a=INT, b=INT, c=INT), "required": ["c", "a", "b"]},
    "required twice": {**of(a=INT), "required": ["a", "a"]},
    "required undeclared": {"type": "object", "required": ["zz"]},
    "required undeclared typed": {"type": "object", "required": ["zz"], "additionalProperties": INT},
    "additional typed": {"type": "object", "properties": {"a": INT}, "additionalProperties": STR},
    "additional open": {"type": "object", "properties": {"a": INT}, "required": ["a"]},
    "additional only": {"type": "object", "additionalProperties": {"type": "array", "items": INT}},
    "true member": of(x=True),
    "empty member": of(x={}),
    "false member optional": {"type": "object", "properties": {"a": False, "b": INT}, "required": ["b"]},
    "unsatisfiable optional": some("b", a={"type": "integer", "minimum": 5, "maximum": 3}, b=INT),
    "twenty members": some("m3 m7", **{f"m{i}": INT for i in range(20)}),
    "sixty-one members": some("m3", **{f"m{i}": BOOL for i in range(61)}),
    "pattern members": {"type": "object", "patternProperties": {"^x_[a-z]{1,3}$": INT}, "additionalProperties": False},
    "pattern and declared": {"type": "object", "properties": {"a": STR}, "patternProperties": {"^n_": INT}},
    "min members": {"type": "object", "minProperties": 1},
    "min members counted": {**some(a=INT, b=INT, c=INT), "minProperties": 2},
    "max members counted": {**some(a=INT, b=INT, c=INT), "maxProperties": 2},
    "exactly two members": {**some(a=INT, b=INT, c=INT, d=INT), "minProperties": 2, "maxProperties": 2},
    "max members open": {"type": "object", "maxProperties": 2},
    "min below required": of(x={**of(a=INT, b=INT), "minProperties": 2}),
    "names enumerated": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": INT},
    "names are texts": of(x={"type": "object", "propertyNames": STR, "additionalProperties": INT}),
    "names by pattern": {"type": "object", "propertyNames": {"pattern": "^[a-c]+$"}},
    "no unevaluated": {"type": "object", "properties": {"a": INT}, "unevaluatedProperties": False},
    # keys
    "unicode keys": of(**{"é": STR, "名前": INT, "😀": BOOL, "ß ü": NULL}),
    "quoted keys": of(**{'a"b': INT, "c\\d": INT, "e\nf": INT, "": INT, "/~": INT}),
    "markup keys": of(**{"<|tool_call_end|>": INT, "</think>": STR, "$ref": INT, "type": STR, "properties": INT}),
    "keys that begin alike": some("ab", a=INT, ab=INT, abc=INT),
    "odd keys open": {"type": "object", "properties": {'"': INT, "é": INT, "a/b": INT}, "required": ["é"]},
    "long key": of(**{"k" * 200: INT}),
    # texts
    "text": of(x=STR),
    "text min": text(minLength=3),
    "text max": text(maxLength=4),
    "text exact": text(minLength=5, maxLength=5),
    "text none": text(maxLength=0),
    "text long": text(minLength=300),
    "text huge bound": text(maxLength=5_000_000),
    "text float bound": text(minLength=2.0),
    "text lengths and list of types": of(x={"maxLength": 100, "minLength": 1, "type": ["string"]}),
    "text letters": text(pattern="^[a-z]+$"),
    "text search": text(pattern="b"),
    "text either end": text(pattern="^a|b$"),
    "text groups": text(pattern="^([a-z]{3}-){2}[0-9]{4}$"),
    "text escapes": text(pattern=r"^\d{2}:\w+\s\S$"),
    "text quote": text(pattern='^"[^"\\\\]*"$'),
    "text slash": text(pattern="^/([a-z]+/)*$"),
    "text dot": text(pattern="^a.c$"),
    "text far end": text(pattern="^a*z$"),
    "text unicode": text(pattern="^[é-ü]{2}$"),
    "text semver": text(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$"),
    "text pattern and length": text(pattern="^[ab]*$", minLength=2, maxLength=6),
    "text pattern and long": text(pattern="^[a-z]*$", minLength=60),
    "text two patterns": of(x={"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "z$"}]}),
    # formats
    **{
        f"format {name}": text(format=name)
        for name in (
            "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "json-pointer",
        )
    },
    "format unknown": text(format="markdown"),
    "format of a number": integer(format="int32"),
    "format without a type": of(x={"format": "date"}),
    "format and pattern": text(format="date", pattern="^19"),
    "format optional": some(when={"anyOf": [{"type": "string", "format": "date-time"}, NULL]}),
    # values
    "enum": text(enum=["red", "green", "blue"]),
    "enum one": text(enum=["only"]),
    "enum begins alike": text(enum=["a", "ab", "abc", "abcd"]),
    "enum odd": of(x={"enum": ODD_TEXTS}),
    "enum mixed": of(x={"enum": [1, "1", None, True, 1.5, [1, {"x": 2}], {}]}),
    "enum double": of(x={"enum": ["a", "a", "b"]}),
    "enum large": of(x={"enum": [f"value_{i:04}" for i in range(800)]}),
    "enum numbers": of(x={"enum": [1, 10, 100, -1, 0.25]}),
    "enum cut by type": of(x={"type": "string", "enum": ["a", 1, None]}),
    "const text": of(x={"const": 'say "hi"\n'}),
    "const number": of(x={"const": -12.5}),
    "const null": of(x={"const": None}),
    "const object": of(x={"const": {"b": [1, 2], "a": {"c": None}}}),
    "const list": of(x={"const": [1, "2", [3]]}),
    "const small number": of(x={"const": 1e-7}),
    # numbers
    "integer": of(x=INT),
    "number": of(x=NUM),
    "integer range": integer(minimum=-5, maximum=17),
    "integer wide": integer(minimum=-(2**53), maximum=2**53),
    "integer one": integer(minimum=7, maximum=7),
    "integer exclusive": integer(exclusiveMinimum=0, exclusiveMaximum=3),
    "integer halves": integer(minimum=0.5, maximum=2.5),
    "integer steps": integer(multipleOf=7),
    "integer steps in range": integer(multipleOf=25, minimum=30, maximum=90),
    "number range": number(minimum=0.5, maximum=1.5),
    "number exclusive": number(exclusiveMinimum=0, exclusiveMaximum=1),
    "number below zero": number(maximum=-0.001),
    "number steps": number(multipleOf=0.25),
    "number tenths": number(multipleOf=0.1),
    "number draft 4": number(minimum=0, exclusiveMinimum=True),
    "number draft 4 off": number(minimum=0, exclusiveMinimum=False),
    "number or integer": of(x={"type": ["integer", "number"]}),
    "latitude": of(lat={"type": "number", "minimum": -90, "maximum": 90}, lon={"type": "number", "minimum": -180}),
    # lists
    "list": of(x=ARR),
    "list of": array(items=INT),
    "list min": array(items=INT, minItems=3),
    "list max": array(items=INT, maxItems=2),
    "list exact": array(items=BOOL, minItems=4, maxItems=4),
    "list none": array(maxItems=0),
    "list long": array(items=BOOL, maxItems=20_000),
    "list of objects": array(items=of(a=INT, b=STR), minItems=1),
    "list of lists": array(items={"type": "array", "items": {"type": "array", "items": NUM}}),
    "tuple": array(prefixItems=[STR, INT, BOOL], items=False, minItems=3),
    "tuple open": array(prefixItems=[STR, INT]),
    "tuple and rest": array(prefixItems=[STR], items=INT, minItems=3),
    "tuple draft 7": array(items=[STR, INT], additionalItems=False),
    "tuple draft 7 rest": array(items=[STR], additionalItems=INT),
    "list of nothing": array(items=False),
    "unique off": array(items=INT, uniqueItems=False),
    "unique of one": array(items=INT, uniqueItems=True, maxItems=1),
    "no unevaluated items": array(prefixItems=[INT], unevaluatedItems=False),
    # several schemas
    "any of types": of(x={"anyOf": [STR, INT, NULL]}),
    "any of objects": of(x={"anyOf": [of(a=INT), of(b=STR), of(a=STR, c=BOOL)]}),
    "any of beside members": {"type": "object", "properties": {"a": INT, "b": INT},
                              "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "any of at the root": {"anyOf": [of(a=INT), of(b=INT)]},
    "any of one": of(x={"anyOf": [INT]}),
    "any of with a dead branch": of(x={"anyOf": [False, INT]}),
    "one of types": of(x={"oneOf": [STR, INT]}),
    "one of tagged": of(x={"oneOf": [of(kind={"const": "a"}, n=INT), of(kind={"const": "b"}, s=STR)]}),
    "one of one": of(x={"oneOf": [STR]}),
    "one of constants": of(x={"oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]}),
    "all of": of(x={"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 9}]}),
    "all of objects": {"allOf": [some("a", a=INT) | {"additionalProperties": True},
                                 some("b", b=STR) | {"additionalProperties": True}]},
    "all of one": of(x={"allOf": [ref("n")]}) | {"$defs": {"n": INT}},
    "not a type": of(x={"not": {"type": "null"}}),
    "not two types": of(x={"not": {"type": ["object", "array"]}}),
    "nullable": some("x", x={"type": ["string", "null"]}, y={"type": ["integer", "null"]}),
    # references
    "reference": defs(of(x=ref("n")), n=INT),
    "reference twice": defs(of(x=ref("n"), y=ref("n")), n={"type": "string", "maxLength": 3}),
    "reference chain": defs(of(x=ref("a")), a=ref("b"), b=ref("c"), c=BOOL),
    "reference with siblings": defs(of(x={**ref("n"), "maximum": 5, "description": "d"}), n=INT),
    "reference to definitions": {**of(x={"$ref": "#/definitions/n"}), "definitions": {"n": INT}},
    "reference to a member": {**of(x=INT, y={"$ref": "#/properties/x"})},
    "reference escaped": {**of(x={"$ref": "#/$defs/a~1b%20c"}), "$defs": {"a/b c": INT}},
    "reference in a list": defs(array(items=ref("n"), minItems=1), n=of(v=INT)),
    "anchor": defs(of(x={"$ref": "#here"}), n={"$anchor": "here", "type": "integer"}),
    "id": {"$id": "http://example.com/tool", **defs(of(x=ref("n")), n=INT)},
    "id that is none": {"$id": "::bad ::", **of(x=INT)},
    "id of a part": {"$id": "http://example.com/tool", **of(x={"$ref": "part"}),
                     "$defs": {"p": {"$id": "part", "type": "integer"}}},
    "id and anchor": {"$id": "http://example.com/t", **of(x={"$ref": "http://example.com/t#here"}),
                      "$defs": {"p": {"$anchor": "here", "type": "boolean"}}},
    "root reference": defs(ref("all"), all=of(x=INT)),
    "unused reference": defs(of(x=INT), unused={"$ref": "#/$defs/unused"}),
    # recursion
    "tree": defs(of(root=ref("node")), node=NODE),
    "tree at the root": {"type": "object", "properties": {"v": INT, "kids": {"type": "array", "items": {"$ref": "#"}}},
                         "required": ["v"]},
    "linked list": defs(of(x=ref("l")), l={"anyOf": [NULL, of(head=INT, tail=ref("l"))]}),
    "expression": defs(of(e=ref("e")), e={"anyOf": [NUM, of(op={"enum": ["+", "*"]}, l=ref("e"), r=ref("e"))]}),
    "mutual": defs(of(x=ref("a")), a=some(b=ref("b")), b=some(a=ref("a"))),
    "any json": defs(of(x=ref("j")), j={"anyOf": [
        NULL, BOOL, NUM, STR, {"type": "array", "items": ref("j")},
        {"type": "object", "additionalProperties": ref("j")},
    ]}),
    "children at least one": defs(of(x=ref("n")), n={"anyOf": [
        of(kind={"const": "leaf"}),
        of(kind={"const": "node"}, kids={"type": "array", "items": ref("n"), "minItems": 1}),
    ]}),
    "deep": deep(12),
    "wide and deep": of(a=deep(3), b=array(items=deep(2), minItems=1), c=some(d=deep(2))),
    # what tools look like
    "search": some("query", query=STR, k={"type": "integer", "minimum": 1, "maximum": 20, "default": 5}),
    "python": of(code=STR),
    "weather": some("location", location={"type": "string", "description": "City, e.g. Paris"},
                    unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
    "calendar": some("title start", title=STR, start={"type": "string", "format": "date-time"},
                     attendees={"type": "array", "items": {"type": "string", "format": "email"}, "maxItems": 5},
                     reminder={"anyOf": [{"type": "integer", "minimum": 0}, NULL]}),
    "edit": of(path={"type": "string", "minLength": 1}, edits={"type": "array", "minItems": 1, "items": of(
        old=STR, new=STR, all={"type": "boolean", "default": False})}),
    "order": of(customer=some("id", id={"type": "string", "format": "uuid"}, name=STR),
                lines={"type": "array", "minItems": 1, "items": some(
                    "sku quantity", sku={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{3}$"},
                    quantity={"type": "integer", "minimum": 1, "maximum": 99},
                    price={"type": "number", "minimum": 0})}),
    "pydantic": defs({**some("filters", filters={"type": "array", "items": ref("Filter")}, limit={
        "anyOf": [INT, NULL], "default": None, "title": "Limit"}), "title": "Args"},
        Filter=some("field op", field={"title": "Field", "type": "string"}, op=ref("Op"),
                    value={"anyOf": [STR, NUM, BOOL], "default": ""}),
        Op={"enum": ["eq", "ne", "lt"], "title": "Op", "type": "string"}),
}  # fmt: skip

REFUSED: dict[str, tuple[Any, str, str]] = {  # schema, path, keyword
    "false": (False, "", "parameters"),
    "a text": ("object", "", "parameters"),
    "a list": ([], "", "parameters"),
    "member is no schema": ({"properties": {"x": 3}}, "/properties/x", "x"),
    "not an object": (STR, "", "type"),
    "unknown type": (of(x={"type": "str"}), "/properties/x", "type"),
    "no type in the list": (of(x={"type": []}), "/properties/x", "type"),
    "type is a number": (of(x={"type": 3}), "/properties/x", "type"),
    "properties is a list": ({"properties": []}, "", "properties"),
    "properties is null": ({"properties": None}, "", "properties"),
    "required is a flag": (of(x={"type": "object", "required": True}), "/properties/x", "required"),
    "required holds a number": ({"type": "object", "required": [1]}, "", "required"),
    "not": (of(x={"not": {"required": ["a"]}}), "/properties/x", "not"),
    "not everything": (of(x={"not": {}}), "/properties/x", "not"),
    "not integer": (of(x={"not": INT}), "/properties/x", "not"),
    "if": ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, "", "if"),
    "if inside": (array(items={"if": INT, "else": STR}), "/properties/x/items", "if"),
    "dependent required": ({"dependentRequired": {"a": ["b"]}}, "", "dependentRequired"),
    "dependent schemas": ({"dependentSchemas": {"a": OBJ}}, "", "dependentSchemas"),
    "dependencies": ({"dependencies": {"a": ["b"]}}, "", "dependencies"),
    "contains": (array(contains=INT), "/properties/x", "contains"),
    "unique": (array(items=INT, uniqueItems=True), "/properties/x", "uniqueItems"),
    "names by length": ({"propertyNames": {"maxLength": 3}}, "", "propertyNames"),
    "unevaluated beside all of": ({"allOf": [OBJ], "unevaluatedProperties": False}, "", "unevaluatedProperties"),
    "min members inside": (of(x={"type": "object", "minProperties": 2}), "/properties/x", "minProperties"),
    "min members open": ({"type": "object", "minProperties": 2}, "", "minProperties"),
    "dynamic reference": (of(x={"$dynamicRef": "#n"}), "/properties/x", "$dynamicRef"),
    "reference to nothing": (of(x=ref("n")), "/properties/x", "$ref"),
    "reference elsewhere": (of(x={"$ref": "http://example.com/s.json"}), "/properties/x", "$ref"),
    "reference to a file": (of(x={"$ref": "other.json#/a"}), "/properties/x", "$ref"),
    "reference is a number": (of(x={"$ref": 1}), "/properties/x", "$ref"),
    "missing anchor": (of(x={"$ref": "#gone"}), "/properties/x", "$ref"),
    "endless": (defs(of(x=ref("n")), n=of(next=ref("n"))), "/properties/x", "$ref"),
    "endless at once": ({"$ref": "#"}, "", "$ref"),
    "endless in turn": (defs(of(x=ref("a")), a=ref("b"), b=ref("a")), "/properties/x", "$ref"),
    "endless list": (defs(of(x=ref("n")), n={"type": "array", "items": ref("n"), "minItems": 1}),
                     "/properties/x", "$ref"),
    "length beyond all": (text(minLength=10**12), "/properties/x", "minLength"),
    "length below zero": (text(minLength=-1), "/properties/x", "minLength"),
    "length is a text": (text(maxLength="3"), "/properties/x", "maxLength"),
    "length of half": (text(maxLength=2.5), "/properties/x", "maxLength"),
    "look-ahead": (text(pattern="^(?=.*a)b*a$"), "/properties/x", "pattern"),
    "back-reference": (text(pattern=r"^(a)\1$"), "/properties/x", "pattern"),
    "broken pattern": (text(pattern="(["), "/properties/x", "pattern"),
    "pattern is a number": (text(pattern=1), "/properties/x", "pattern"),
    "format regex": (text(format="regex"), "/properties/x", "format"),
    "format iri": (text(format="iri"), "/properties/x", "format"),
    "enum empty": (of(x={"enum": []}), "/properties/x", "enum"),
    "enum is a text": (of(x={"enum": "ab"}), "/properties/x", "enum"),
    "any of nothing": (of(x={"anyOf": []}), "/properties/x", "anyOf"),
    "any of is an object": (of(x={"anyOf": {}}), "/properties/x", "anyOf"),
    "one of that overlaps": (of(x={"oneOf": [STR, {"type": "string", "minLength": 3}]}), "/properties/x", "oneOf"),
    "large number": (of(x={"const": 12345678901234567890}), "/properties/x", "const"),
    "large bound": (integer(minimum=10**30), "/properties/x", "minimum"),
    "infinite bound": (number(maximum=float("inf")), "/properties/x", "maximum"),
    "bound is a text": (integer(minimum="1"), "/properties/x", "minimum"),
    "step zero": (integer(multipleOf=0), "/properties/x", "multipleOf"),
    "empty range": (integer(minimum=5, maximum=3), "/properties/x", "minimum"),
    "range without a step": (integer(minimum=1, maximum=3, multipleOf=10), "/properties/x", "minimum"),
    "min items beyond": (array(minItems=10**9), "/properties/x", "minItems"),
    "required and false": (of(x=False), "", "parameters"),
    "required and closed": ({"type": "object", "required": ["z"], "additionalProperties": False}, "", "parameters"),
    "patterns that overlap": ({"patternProperties": {"^a": INT, "b$": STR}}, "", "patternProperties"),
    "control character in a key": (of(**{"a\x01": INT}), "", "properties"),
    "all of that exclude": (of(x={"allOf": [STR, INT]}), "/properties/x", "allOf"),
}  # fmt: skip
