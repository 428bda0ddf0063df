"""What a world is: entities, and tools as lists of claims. Plain frozen data, with a JSON form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from openk2.synth.world import claims as algebra
from openk2.synth.world import tree
from openk2.synth.world.claims import Claim, Effect, Policy
from openk2.synth.world.tree import Entity, Param


@dataclass(frozen=True)
class Tool:
    """What an agent can call. Claims stand in the order in which they are checked and done: guards, effects, output.

    `motif`: the piece of the algebra it is from. `source`: the operation it was read from, or "".
    """

    name: str
    doc: str
    params: tuple[Param, ...]
    claims: tuple[Claim, ...]
    motif: str
    source: str = ""

    @cached_property
    def reads(self) -> bool:
        """Whether it changes nothing (but the clock)."""
        return not any(isinstance(claim, Effect) for claim in self.claims)

    def param(self, name: str) -> Param:
        return next(p for p in self.params if p.name == name)

    def policies(self) -> list[Policy]:
        return [claim for claim in self.claims if isinstance(claim, Policy)]


@dataclass(frozen=True)
class WorldSpec:
    """A whole world: what exists and what can be called. `source`: where its schema is from, with the licence."""

    name: str
    domain: str  # the service or server, in words
    seed: int
    entities: tuple[Entity, ...]
    tools: tuple[Tool, ...]
    source: str = ""

    def entity(self, name: str) -> Entity:
        return next(e for e in self.entities if e.name == name)

    def tool(self, name: str) -> Tool:
        return next(t for t in self.tools if t.name == name)


_NODES: dict[str, type] = {
    c.__name__: c
    for module in (algebra, tree)
    for c in vars(module).values()
    if isinstance(c, type) and dataclasses.is_dataclass(c)
} | {"Tool": Tool, "WorldSpec": WorldSpec}


def to_json(node: Any) -> Any:
    """Plain JSON of a spec, a claim, a program or a condition; fields that have their default are left out."""
    if isinstance(node, tuple | list):
        return [to_json(child) for child in node]
    if not dataclasses.is_dataclass(node):
        return node
    out: dict[str, Any] = {"is": type(node).__name__}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if value != field.default:
            out[field.name] = to_json(value)
    return out


def from_json(data: Any) -> Any:
    """The node of `to_json`. Raises KeyError or TypeError for what is none."""
    if isinstance(data, list):
        return tuple(from_json(child) for child in data)
    if not isinstance(data, dict):
        return data
    return _NODES[data["is"]](**{name: from_json(value) for name, value in data.items() if name != "is"})
