"""Tasks planned backwards from what is to be: a tool that reaches a goal, before it the tools that make it possible.

A plan is found in a state that is made for it, and is kept only if its execution reaches the goal and every step is
needed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from openk2.synth.world import claims as c
from openk2.synth.world.arrange import Situation, holds
from openk2.synth.world.laws import situation
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.state import Record, State
from openk2.synth.world.world import Result, World

_TRIES = 12
SLACK = 400  # minutes for which what is possible stays possible


@dataclass
class Call:
    """One call of a plan. `wanted`: the user asks for it (else it is what makes a wanted one possible)."""

    tool: str
    args: dict[str, Any]
    wanted: bool
    why: str = ""  # of a call that is not wanted: the guard it satisfies, in words


@dataclass
class Plan:
    """Calls from `start` on, in order, all of which succeed; `end` is the state after them."""

    start: State
    calls: list[Call]
    end: State
    results: list[Result] = field(default_factory=list)


def label_of(spec: WorldSpec, entity: str) -> str | None:
    """The field by which a person calls a record of the entity."""
    texts = [f.name for f in spec.entity(entity).fields if f.type.kind == "text"]
    named = [name for name in texts if name.endswith("name") or name in ("title", "subject", "label")]
    return (named or texts or [None])[0]


def make_plan(world: World, rng: random.Random, goals: int, depth: int) -> Plan | None:
    """A plan with up to `goals` wanted calls, each made possible by up to `depth` calls before it; None if none is.

    The world's state is left as it was.
    """
    before = world.snapshot()
    try:
        state = before.copy()
        calls: list[Call] = []
        tools = [
            tool for tool in world.spec.tools if not tool.reads and tool.motif not in ("undo", "expire", "approve")
        ]
        for _ in range(goals * 2):
            made = _goal(world, rng, rng.choice(tools), state, depth) if tools else None
            if made is not None:
                state, more = made
                calls += more
            if sum(call.wanted for call in calls) >= goals:
                break
        return _executed(world, state, calls) if calls else None
    finally:
        world.restore(before)


def _goal(world: World, rng: random.Random, tool: Tool, state: State, depth: int) -> tuple[State, list[Call]] | None:
    """(the state made for it, the calls) of one wanted call, by the same caller as before."""
    for _ in range(_TRIES):
        s = situation(world, tool, state, rng, slack=SLACK)
        if s is None:
            return None
        if s.state.me != state.me or s.state.now != state.now:
            continue  # another caller, another time: not for the goals there are already
        args = {name: value for name, value in s.args.items() if tool.param(name).required or rng.random() < 0.6}
        if not _labelled(world.spec, tool, s, rng):
            continue
        calls = [Call(tool.name, args, True)]
        for _ in range(depth):
            earlier = _before(world, rng, s, calls[0])
            if earlier is None:
                break
            calls.insert(0, earlier)
        return s.state, calls
    return None


def _labelled(spec: WorldSpec, tool: Tool, s: Situation, rng: random.Random) -> bool:
    """Whether a person can say which records are meant: every label is one of a kind."""
    for claim in tool.claims:
        if not isinstance(claim, c.Needs):
            continue
        label, record = label_of(spec, claim.entity), s.record(claim.entity, claim.id_arg)
        if record is None or (label and sum(r[label] == record[label] for r in s.table(claim.entity).values()) != 1):
            return False
    return True


def _before(world: World, rng: random.Random, s: Situation, call: Call) -> Call | None:
    """A call that makes `call` possible, after the state was changed so that it is needed."""
    tool = world.tools[call.tool]
    states = [claim for claim in tool.claims if isinstance(claim, c.InState)]
    for claim in rng.sample(states, len(states)):
        record = s.table(claim.entity)[call.args[claim.id_arg]]
        for other in rng.sample(world.spec.tools, len(world.spec.tools)):
            made = _reaches(other, claim, record)
            if made is None:
                continue
            now, id_arg = made
            changed = s.put(claim.entity, record, **{claim.field: now})
            args = {id_arg: record["id"]}
            extra = _arguments(world, other, s, args, rng)
            if extra is not None:
                return Call(other.name, extra, False, f"{claim.field}={now}")
            s.put(claim.entity, changed, **{claim.field: record[claim.field]})
    return None


def _reaches(tool: Tool, wanted: c.InState, record: Record) -> tuple[str, str] | None:
    """(a state from which the tool brings a record into a wanted state, its id argument), or None."""
    sets = next((x for x in tool.claims if isinstance(x, c.Sets) and x.entity == wanted.entity), None)
    if sets is None or dict(sets.values).get(wanted.field) not in wanted.allowed:
        return None
    own = next((x for x in tool.claims if isinstance(x, c.InState) and x.field == wanted.field), None)
    sources = [v for v in own.allowed if v not in wanted.allowed] if own else []
    return (sources[0], sets.id_arg) if sources else None


def _arguments(
    world: World, tool: Tool, s: Situation, args: dict[str, Any], rng: random.Random
) -> dict[str, Any] | None:
    """All arguments of a call that passes now, or None."""
    twin = Situation(world.spec, tool, s.state, rng)
    twin.args = {p.name: twin.args[p.name] for p in tool.params if p.required and p.name in twin.args} | args
    for claim in tool.claims:
        if isinstance(claim, c.Version | c.Matches) and (record := twin.record(claim.entity, claim.id_arg)) is not None:
            twin.args[claim.arg] = record[claim.field]
    guards = [claim for claim in tool.claims if isinstance(claim, c.Guard)]
    return twin.args if all(holds(claim, twin) for claim in guards) else None


def _executed(world: World, start: State, calls: list[Call]) -> Plan | None:
    """The plan of those goals that can be reached one after the other; None where none is, or a step is idle."""
    start.forget()
    world.restore(start)
    kept: list[Call] = []
    results: list[Result] = []
    for group in _groups(calls):
        point = world.snapshot()
        outcome = []
        for call in group:
            _refresh(world, call)
            outcome.append(world.call(call.tool, call.args))
        if any("error" in result for result in outcome) or world.state.tables == point.tables:
            world.restore(point)
            continue
        kept += group
        results += outcome
    plan = Plan(start, kept, world.snapshot(), results)
    return plan if kept and necessary(world, plan) else None


def _refresh(world: World, call: Call) -> None:
    """The version that a call expects is the one there is when its turn comes."""
    for claim in world.tools[call.tool].claims:
        if isinstance(claim, c.Version):
            record = world.state.tables[claim.entity].get(call.args.get(claim.id_arg, ""))
            if record is not None:
                call.args[claim.arg] = record[claim.field]


def _groups(calls: list[Call]) -> Iterator[list[Call]]:
    group: list[Call] = []
    for call in calls:
        group.append(call)
        if call.wanted:
            yield group
            group = []


def necessary(world: World, plan: Plan) -> bool:
    """Whether leaving out any one call leads to another end."""
    goal = outcome(plan.start, plan.end)
    for i in range(len(plan.calls)):
        world.restore(plan.start)
        for call in plan.calls[:i] + plan.calls[i + 1 :]:
            world.call(call.tool, call.args)
        if outcome(plan.start, world.state) == goal:
            return False
    world.restore(plan.end)
    return True


def outcome(start: State, end: State) -> str:
    """What is different at the end, ids of new records and times of day left out: equal for all ways to one goal."""
    hidden = {"call"}
    out: dict[str, Any] = {}
    for entity, table in end.tables.items():
        if entity in hidden or table is start.tables[entity]:
            continue
        old = start.tables[entity]
        during = range(start.now + 1, end.now + 1)
        changed = {k: _timeless(r, during) for k, r in table.items() if k in old and r is not old[k] and r != old[k]}
        made = sorted(
            json.dumps(_timeless({**r, "id": ""}, during), sort_keys=True) for k, r in table.items() if k not in old
        )
        gone = sorted(old.keys() - table.keys())
        if changed or made or gone:
            out[entity] = [changed, made, gone]
    return json.dumps(out, sort_keys=True)


def _timeless(record: Record, during: range) -> Record:
    """Stamps of the clock depend on how many calls were made before; a version on how often the record was changed."""
    return {k: "now" if isinstance(v, int) and v in during else v for k, v in record.items() if k != "version"}
