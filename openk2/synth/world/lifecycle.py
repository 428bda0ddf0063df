"""Life cycles: what a tool needs a record to be is what another tool makes it.

Read one by one, operations say which state they lead to and not which they start from, so `verbs.py` draws that. Here
the drawn states are changed so that one tool opens the way for another: stop what runs before it can be deleted.
"""

from __future__ import annotations

import dataclasses
import itertools

from openk2.synth.world import claims as c
from openk2.synth.world.draft import Draft, id_param
from openk2.synth.world.spec import Tool
from openk2.synth.world.tree import Field, Param, Type, said

_CYCLES: tuple[tuple[tuple[str, str], ...], ...] = (  # (verb, the stage that it leads to), in order
    (("draft", "draft"), ("submit", "in_review"), ("accept", "accepted"), ("publish", "published")),
    (("open", "open"), ("assign", "assigned"), ("solve", "solved"), ("close", "closed")),
    (("plan", "planned"), ("build", "built"), ("verify", "verified"), ("release", "released"), ("retire", "retired")),
    (("request", "requested"), ("quote", "quoted"), ("order", "ordered"), ("settle", "settled")),
    (("register", "registered"), ("arm", "armed"), ("trigger", "triggered"), ("settle", "settled")),
    (("propose", "proposed"), ("schedule", "scheduled"), ("hold", "held"), ("archive", "archived")),
)


def connect(draft: Draft) -> None:
    """Let guards on the state of a record pass after some other tool, where there is one that changes that state."""
    for name, tool in list(draft.tools.items()):
        for guard in [x for x in tool.claims if isinstance(x, c.InState)]:
            others = [o for o in draft.tools.values() if o.name != name and _leads(o, guard)]
            if others and draft.chance(0.8):
                opened = _opened(draft, guard, draft.rng.choice(others))
                claims = tuple(opened if x is guard else x for x in tool.claims)
                draft.tools[name] = tool = dataclasses.replace(tool, claims=claims)


def _leads(tool: Tool, guard: c.InState) -> str:
    """The state that the tool brings a record of the guard's entity into, or ""."""
    sets = (x for x in tool.claims if isinstance(x, c.Sets) and x.entity == guard.entity)
    return next((str(v) for x in sets for name, v in x.values if name == guard.field), "")


def _opened(draft: Draft, guard: c.InState, by: Tool) -> c.InState:
    """The guard that passes in the state that `by` leads to, and in none that `by` starts from."""
    to = _leads(by, guard)
    own = next((x for x in by.claims if isinstance(x, c.InState) and x.field == guard.field), None)
    values = draft.fields[guard.entity][guard.field].type.values
    closed = own.allowed if own else tuple(v for v in values if v != to)
    return dataclasses.replace(guard, allowed=tuple(sorted({to, *guard.allowed} - set(closed) | {to})))


def lifecycle(draft: Draft, entity: str) -> bool:
    """Stages that a record passes one after the other, each by a tool of its own; some other tools want a stage."""
    cycle = draft.rng.choice(_CYCLES)
    stages = tuple(stage for _, stage in cycle)
    if any(f"{verb}_{entity}" in draft.tools for verb, _ in cycle[1:]):
        return False
    field = draft.field(entity, Field("stage", Type("choice", values=stages)))
    target = id_param(entity)
    notes = [f for f in draft.of_kind(entity, "int", "time", "flag", "text") if not f.fixed]
    for (_, before), (verb, stage) in itertools.pairwise(cycle):
        params, args = [target], []
        for f in draft.rng.sample(notes, min(len(notes), draft.rng.randint(0, 2))):
            params.append(Param(f.name, f.type, "", False, 1 if f.type.kind == "int" else None))
            args.append((f.name, f.name))
        known = list(draft.fields[entity])
        shown = tuple(dict.fromkeys((field, *draft.rng.sample(known, min(len(known), draft.rng.randint(1, 4))))))
        draft.tool(
            f"{verb}_{entity}", f"Bring a {said(entity)} that is {said(before)} to the stage {stage}.", params,
            [
                c.Needs(entity, target.name), c.InState(entity, target.name, field, (before,), "WrongStage"),
                c.Sets(entity, target.name, tuple(args), ((field, stage),)), c.Shows(entity, target.name, shown),
            ], "lifecycle",
        )  # fmt: skip
    for name, tool in list(draft.tools.items()):
        need = next((x for x in tool.claims if isinstance(x, c.Needs)), None)
        gated = any(isinstance(x, c.InState) for x in tool.claims)
        if need and need.entity == entity and not (tool.reads or gated) and draft.chance(0.4):
            guard = c.InState(entity, need.id_arg, field, (draft.rng.choice(stages[1:]),), "WrongStage")
            at = 1 + max(i for i, x in enumerate(tool.claims) if isinstance(x, c.Needs))
            draft.tools[name] = dataclasses.replace(tool, claims=(*tool.claims[:at], guard, *tool.claims[at:]))
    return True
