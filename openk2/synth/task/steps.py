"""Calls that make others possible: they bring a record into the state that a guard wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from openk2.synth.task.facts import once, plannable
from openk2.synth.world import claims as c
from openk2.synth.world.spec import Tool, WorldSpec


@dataclass(frozen=True)
class Step:
    """A tool that, with these arguments, brings a record from one of `sources` to `value`."""

    tool: Tool
    id_arg: str
    sources: tuple[str, ...]
    value: str
    args: dict[str, Any]


@once
def steps(spec: WorldSpec, name: str, wanted: c.InState) -> tuple[Step, ...]:
    """Steps to what the tool `name` wants; none where several would do, and the end would tell which was taken."""
    tool, values = spec.tool(name), spec.entity(wanted.entity).field(wanted.field).type.values
    found = [step for other in plannable(spec) if other is not tool for step in _steps_of(other, wanted, values)]
    over = any(
        isinstance(x, c.Removes) or (isinstance(x, c.Sets) and wanted.field in dict(x.values)) for x in tool.claims
    )
    return tuple(found) if over or len({step.value for step in found}) == 1 else ()


@once
def deep(spec: WorldSpec) -> frozenset[str]:
    """Tools that another one can make possible."""
    return frozenset(
        t.name for t in plannable(spec) if any(isinstance(x, c.InState) and steps(spec, t.name, x) for x in t.claims)
    )


def _steps_of(tool: Tool, wanted: c.InState, values: tuple[str, ...]) -> Iterator[Step]:
    sets = next((x for x in tool.claims if isinstance(x, c.Sets) and x.entity == wanted.entity), None)
    if sets is None:
        return
    own = next((x for x in tool.claims if isinstance(x, c.InState) and x.field == wanted.field), None)
    sources = tuple(v for v in (own.allowed if own else values) if v not in wanted.allowed)
    arg = next((arg for name, arg in sets.args if name == wanted.field), "")
    known = {sets.id_arg, arg, *(x.arg for x in tool.claims if isinstance(x, c.Version))}
    if any(p.required and p.name not in known for p in tool.params):
        return  # nobody has said what else it should be
    fixed = dict(sets.values).get(wanted.field)
    for value in wanted.allowed if sources else ():
        if value == fixed:
            yield Step(tool, sets.id_arg, sources, value, {})
        elif arg and value in tool.param(arg).type.values:
            yield Step(tool, sets.id_arg, sources, value, {arg: value})
