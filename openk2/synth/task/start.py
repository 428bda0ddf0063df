"""The state in which a task starts, written as what is different from one of the world's first states."""

from __future__ import annotations

import copy
from typing import Any

from openk2.synth.world.state import State
from openk2.synth.world.world import World


def packed(world: World, start: State, first: int) -> dict[str, Any]:
    """JSON of a state that was made from the world's first state of the seed `first`; `world` is left as it is."""
    mine, theirs = start.to_json(), _first(world, first).to_json()
    tables = {}
    for entity, table in mine["tables"].items():
        old = theirs["tables"][entity]
        changed = {key: record for key, record in table.items() if key not in old or old[key] != record}
        changed |= {key: None for key in old if key not in table}
        if changed:
            tables[entity] = changed
    return {"first": first, "tables": tables} | {name: mine[name] for name in ("now", "me", "made")}


def unpacked(world: World, data: dict[str, Any]) -> State:
    """The state of `packed`; `world` is left as it is. Raises KeyError or TypeError for what is none."""
    full = _first(world, data["first"]).to_json()
    tables = dict(full["tables"])
    for entity, changed in data["tables"].items():
        both = tables[entity] | changed
        tables[entity] = {key: record for key, record in both.items() if record is not None}
    return State.from_json(world.spec, full | {name: data[name] for name in ("now", "me", "made")} | {"tables": tables})


def _first(world: World, first: int) -> State:
    twin = copy.copy(world)
    twin.reset(first)
    return twin.state
