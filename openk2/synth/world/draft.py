"""A world in the making: entities that grow as tools need fields, and tools under unique names."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from openk2.synth.world.claims import Claim
from openk2.synth.world.spec import Tool
from openk2.synth.world.tree import Entity, Field, Param, Type, said

LONGEST_NAME = 60


@dataclass
class Draft:
    """What motifs and verbs add to. `roles`: from the least to the most powerful."""

    rng: random.Random
    roles: tuple[str, ...]
    fields: dict[str, dict[str, Field]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    tools: dict[str, Tool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fields["user"] = {
            "name": Field("name", Type("text")), "role": Field("role", Type("choice", values=self.roles)),
        }  # fmt: skip

    def entity(self, name: str, fields: Sequence[Field] = (), hidden: bool = False) -> str:
        """Add an entity, or fields to one; what is there already stays as it is."""
        known = self.fields.setdefault(name, {})
        for f in fields:
            known.setdefault(f.name, f)
        if hidden:
            self.hidden.add(name)
        return name

    def field(self, entity: str, f: Field) -> str:
        """Add a field; returns its name (one that is there under this name must have the same type)."""
        present = self.fields[entity].setdefault(f.name, f)
        if present.type != f.type:
            return self.field(entity, Field(f"{f.name}_2", f.type, f.low, f.high, f.start, f.fixed))
        return f.name

    def of_kind(self, entity: str, *kinds: str) -> list[Field]:
        return [f for f in self.fields[entity].values() if f.type.kind in kinds]

    def state(self, entity: str) -> Field | None:
        """The field whose choices are the states of a life cycle."""
        choices = self.of_kind(entity, "choice")
        named = [f for f in choices if re.search(r"(status|state|lifecycle|stage|phase)(_2)*$", f.name)]
        return named[0] if named else None

    def tool(
        self, name: str, doc: str, params: Sequence[Param], claims: Sequence[Claim], motif: str, source: str = ""
    ) -> None:
        """Add a tool, unless there is one of this name."""
        name = name[:LONGEST_NAME].rstrip("_")
        unique: dict[str, Param] = {}
        for p in params:
            unique.setdefault(p.name, p)
        if name.isidentifier() and name not in self.tools:
            ordered = sorted(unique.values(), key=lambda p: not p.required)
            self.tools[name] = Tool(name, doc, tuple(ordered), tuple(claims), motif, source)

    def entities(self) -> tuple[Entity, ...]:
        return tuple(Entity(name, tuple(f.values()), name in self.hidden) for name, f in self.fields.items())

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


def id_param(entity: str, name: str = "", doc: str = "", required: bool = True) -> Param:
    return Param(name or f"{entity}_id", Type("id", entity), doc or f"The id of the {said(entity)}.", required)
