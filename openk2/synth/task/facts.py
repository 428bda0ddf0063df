"""What is read off a world's spec again and again, read once."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from openk2.chat.messages import ToolSpec
from openk2.synth.world import claims as c
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.texts import text
from openk2.synth.world.world import schema

PAGE = 50  # records of one answer that a list gives at most
_LABEL = re.compile(r"^[a-z]+-[a-z]+-\d+$|@|://")  # what a record can be called: a name, an address
_MOST = 20_000  # facts kept
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def once(function: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """The function, its results kept by the identity of the first argument (specs are big to hash) and the others."""
    kept: dict[Any, tuple[T, R]] = {}

    @wraps(function)
    def looked_up(about: T, *args: P.args, **named: P.kwargs) -> R:
        key = (id(about), *args)
        found = kept.get(key)
        if found is None or found[0] is not about:
            if len(kept) >= _MOST:
                kept.clear()
            found = kept[key] = (about, function(about, *args, **named))
        return found[1]

    return looked_up


@once
def tool_spec(tool: Tool) -> ToolSpec:
    """The tool as a model is told of it."""
    return ToolSpec(tool.name, tool.doc, schema(tool))


@once
def wire(spec: ToolSpec) -> dict[str, Any]:
    """The tool as a record has it: one object for all records, not to be changed."""
    return spec.to_wire()


@once
def wire_text(tool: dict[str, Any]) -> str:
    """The same as JSON: a record's tools are half of its text."""
    return json.dumps(tool, ensure_ascii=False, separators=(",", ":"))


@once
def label_of(spec: WorldSpec, entity: str) -> str | None:
    """The field by which a person calls a record of the entity: a name or the like, no sentence."""
    texts = [f.name for f in spec.entity(entity).fields if f.type.kind == "text"]
    texts = [name for name in texts if _LABEL.search(text(name, random.Random(0)))]
    named = [name for name in texts if name.endswith("name") or name in ("title", "subject", "label")]
    return (named or texts or [None])[0]


@once
def finder(spec: WorldSpec, entity: str, few: bool) -> Tool | None:
    """A tool that lists all records of an entity with their labels, and needs no argument to be known.

    `few`: there are no more than PAGE; else it must list them page by page.
    """
    label = label_of(spec, entity)
    found: tuple[int, Tool] | None = None
    for tool in spec.tools:
        shown = tool.claims[-1]
        if len(tool.claims) > 1 or not isinstance(shown, c.Lists) or shown.entity != entity:
            continue
        plain = not shown.mine and not shown.fixed and shown.top >= PAGE and not any(p.required for p in tool.params)
        tells = (label is None or label in shown.fields) and (shown.paged or few)
        if plain and tells and (found is None or len(shown.fields) > found[0]):
            found = len(shown.fields), tool
    return found[1] if found else None


@once
def getter(spec: WorldSpec, entity: str) -> Tool | None:
    """A tool that shows one record and wants its id only, whatever the record."""
    for tool in spec.tools:
        match tool.claims:
            case (c.Needs(named, id_arg), c.Shows(shown, of)) if named == shown == entity and id_arg == of:
                return tool
    return None


@dataclass(frozen=True)
class Trace:
    """What shows whether a call took effect: `reader` shows the record (or lists all), in which the fields of `args`
    are the arguments that were given, and those of `values` these constants.
    """

    reader: Tool
    args: tuple[tuple[str, str], ...]
    values: tuple[tuple[str, Any], ...] = ()


@once
def trace_of(spec: WorldSpec, name: str) -> Trace | None:
    """How to find out whether a call of the tool took effect when its answer was lost; None where nothing tells."""
    tool = spec.tool(name)
    match [x for x in tool.claims if isinstance(x, c.Effect)]:
        case [c.Sets(entity, _, args, values) as sets] if (reader := getter(spec, entity)) and not sets.mine:
            shown = reader.claims[-1]
            fields = {field for field, _ in (*args, *values)}
            return Trace(reader, args, values) if isinstance(shown, c.Shows) and fields <= set(shown.fields) else None
        case [c.Creates(entity, args)] if reader := finder(spec, entity, False):
            label = label_of(spec, entity)
            named = tuple(pair for pair in args if pair[0] == label and tool.param(pair[1]).required)
            return Trace(reader, named) if named else None
    return None


@once
def readable(spec: WorldSpec) -> bool:
    """Whether anything can be looked up in this world."""
    return any(finder(spec, e.name, True) or getter(spec, e.name) for e in spec.entities if e.name != "user")


@once
def version_reader(spec: WorldSpec, claim: c.Version) -> Tool | None:
    """A tool that shows the version of one record and wants nothing but its id."""
    for tool in spec.tools:
        shown, needs = tool.claims[-1], [x for x in tool.claims if isinstance(x, c.Needs)]
        shows = isinstance(shown, c.Shows) and shown.entity == claim.entity and claim.field in shown.fields
        if tool.reads and shows and len(needs) == 1 and sum(p.required for p in tool.params) == 1:
            return tool
    return None


@once
def counters(spec: WorldSpec) -> frozenset[tuple[str, str]]:
    """Fields (entity, name) that count changes: they depend on the way, not on the end."""
    return frozenset((x.entity, x.field) for tool in spec.tools for x in tool.claims if isinstance(x, c.Version))


@once
def plannable(spec: WorldSpec) -> tuple[Tool, ...]:
    """Tools that a user may want: they change something, and what they expect to have been read can be read."""
    return tuple(
        tool for tool in spec.tools
        if not tool.reads and tool.motif not in ("undo", "expire", "approve")
        and all(version_reader(spec, x) for x in tool.claims if isinstance(x, c.Version))
    )  # fmt: skip
