"""Rules of a house over its tools: who may, when, how often, how much. Each is a guard and a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from openk2.synth.world import claims as c
from openk2.synth.world.draft import Draft
from openk2.synth.world.spec import Tool
from openk2.synth.world.tree import Field, Param, Type

Overlay = Callable[[Draft, Tool], Tool | None]


def _target(tool: Tool) -> c.Needs | None:
    """The first record that the tool needs: the one that rules are about."""
    return next((claim for claim in tool.claims if isinstance(claim, c.Needs) and claim.entity != "user"), None)


def _with(tool: Tool, *guards: c.Guard, first: bool = False, params: tuple[Param, ...] = ()) -> Tool:
    """The tool with guards before all others (`first`), or after its records were found."""
    claims = list(tool.claims)
    at = 0 if first else 1 + max(i for i, claim in enumerate(claims) if isinstance(claim, c.Needs))
    claims[at:at] = guards
    return dataclasses.replace(tool, claims=tuple(claims), params=(*tool.params, *params))


def owner(draft: Draft, tool: Tool) -> Tool | None:
    target = _target(tool)
    if target is None:
        return None
    people = [f for f in draft.of_kind(target.entity, "id") if f.type.of == "user"]
    name = people[0].name if people else draft.field(target.entity, Field("owner_id", Type("id", "user")))
    return _with(tool, c.Owner(target.entity, target.id_arg, name, draft.roles[-1] if draft.chance(0.6) else ""))


def role(draft: Draft, tool: Tool) -> Tool | None:
    allowed = draft.roles[draft.rng.randint(1, len(draft.roles) - 1) :]
    if any(isinstance(claim, c.Owner) and (claim.or_role,) == allowed for claim in tool.claims):
        return None  # whoever may call at all would be free of the owner's rule
    return _with(tool, c.Role(allowed), first=True)


def hours(draft: Draft, tool: Tool) -> Tool | None:
    start = draft.rng.randint(5, 9)
    return _with(tool, c.Hours(start, start + draft.rng.randint(9, 13)), first=True)


def deadline(draft: Draft, tool: Tool) -> Tool | None:
    target = _target(tool)
    times = [f for f in draft.of_kind(target.entity, "time") if not f.fixed] if target else []
    if target is None or not times or any(isinstance(claim, c.Deadline) for claim in tool.claims):
        return None
    minutes = draft.rng.choice((-43200, -20160, -10080, -1440, 60))
    return _with(tool, c.Deadline(target.entity, target.id_arg, draft.rng.choice(times).name, minutes))


def ceiling(draft: Draft, tool: Tool) -> Tool | None:
    numbers = [
        p for p in tool.params if p.type.kind in ("int", "money") and p.required and p.name != "expected_version"
    ]
    if not numbers:
        return None
    return _with(tool, c.Ceiling(numbers[0].name, draft.rng.choice((5, 8, 10, 20)), draft.roles[-1:]), first=True)


def approval(draft: Draft, tool: Tool) -> Tool | None:
    """Two others must approve; only where the world can record approvals of this entity."""
    target = _target(tool)
    known = draft.fields.get("approval")
    if target is None or known is None or known["record"].type.of != target.entity or tool.motif == "approve":
        return None
    return _with(tool, c.Approved(target.entity, target.id_arg, draft.rng.randint(1, 2)))


def rate(draft: Draft, tool: Tool) -> Tool | None:
    draft.entity(
        "call", [Field("tool", Type("text")), Field("by", Type("id", "user")), Field("at", Type("time"))], True
    )
    return _with(tool, c.Rate(tool.name, draft.rng.randint(2, 4), draft.rng.choice((30, 60, 120))), first=True)


def version(draft: Draft, tool: Tool) -> Tool | None:
    target = _target(tool)
    changed = [x for x in tool.claims if isinstance(x, c.Sets)]
    if target is None or not changed or changed[0].entity != target.entity:
        return None
    if not any(t.motif == "get" and t.claims[-1].entity == target.entity for t in draft.tools.values()):  # pyright: ignore
        return None  # nobody could read it
    field = draft.field(target.entity, Field("version", Type("int"), start=1, fixed=True))
    param = Param("expected_version", Type("int"), "The version that was read before.")
    return _with(tool, c.Version(target.entity, target.id_arg, field, param.name), params=(param,))


def idempotency(draft: Draft, tool: Tool) -> Tool | None:
    if not any(isinstance(claim, c.Creates | c.Adds) for claim in tool.claims):
        return None
    key = Param("idempotency_key", Type("text"), "A call repeated with the same key takes effect once.", False)
    return _with(tool, c.Idempotent(key.name), first=True, params=(key,))


def soft_delete(draft: Draft, tool: Tool) -> Tool | None:
    """A delete that only marks; `alive` then guards the other tools of the entity (`build.py`)."""
    removes = next((claim for claim in tool.claims if isinstance(claim, c.Removes)), None)
    if removes is None:
        return None
    field = draft.field(removes.entity, Field("deleted_at", Type("time"), start=None, fixed=True))
    marked = c.Sets(removes.entity, removes.id_arg, stamp=field)
    return dataclasses.replace(
        tool, claims=tuple(marked if x is removes else x for x in tool.claims), motif="soft_delete"
    )


def alive(draft: Draft, tool: Tool) -> Tool:
    """Guard every record that the tool needs against being softly deleted."""
    for need in [x for x in tool.claims if isinstance(x, c.Needs) and "deleted_at" in draft.fields[x.entity]]:
        claims = list(tool.claims)
        claims.insert(claims.index(need) + 1, c.Alive(need.entity, need.id_arg, "deleted_at", need.error))
        tool = dataclasses.replace(tool, claims=tuple(claims))
    return tool


def visible(draft: Draft, tool: Tool) -> Tool:
    """What rules look at can be read: `get` shows the owner and the version of a record."""
    shown = tool.claims[-1]
    if tool.motif != "get" or not isinstance(shown, c.Shows):
        return tool
    more = [f for f in ("owner_id", "version") if f in draft.fields[shown.entity] and f not in shown.fields]
    return dataclasses.replace(
        tool, claims=(*tool.claims[:-1], dataclasses.replace(shown, fields=(*shown.fields, *more)))
    )


def notice(draft: Draft, tool: Tool) -> Tool | None:
    """Watchers of the record are told."""
    target, known = _target(tool), draft.fields.get("watch")
    if target is None or known is None or known["record"].type.of != target.entity or tool.motif == "subscribe":
        return None
    told = c.Notifies(target.entity, target.id_arg, tool.name)
    return dataclasses.replace(tool, claims=(*tool.claims[:-1], told, tool.claims[-1]))


OVERLAYS: dict[str, tuple[Overlay, float]] = {  # with the chance that a tool that changes something gets it
    "soft_delete": (soft_delete, 0.4), "owner": (owner, 0.3), "approval": (approval, 0.5), "deadline": (deadline, 0.15),
    "version": (version, 0.2), "role": (role, 0.18), "hours": (hours, 0.08), "ceiling": (ceiling, 0.25),
    "rate": (rate, 0.1), "idempotency": (idempotency, 0.2), "notice": (notice, 0.7),
}  # fmt: skip
