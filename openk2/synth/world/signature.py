"""When are two tools the same? Signatures after renaming, and fingerprints of what tools do.

Three measures, from coarse to fine:
- `shape`: verb, types of the arguments, types of what is given back; `schemas.Operation.shape` is the same of a real
  operation, so that ours and AWS's stand on one scale;
- `effects`: what is read, guarded, changed, given back and which errors there are, every name replaced by its number of
  first occurrence;
- `fingerprint`: what comes out of calls in states made for the tool: results and changes, names and ids replaced.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from openk2.synth.world import tree as t
from openk2.synth.world.laws import situation
from openk2.synth.world.lower import lower
from openk2.synth.world.schemas import verb_at
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.world import World

_ROUNDS = 6  # calls of a fingerprint


_WIRE = {
    "int": "integer", "money": "integer", "time": "timestamp", "flag": "boolean", "ids": "list", "texts": "list",
    "objects": "list", "object": "structure",
}  # fmt: skip


def shape(spec: WorldSpec, tool: Tool, deep: bool = False) -> str:
    """Verb, typed arguments (whether required, how many choices), types of what is given back: all sorted, in the type
    names of botocore. `deep`: with the types inside lists and structures, one level down.
    """

    def wire(kind: t.Type) -> str:
        inside = "string" if deep and kind.kind in ("ids", "texts") else ""
        if deep and kind.parts:
            inside = ",".join(sorted(wire(part.type) for part in kind.parts))
        name = _WIRE.get(kind.kind, "string")
        return f"{name}{len(kind.values) or '' if kind.kind == 'choice' else ''}" + (f"({inside})" if inside else "")

    inputs = sorted(f"{wire(p.type)}{'' if p.required else '?'}" for p in tool.params)
    match lower(tool).output:
        case t.GiveRecord(_, fields):
            shown = _kinds(spec, tool, fields, wire)
        case t.GiveList(_, _, fields):
            shown = ["integer", f"list({','.join(_kinds(spec, tool, fields, wire))})" if deep else "list"]
        case _:
            shown = ["integer"]
    return f"{_verb(tool)}({','.join(inputs)}) -> {','.join(shown)}"


def _verb(tool: Tool) -> str:
    """The first word of the name; of an MCP tool the verb, wherever it stands."""
    words = tool.name.split("_")
    return words[verb_at(words) or 0] if tool.source.startswith("mcp_") else words[0]


def _kinds(spec: WorldSpec, tool: Tool, fields: Sequence[str], wire: Callable[[t.Type], str]) -> list[str]:
    """The types of the fields shown; an id is always among them."""
    entity = spec.entity(getattr(tool.claims[-1], "entity", ""))
    return sorted("string" if f == "id" else wire(entity.field(f).type) for f in dict.fromkeys(("id", *fields)))


def effects(spec: WorldSpec, tool: Tool) -> str:
    """The program with all names renamed in order of occurrence; errors, messages and constants that are words too."""
    names: dict[str, str] = {}

    def rename(text: str) -> str:
        return names.setdefault(text, f"n{len(names)}")

    def plain(node: Any, field: str = "") -> Any:
        if isinstance(node, str):
            return "" if field == "message" else node if field in ("op", "how") else rename(node)
        if isinstance(node, tuple | list):
            return [plain(child) for child in node]
        if dataclasses.is_dataclass(node):
            inside = [plain(getattr(node, f.name), f.name) for f in dataclasses.fields(node)]
            return [type(node).__name__, *inside]
        return node

    inputs = [[p.type.kind, rename(p.type.of) if p.type.of else "", p.required, rename(p.name)] for p in tool.params]
    body = json.dumps([shape(spec, tool, deep=True), inputs, plain(lower(tool))], separators=(",", ":"))
    return hashlib.blake2b(body.encode(), digest_size=12).hexdigest()


def fingerprint(world: World, tool: Tool) -> str | None:
    """A hash of what the tool does in a few situations in which it passes; None where it never does.

    Results and changes are told as kinds and numbers: which fields of the records it touched changed, by how much, and
    what was given back, without a name in it.
    """
    start = world.snapshot()
    rng = random.Random("openk2 fingerprint")
    told: list[Any] = []
    for _ in range(_ROUNDS):
        s = situation(world, tool, start, rng)
        if s is None:
            continue
        world.restore(s.state)
        result = world.call(tool.name, s.args)
        records = len(s.state.tables.get(getattr(tool.claims[-1], "entity", ""), ()))
        told.append([_shown(result, records), _changed(s.state.tables, world.state.tables, s.args)])
    world.restore(start)
    if not told:
        return None
    guards = [type(claim).__name__ for claim in tool.claims]
    text = json.dumps([guards, told], separators=(",", ":"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _kind(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return "number"
    return type(value).__name__


def _shown(result: dict[str, Any], records: int) -> Any:
    """`records`: how many a list could hold; what counts is whether filters and pages cut it, not how many there be."""
    if "items" in result:
        first = [[_kind(v) for v in item.values()] for item in result["items"][:1]]
        return ["list", first, result["total"] < records, len(result["items"]) < result["total"]]
    return [_kind(v) for v in result.values()]


def _changed(before: Any, after: Any, args: dict[str, Any]) -> list[Any]:
    """Per table in order of size: records gone, made, and fields that changed, as differences or as arguments."""
    out = []
    given = {json.dumps(v): i for i, v in enumerate(args.values())}
    for entity in before:
        old, new = before[entity], after[entity]
        changes = [
            [i, new[key][f] - old[key][f] if isinstance(new[key][f], int) and isinstance(old[key][f], int)
             else given.get(json.dumps(new[key][f]), _kind(new[key][f]))]
            for key in old if key in new for i, f in enumerate(old[key]) if old[key][f] != new[key][f]
        ]  # fmt: skip
        made = [[_kind(v) for v in r.values()] for key, r in new.items() if key not in old]
        if changes or made or len(old.keys() - new.keys()):
            out.append([len(old.keys() - new.keys()), made, changes])
    return out
