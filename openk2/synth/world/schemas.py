"""Real API descriptions, read into nouns and operations: AWS's (package `botocore`) and those of MCP servers.

A noun becomes an entity, a shared id an arrow between entities, a verb an effect, a declared error a guard
(`build.py`). Structures inside structures are left out: what stays are the values that an agent can give in a call.
"""

from __future__ import annotations

import functools
import gzip
import html
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openk2.errors import UserError
from openk2.paths import install
from openk2.synth.world.tree import Kind

_MOST_VALUES = 8  # of an enumeration


@dataclass(frozen=True)
class Slot:
    """A value that an operation takes or a noun has. `of`: the noun whose id it is."""

    name: str
    kind: Kind
    doc: str = ""
    values: tuple[str, ...] = ()
    of: str = ""
    required: bool = False


@dataclass(frozen=True)
class Operation:
    """`verb` and `noun` (singular) are lower snake case; `plural`: the noun stands in the plural."""

    name: str
    verb: str
    noun: str
    plural: bool
    inputs: tuple[Slot, ...]
    outputs: tuple[str, ...]
    errors: tuple[str, ...]
    doc: str
    source: str
    shape: str = ""  # verb and types, all names left out (`signature.shape`)


@dataclass
class Api:
    """One service: its nouns with their fields, and its operations in order of name."""

    name: str
    title: str
    source: str
    nouns: dict[str, tuple[Slot, ...]] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)


def snake(text: str) -> str:
    """`DBClusterSnapshot` -> `db_cluster_snapshot`, `getUser-info` -> `get_user_info`."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text)
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]+", "_", text)).strip("_").lower()


def singular(noun: str) -> tuple[str, bool]:
    """(the noun in the singular, whether it was plural)."""
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y", True
    if re.search(r"(ss|sh|ch|x|z)es$", noun):
        return noun[:-2], True
    if noun.endswith("s") and not noun.endswith(("ss", "us", "is", "status", "access", "dns", "aws", "sms")):
        return noun[:-1], True
    return noun, False


def first_sentence(doc: str) -> str:
    """Of a documentation in HTML, at most 200 characters."""
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", doc))).strip()
    match = re.match(r"(.{8,200}?[.!?])(?:\s|$)", text)
    return (match[1] if match else text[:200]).replace(" .", ".").replace(" ,", ",").strip()


# ---- AWS


def botocore_apis() -> Iterator[Api]:
    """Every service of the installed botocore, in order of name. Raises UserError when it is not installed."""
    try:
        import botocore
    except ImportError:
        raise UserError(f"Tools are made from AWS's API descriptions; install them with: {install('synth')}") from None
    folder = Path(botocore.__file__).parent / "data"
    for service in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(service.glob("*/service-2.json*"))
        if files:
            raw = files[-1].read_bytes()
            yield read_botocore(service.name, json.loads(gzip.decompress(raw) if files[-1].suffix == ".gz" else raw))


def read_botocore(name: str, model: dict[str, Any]) -> Api:
    """One service-2.json."""
    title = model["metadata"].get("serviceId") or model["metadata"].get("serviceFullName", name)
    api = Api(name, str(title), "botocore (Apache-2.0)")
    shapes = model["shapes"]
    found: dict[str, dict[str, Slot]] = defaultdict(dict)
    for raw_name, operation in sorted(model["operations"].items()):
        words = snake(raw_name).split("_")
        if len(words) < 2:
            continue
        noun, plural = singular("_".join(words[1:]))
        inputs = _members(shapes, (operation.get("input") or {}).get("shape"))
        outputs = _members(shapes, (operation.get("output") or {}).get("shape"))
        api.operations.append(
            Operation(
                name=snake(raw_name), verb=words[0], noun=noun, plural=plural, inputs=tuple(inputs),
                outputs=tuple(slot.name for slot in outputs),
                errors=tuple(error["shape"] for error in operation.get("errors", ())),
                doc=first_sentence(operation.get("documentation", "")), source=f"{name}.{raw_name}",
                shape=_shape(words[0], operation, shapes),
            )
        )  # fmt: skip
        if words[0] in ("create", "put", "register", "update", "add", "start", "request"):
            found[noun] |= {slot.name: slot for slot in inputs}
        if words[0] in ("get", "describe") and not plural:
            found[noun] |= {slot.name: slot for slot in outputs}
    for noun, slots in found.items():
        for suffix in ("", "Summary", "Detail", "Details", "Description", "Metadata", "Info"):
            shape = "".join(word.capitalize() for word in noun.split("_")) + suffix
            match = next((s for s in shapes if s.lower() == shape.lower()), None)
            if match:
                slots |= {slot.name: slot for slot in _members(shapes, match) if slot.name not in slots}
    return _linked(api, found)


def _shape(verb: str, operation: dict[str, Any], shapes: dict[str, Any]) -> str:
    """Verb, typed inputs (whether required, how many choices) and typed outputs of a real operation."""

    def typed(key: str) -> list[str]:
        shape = shapes.get((operation.get(key) or {}).get("shape", ""), {})
        need = shape.get("required", ())
        return sorted(
            f"{(m := shapes[member['shape']])['type']}{len(m.get('enum', ())) or ''}{'' if name in need else '?'}"
            for name, member in shape.get("members", {}).items()
        )

    return f"{verb}({','.join(typed('input'))}) -> {','.join(typed('output'))}"


def _members(shapes: dict[str, Any], name: str | None) -> list[Slot]:
    """The plain members of a structure; of one that holds a single structure, of that one."""
    shape = shapes.get(name or "", {})
    members = shape.get("members", {})
    structures = [m["shape"] for m in members.values() if shapes[m["shape"]]["type"] == "structure"]
    out = [slot for key, m in members.items() if (slot := _slot(key, m, shapes, key in shape.get("required", ())))]
    if len(structures) == 1 and len(out) <= 1:
        inner = shapes[structures[0]]
        out += [s for key, m in inner.get("members", {}).items() if (s := _slot(key, m, shapes, False))]
    return out


_PLAIN: dict[str, Kind] = {
    "string": "text", "integer": "int", "long": "int", "double": "int", "float": "int", "boolean": "flag",
    "timestamp": "time",
}  # fmt: skip
_IGNORED = {
    "next_token", "max_results", "client_token", "client_request_token", "marker", "max_items", "dry_run",
    "max_records", "idempotency_token", "page_size", "request_id", "response_metadata", "aws_account_id", "account_id",
}  # fmt: skip


def _slot(key: str, member: dict[str, Any], shapes: dict[str, Any], required: bool) -> Slot | None:
    name, shape = snake(key).replace("error", "failure"), shapes[member["shape"]]  # results have `error` for refusals
    kind = _PLAIN.get(shape["type"])
    many = shape["type"] == "list" and shapes[shape["member"]["shape"]]["type"] == "string"
    if name in _IGNORED or not (kind or many) or member.get("idempotencyToken"):
        return None
    values = tuple(sorted({snake(v) for v in shape.get("enum", ())}))
    if values:
        kind = "choice" if 2 <= len(values) <= _MOST_VALUES else "text"
    doc = first_sentence(member.get("documentation", ""))
    return Slot(name, "ids" if many else kind or "text", doc, values if kind == "choice" else (), "", required)


# ---- MCP servers


def mcp_apis(path: Path) -> Iterator[Api]:
    """Every server with tools of a file of MCP specifications (JSON lines, as Toucan crawled them)."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                api = read_mcp(json.loads(line)["spec"]["metadata"])
                if api.operations:
                    yield api
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no file of MCP specifications ({error}); restore it.") from None


_VERBS = (
    "create get list update delete search add remove set find fetch send read write run execute start stop move copy "
    "rename archive assign unassign close open complete cancel approve reject publish schedule book reserve upload "
    "download merge split transfer count query edit insert link unlink enable disable pause resume submit retrieve show"
).split()


def read_mcp(metadata: dict[str, Any]) -> Api:
    """One server's tools; of a name such as `crm_create_contact` the verb is found wherever it stands."""
    title = str(metadata.get("server_name", "server"))
    api = Api(f"mcp_{snake(title) or 'server'}", title, "Toucan MCP specifications (MIT)")
    found: dict[str, dict[str, Slot]] = defaultdict(dict)
    for tool in (metadata.get("remote_server_response") or {}).get("tools") or ():
        words = snake(str(tool.get("name", ""))).split("_")
        at = next((i for i, word in enumerate(words) if word in _VERBS), None)
        if at is None or len(words) < 2:
            continue
        rest = words[at + 1 :] or words[:at]
        noun, plural = singular("_".join(rest))
        shape = tool.get("input_schema") or {}
        inputs = tuple(_mcp_slots(shape))
        doc = first_sentence(str(tool.get("description", "")))
        api.operations.append(
            Operation("_".join(words), words[at], noun, plural, inputs, (), (), doc, f"{api.name}.{tool['name']}")
        )
        if words[at] in ("create", "add", "update", "edit", "insert", "set", "schedule", "book", "write", "send"):
            found[noun] |= {slot.name: slot for slot in inputs}
    return _linked(api, found)


def _mcp_slots(shape: dict[str, Any]) -> Iterator[Slot]:
    required = shape.get("required") or ()
    for key, value in (shape.get("properties") or {}).items():
        if not isinstance(value, dict):
            continue
        kinds: dict[str, Kind] = {"string": "text", "integer": "int", "number": "int", "boolean": "flag"}
        kind = kinds.get(str(value.get("type")))
        items = value.get("items")
        if value.get("type") == "array" and isinstance(items, dict) and items.get("type") == "string":
            kind = "ids"
        name = snake(key).replace("error", "failure")
        if kind is None or not name or name in _IGNORED:
            continue
        values = tuple(sorted({snake(str(v)) for v in value.get("enum") or () if snake(str(v))}))
        if len(values) == 1 or len(values) > _MOST_VALUES:
            values = ()
        if kind == "text" and re.search(r"(_at|_date|_time|date|deadline)$", name):
            kind = "time"
        doc = first_sentence(str(value.get("description", "")))
        yield Slot(name, "choice" if values else kind, doc, values, "", key in required)


# ---- both


def _linked(api: Api, found: dict[str, dict[str, Slot]]) -> Api:
    """Keep the nouns that can be entities, and say of every `..._id` whose it is."""
    verbs: dict[str, set[str]] = defaultdict(set)
    for operation in api.operations:
        verbs[operation.noun].add(operation.verb)
    nouns = {noun for noun, slots in found.items() if slots and len(verbs[noun]) >= 2 and len(noun) <= 40}
    for noun in sorted(nouns):
        slots = [_referring(slot, noun, nouns) for slot in found[noun].values()]
        api.nouns[noun] = tuple(slot for slot in slots if slot)
    api.operations = [
        Operation(
            o.name, o.verb, o.noun, o.plural, tuple(s for slot in o.inputs if (s := _referring(slot, "", nouns))),
            o.outputs, o.errors, o.doc, o.source, o.shape,
        )
        for o in api.operations
    ]  # fmt: skip
    return api


def _referring(slot: Slot, own: str, nouns: set[str]) -> Slot | None:
    """The slot with its noun, or None for an id of what is no entity here (of the noun itself: its own id)."""
    match = re.fullmatch(r"(.+?)_(ids?|arns?|identifiers?)", slot.name)
    if not match:
        if slot.kind == "ids":
            return None
        return slot if slot.name not in ("id", "arn") else None
    noun = _owner(match[1], nouns)
    if not noun or noun == own:
        return None
    many = slot.kind == "ids" or match[2].endswith("s")
    return Slot(f"{noun}_ids" if many else f"{noun}_id", "ids" if many else "id", slot.doc, (), noun, slot.required)


@functools.lru_cache(maxsize=65536)
def _owner_cached(stem: str, nouns: frozenset[str]) -> str:
    if stem in nouns:
        return stem
    ends = sorted((n for n in nouns if n.endswith("_" + stem) or stem.endswith("_" + n)), key=len)
    return ends[0] if ends else ""


def _owner(stem: str, nouns: set[str]) -> str:
    return _owner_cached(stem, frozenset(nouns))
