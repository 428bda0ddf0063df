"""What is in a fresh world: people, records, and a past made by the world's own tools."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from openk2.synth.world.claims import Absorbs, Removes, RemovesEach
from openk2.synth.world.spec import Tool
from openk2.synth.world.state import State
from openk2.synth.world.texts import PEOPLE, text
from openk2.synth.world.tree import Entity, Field, Param

if TYPE_CHECKING:
    from openk2.synth.world.world import World

_PAST = 24  # calls made before the first user comes
_MANY = 10  # entities: each has fewer records then


def populate(world: World, rng: random.Random) -> None:
    """Fill `world.state`: users, then records of each entity after those it refers to, then calls of random users.

    The calls respect every guard, so what must hold (a pool's reserved part is the sum of its reservations) holds.
    """
    state = world.state
    state.now = rng.randint(21, 60) * 1440 + rng.randint(480, 1080)
    entities = [entity for entity in _ordered(world.spec.entities) if not entity.hidden]
    for entity in entities:
        count = rng.randint(4, 6) if entity.name == "user" or len(entities) > _MANY else rng.randint(4, 8)
        people = rng.sample(PEOPLE, count) if entity.name == "user" else []
        for i in range(count):
            values = first_values(entity, state, rng)
            if people:
                roles = entity.field("role").type.values
                values |= {"name": people[i], "role": roles[i % len(roles)]}
            state.insert(entity.name, values)
    state.commit(undoable=False)
    users = list(state.tables["user"])
    changing = [tool for tool in world.spec.tools if not tool.reads and not _ends_users(tool)]
    for _ in range(_PAST if changing else 0):
        world.become(rng.choice(users))
        tool = rng.choice(changing)
        world.call(tool.name, draw_arguments(tool, state, rng))
    world.become(rng.choice(users))
    state.forget()


def _ends_users(tool: Tool) -> bool:
    """Whether it takes people away, of whom somebody may be the caller."""
    return any(isinstance(claim, Removes | RemovesEach | Absorbs) and claim.entity == "user" for claim in tool.claims)


def _ordered(entities: tuple[Entity, ...]) -> list[Entity]:
    """Entities after those their ids refer to (a cycle is cut at its first member)."""
    done: list[Entity] = []
    names = {e.name: e for e in entities}

    def visit(entity: Entity, path: tuple[str, ...]) -> None:
        if entity in done or entity.name in path:
            return
        for field in entity.fields:
            if field.type.of in names:
                visit(names[field.type.of], (*path, entity.name))
        done.append(entity)

    for entity in sorted(entities, key=lambda e: e.name != "user"):
        visit(entity, ())
    return done


def first_values(entity: Entity, state: State, rng: random.Random) -> dict[str, Any]:
    """What a fresh record has; it does not end before it starts, nor was it updated before it was created."""
    values = {f.name: first_value(f, state, rng) for f in entity.fields}
    times = [f.name for f in entity.fields if f.type.kind == "time" and values[f.name] is not None]
    for early in times:
        late = early.replace("start", "end").replace("creat", "updat")
        if late != early and late in times:
            values[early], values[late] = sorted((values[early], values[late]))
    return values


def first_value(field: Field, state: State, rng: random.Random) -> Any:
    """What a fresh record has in `field`."""
    if field.fixed:
        return list(field.start) if isinstance(field.start, list) else field.start
    kind = field.type.kind
    match kind:
        case "text":
            return text(field.name, rng)
        case "int" | "money":
            return rng.randint(field.low, field.high)
        case "time":
            return state.now + rng.randint(-7, 14) * 1440 + rng.randrange(0, 600, 30)
        case "flag":
            return rng.random() < 0.5
        case "choice":
            return rng.choice(field.type.values)
        case "id":
            known = list(state.tables[field.type.of])
            return rng.choice(known) if known else None
        case "texts":
            return _texts(field, rng)
        case "object":
            return _parts(field, state, rng)
        case "objects":
            return [_parts(field, state, rng) for _ in range(rng.randint(1, 3))]
    return rng.sample(known := list(state.tables[field.type.of]), min(len(known), rng.randint(0, 3)))


def _texts(field: Field, rng: random.Random) -> list[str]:
    if field.type.values:
        return sorted(rng.sample(field.type.values, rng.randint(1, min(3, len(field.type.values)))))
    return [text(field.name, rng) for _ in range(rng.randint(1, 3))]


def _parts(field: Field, state: State, rng: random.Random) -> dict[str, Any]:
    """Some of the parts, in their order."""
    some = [part for part in field.type.parts if rng.random() < 0.6] or [rng.choice(field.type.parts)]
    return {part.name: first_value(part, state, rng) for part in some[:4]}


def draw_arguments(tool: Tool, state: State, rng: random.Random, wild: float = 0.0) -> dict[str, Any]:
    """Arguments of the right types, ids of records that exist; `wild`: the chance that one is out of place."""
    out: dict[str, Any] = {}
    for p in tool.params:
        if p.required or rng.random() < 0.5:
            value = draw_value(p, state, rng, wild)
            if value is not None:
                out[p.name] = value
    return out


def draw_value(p: Param, state: State, rng: random.Random, wild: float = 0.0) -> Any:
    kind = p.type.kind
    if kind in ("int", "money"):
        low, high = p.low if p.low is not None else 0, p.high if p.high is not None else 120
        return rng.randint(low, high) if rng.random() < 0.5 else rng.randint(low, max(low, min(high, low + 12)))
    if kind in ("id", "ids"):
        known = list(state.tables.get(p.type.of, {}))
        if not known or rng.random() < wild:
            known = ["none-000000"]
        return rng.choice(known) if kind == "id" else rng.sample(known, rng.randint(1, min(3, len(known))))
    field = Field(p.name, p.type)
    return first_value(field, state, rng)
