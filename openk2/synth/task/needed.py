"""Is every call of a plan needed? Leaving it out must lead to another end. Shown without running the plan n times.

A call left out, its wish is run without it from the state before; where a record differs then that no later call can
write, or a table has fewer records that no later call removes from, the end differs whatever comes after. Only where
that does not decide is the rest run, too. So n calls cost about n calls, not n * n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openk2.synth.task.facts import counters
from openk2.synth.task.plan import Call, Plan, refresh
from openk2.synth.task.rubric import Check, Evidence, reached, state_checks
from openk2.synth.world import claims as c
from openk2.synth.world.spec import Tool
from openk2.synth.world.state import State
from openk2.synth.world.world import World

_ALL = "*"


def idle_goals(world: World, plan: Plan) -> list[int]:
    """Numbers of the goals that have a call which is not needed; the world is left in the plan's end."""
    calls = plan.calls
    last = _last_writes(world, plan)
    goal: list[Check] | None = None
    out, at = [], 0
    for number, group in enumerate(plan.goals):
        end = at + len(group.changing)
        after = plan.states[end] if end < len(calls) else plan.end
        for i in range(at, end):
            world.restore(plan.states[i])
            _run(world, calls[i + 1 : end])
            if _differs(world, plan, after, end - 1, last):
                continue
            _run(world, calls[end:])
            goal = goal or state_checks(world.spec, plan.start, plan.end, given(plan))
            if reached(goal, Evidence(world.spec, plan.start, world.state, [])):
                out.append(number)
                break
        at = end
    world.restore(plan.end)
    return out


def given(plan: Plan) -> set[Any]:
    """Values that calls of the plan give: no stamps of the clock."""
    return {v for call in plan.calls for v in call.args.values() if isinstance(v, int)}


def _run(world: World, calls: list[Call]) -> None:
    for call in calls:
        other = Call(call.tool, dict(call.args))
        refresh(world, other)
        world.call(other.tool, other.args)


def _differs(world: World, plan: Plan, after: State, at: int, last: dict[tuple[str, str], int]) -> bool:
    """Whether the world, against the plan's state after call `at`, has a difference that no later call can end."""
    skip = counters(world.spec)
    late = last.get((_ALL, _ALL), -1) > at
    for entity in world.spec.entities:
        name = entity.name
        mine, theirs = world.state.tables[name], after.tables[name]
        if entity.hidden or late or mine is theirs:
            continue
        removals = last.get((name, "-"), -1) > at
        if len(mine) != len(theirs) and not removals:
            return True
        if last.get((name, _ALL), -1) > at:
            continue
        stamps = {f.name for f in entity.fields if f.type.kind == "time"}
        old = plan.start.tables[name]
        for key, record in theirs.items():
            other = mine.get(key)
            if other is None or other is record or other == record or last.get((name, key), -1) > at:
                continue
            if removals and key not in old:
                continue
            if any(record[f] != other[f] for f in record if f not in stamps and (name, f) not in skip):
                return True
    return False


def _last_writes(world: World, plan: Plan) -> dict[tuple[str, str], int]:
    """The last call that may write (entity, key), any record of (entity, "*"), or remove a record from (entity, "-")
    that was not there at the start (one that was is gone at the end, too, or the end differs).
    """
    calls = enumerate(plan.calls)
    return {cell: i for i, call in calls for cell in _writes(world.tools[call.tool], call.args, plan.start)}


def _writes(tool: Tool, args: dict[str, Any], start: State) -> Iterator[tuple[str, str]]:
    for claim in tool.claims:
        match claim:
            case c.Sets(entity, id_arg) | c.Adds(entity, id_arg):
                yield entity, args[id_arg]
            case c.Removes(entity, id_arg):
                yield from _removed(entity, [args[id_arg]], start)
            case c.RemovesEach(entity, ids_arg):
                yield from _removed(entity, args[ids_arg], start)
            case c.Absorbs(entity, id_arg, other, _, by):
                yield entity, args[id_arg]
                yield from _removed(entity, [args[other]], start)
                if by:
                    yield by, _ALL
            case c.SetsEach(entity, _, ids_arg) if ids_arg:
                yield from ((entity, key) for key in args[ids_arg])
            case c.SetsEach(entity):
                yield entity, _ALL
            case c.Frees(_, _, pool):
                yield pool, _ALL
            case c.Expires(entity) as expires:
                yield from ((entity, _ALL), (expires.pool, _ALL))
            case c.Unlinks(link):
                yield from ((link, _ALL), (link, "-"))
            case c.Notifies():
                yield from (("notice", _ALL), ("notice", "-"))
            case c.Undoes():
                yield _ALL, _ALL


def _removed(entity: str, keys: list[str], start: State) -> Iterator[tuple[str, str]]:
    yield from ((entity, key) for key in keys)
    if any(key not in start.tables[entity] for key in keys):
        yield entity, "-"
