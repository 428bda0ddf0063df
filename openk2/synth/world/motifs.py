"""The operation algebra beyond what an API has: pieces of a world that are sensible for the fields an entity has.

Each motif takes a draft and an entity and adds fields and tools; it returns False where the entity does not fit.
"""

from __future__ import annotations

from collections.abc import Callable

from openk2.synth.world import claims as c
from openk2.synth.world.draft import Draft, id_param
from openk2.synth.world.tree import Field, Param, Type
from openk2.synth.world.verbs import _page

Motif = Callable[[Draft, str], bool]


def _said(entity: str) -> str:
    return entity.replace("_", " ")


def _amount(name: str = "amount", doc: str = "How much.") -> Param:
    return Param(name, Type("int"), doc, True, 1)


def _number(draft: Draft, entity: str, default: str = "units") -> str:
    """A numeric field to count with, made if there is none."""
    numbers = draft.of_kind(entity, "int", "money")
    return draft.rng.choice(numbers).name if numbers else draft.field(entity, Field(default, Type("int"), 20, 200))


def _few(draft: Draft, entity: str, n: int = 3) -> tuple[str, ...]:
    """The first fields of an entity, `n` or up to three more: services differ in how much they show."""
    return tuple(draft.fields[entity])[: n + draft.rng.randint(0, 3)]


def transfer(draft: Draft, entity: str) -> bool:
    field = _number(draft, entity, "balance")
    a, b = id_param(entity, f"from_{entity}_id"), id_param(entity, f"to_{entity}_id")
    claims: list[c.Claim] = [c.Needs(entity, a.name), c.Needs(entity, b.name), c.Different(a.name, b.name)]
    choices = [f for f in draft.of_kind(entity, "choice") if f != draft.state(entity)]
    if choices and draft.chance(0.5):
        claims.append(c.Same(entity, a.name, b.name, draft.rng.choice(choices).name))
    claims += [
        c.Enough(entity, a.name, field, "amount"),
        c.Adds(entity, a.name, field, "amount", -1),
        c.Adds(entity, b.name, field, "amount"),
        c.Shows(entity, b.name, tuple(dict.fromkeys((field, *_few(draft, entity, 2))))),
    ]
    doc = f"Move some {_said(field)} from one {_said(entity)} to another."
    draft.tool(f"transfer_{entity}_{field}", doc, [a, b, _amount()], claims, "transfer")
    return True


def reserve(draft: Draft, entity: str) -> bool:
    """A pool with a held part: reserve, confirm (the pool shrinks), release (the hold ends), expire."""
    field = _number(draft, entity, "capacity")
    held = draft.field(entity, Field(f"held_{field}", Type("int"), start=0, fixed=True))
    states = ("held", "confirmed", "released", "expired")
    booking = draft.entity(f"{entity}_hold"[:40], [
        Field(f"{entity}_id", Type("id", entity)), Field("quantity", Type("int"), 1, 5),
        Field("holder_id", Type("id", "user")), Field("expires_at", Type("time")),
        Field("hold_state", Type("choice", values=states), start="released", fixed=True),
    ])  # fmt: skip
    pool, hold = id_param(entity), id_param(booking)
    until = Param("expires_at", Type("time"), "Until when it is held.")
    draft.tool(
        f"reserve_{entity}", f"Hold some {_said(field)} of a {_said(entity)} for the caller until a time.",
        [pool, _amount("quantity"), until],
        [
            c.Needs(entity, pool.name), c.Ahead("expires_at"), c.Enough(entity, pool.name, field, "quantity", held),
            c.Adds(entity, pool.name, held, "quantity"),
            c.Creates(booking, ((pool.name, pool.name), ("quantity", "quantity"), ("expires_at", "expires_at")),
                      (("hold_state", "held"),), mine="holder_id"),
            c.Shows(booking, "", (pool.name, "quantity", "hold_state")),
        ], "reserve",
    )  # fmt: skip
    for verb, to in (("confirm", "confirmed"), ("release", "released")):
        draft.tool(
            f"{verb}_{booking}", f"{verb.capitalize()} a hold that is still open.", [hold],
            [
                c.Needs(booking, hold.name), c.InState(booking, hold.name, "hold_state", ("held",)),
                *([c.Deadline(booking, hold.name, "expires_at", 0, "HoldExpired")] if verb == "confirm" else []),
                c.Frees(booking, hold.name, entity, pool.name, "quantity", held, field if verb == "confirm" else ""),
                c.Sets(booking, hold.name, (), (("hold_state", to),)),
                c.Shows(booking, hold.name, ("hold_state", "quantity", pool.name)),
            ], verb,
        )  # fmt: skip
    draft.tool(
        f"expire_{booking}s", "Close every open hold whose time is over.", [],
        [c.Expires(booking, "expires_at", "hold_state", ("held",), "expired", entity, pool.name, "quantity", held),
         c.Computes("count", booking, "quantity", (), (("hold_state", "expired"),))], "expire",
    )  # fmt: skip
    by_state: c.Filters = (("hold_state", "hold_state", "=="),)
    draft.tool(
        f"list_{booking}s", "Holds, the largest first.",
        [Param("hold_state", Type("choice", values=states), "Only those in this state.", False)],
        [c.Lists(booking, (pool.name, "quantity", "hold_state"), by_state, "quantity", True)],
        "list",
    )  # fmt: skip
    return True


def schedule(draft: Draft, entity: str) -> bool:
    """Slots in a calendar that must not overlap."""
    slot = draft.entity(f"{entity}_booking"[:40], [
        Field(f"{entity}_id", Type("id", entity)), Field("starts_at", Type("time")), Field("ends_at", Type("time")),
        Field("booked_by", Type("id", "user")),
        Field("booking_state", Type("choice", values=("booked", "cancelled")), start="cancelled", fixed=True),
    ])  # fmt: skip
    place = id_param(entity)
    times = [Param("starts_at", Type("time"), "When it begins."), Param("ends_at", Type("time"), "When it ends.")]
    free = c.FreeSlot(
        slot, place.name, place.name, "starts_at", "starts_at", "ends_at", "ends_at", "booking_state", ("booked",)
    )
    draft.tool(
        f"book_{entity}", f"Book a {_said(entity)} for a time in which it is free.", [place, *times],
        [
            c.Needs(entity, place.name), c.Ahead("starts_at"), c.Ordered("starts_at", "ends_at"), free,
            c.Creates(slot, ((place.name, place.name), ("starts_at", "starts_at"), ("ends_at", "ends_at")),
                      (("booking_state", "booked"),), mine="booked_by"),
            c.Shows(slot, "", (place.name, "starts_at", "ends_at")),
        ], "schedule",
    )  # fmt: skip
    target = id_param(slot)
    draft.tool(
        f"cancel_{slot}", "Give a booked time free again.", [target],
        [
            c.Needs(slot, target.name), c.InState(slot, target.name, "booking_state", ("booked",)),
            *([c.Deadline(slot, target.name, "starts_at", draft.rng.choice((60, 1440)))] if draft.chance(0.6) else []),
            c.Sets(slot, target.name, (), (("booking_state", "cancelled"),)),
            c.Shows(slot, target.name, ("booking_state", "starts_at")),
        ], "cancel",
    )  # fmt: skip
    draft.tool(
        f"list_{slot}s", "Booked times, the earliest first.", [id_param(entity, required=False)],
        [c.Lists(slot, (place.name, "starts_at", "ends_at"), ((place.name, place.name, "=="),), "starts_at",
                 fixed=(("booking_state", "booked"),))], "list",
    )  # fmt: skip
    return True


def aggregate(draft: Draft, entity: str) -> bool:
    number, groups = _number(draft, entity), draft.of_kind(entity, "choice", "id", "flag")
    if not groups:
        return False
    by = draft.rng.choice(groups)
    param = Param(by.name, by.type, "Only those with this value.", False)
    how = draft.rng.choice(("sum", "max", "min", "count"))
    words = {"sum": "The total", "max": "The largest", "min": "The smallest", "count": "The number of records with a"}[
        how
    ]
    draft.tool(
        f"{how}_{entity}_{number}", f"{words} {_said(number)} over {_said(entity)} records.", [param],
        [c.Computes(how, entity, number, ((by.name, by.name, "=="),))], "aggregate",
    )  # fmt: skip
    return True


def rank(draft: Draft, entity: str) -> bool:
    number = _number(draft, entity)
    top, down = draft.rng.randint(2, 5), draft.chance(0.5)
    groups = [f for f in draft.of_kind(entity, "choice") if draft.chance(0.6)][:1]
    params = [Param(f.name, f.type, "Only those with this value.", False) for f in groups]
    filters = tuple((f.name, f.name, "==") for f in groups)
    shown = tuple(dict.fromkeys((*_few(draft, entity, 2), number)))
    word = "most" if down else "least"
    draft.tool(
        f"rank_{entity}_by_{number}", f"The {top} {_said(entity)} records with the {word} {_said(number)}.", params,
        [c.Lists(entity, shown, filters, number, down, top=top)], "rank",
    )  # fmt: skip
    return True


def page(draft: Draft, entity: str) -> bool:
    times = draft.of_kind(entity, "time")
    sort = draft.rng.choice(times).name if times else "id"
    params, filters = _page(), []
    for f in draft.rng.sample(choices := draft.of_kind(entity, "choice", "flag", "id"), min(2, len(choices))):
        params.append(Param(f.name, f.type, "Only those with this value.", False))
        filters.append((f.name, f.name, "=="))
    draft.tool(
        f"browse_{entity}s", f"{_said(entity).capitalize()} records a page at a time.", params,
        [c.Lists(entity, _few(draft, entity, 4), tuple(filters), sort, True, True)], "page",
    )  # fmt: skip
    return True


def bulk(draft: Draft, entity: str) -> bool:
    """One change in every record that points to one and the same, or of a list."""
    flag = next(iter(draft.of_kind(entity, "flag")), None)
    state = draft.state(entity)
    target = flag or state
    if target is None:
        return False
    value = True if flag else draft.rng.choice(target.type.values)
    refs = [f for f in draft.of_kind(entity, "id") if f.type.of != "user"]
    only = (state.name, tuple(sorted(draft.rng.sample(state.type.values, 1)))) if state and flag else ("", ())
    if refs and draft.chance(0.5):
        ref = draft.rng.choice(refs)
        claims: list[c.Claim] = [
            c.Needs(ref.type.of, ref.name),
            c.SetsEach(entity, ((target.name, value),), "", ref.name, ref.name, only[0], only[1]),
        ]
        params, name = [Param(ref.name, ref.type, "Whose records.")], f"set_{target.name}_of_{ref.type.of}_{entity}s"
    else:
        ids = Param(f"{entity}_ids", Type("ids", entity), "Which records.")
        claims = [c.SetsEach(entity, ((target.name, value),), ids.name, "", "", only[0], only[1])]
        params, name = [ids], f"set_{target.name}_of_{entity}s"
    claims.append(c.Computes("count", entity, target.name, (), ((target.name, value),)))
    draft.tool(
        name, f"Set {_said(target.name)} to {value} in many {_said(entity)} records at once.", params, claims, "bulk"
    )
    return True


def merge(draft: Draft, entity: str) -> bool:
    number = _number(draft, entity)
    a, b = id_param(entity, f"target_{entity}_id"), id_param(entity, f"source_{entity}_id")
    refs = [
        (e, f.name)
        for e, fs in draft.fields.items()
        for f in fs.values()
        if f.type == Type("id", entity) and e != entity
    ]
    refs = [r for r in refs if r[0] not in draft.hidden]
    by, by_field = draft.rng.choice(refs) if refs else ("", "")
    claims: list[c.Claim] = [c.Needs(entity, a.name), c.Needs(entity, b.name), c.Different(a.name, b.name)]
    if (state := draft.state(entity)) and draft.chance(0.5):
        claims.append(c.Same(entity, a.name, b.name, state.name))
    claims += [
        c.Absorbs(entity, a.name, b.name, number, by, by_field),
        c.Shows(entity, a.name, (number, *_few(draft, entity, 1))),
    ]
    doc = f"Merge one {_said(entity)} into another: {_said(number)} is added up, the source is gone."
    draft.tool(f"merge_{entity}s", doc, [a, b], claims, "merge")
    return True


def split(draft: Draft, entity: str) -> bool:
    number = _number(draft, entity)
    target = id_param(entity)
    text = next(iter(draft.of_kind(entity, "text")), None)
    args: tuple[tuple[str, str], ...] = ((number, "amount"),)
    params, claims = (
        [target, _amount()],
        [c.Needs(entity, target.name), c.Enough(entity, target.name, number, "amount")],
    )
    if text:
        params.append(Param(text.name, text.type, "Of the new record."))
        claims.append(c.Unique(entity, text.name, text.name))
        args += ((text.name, text.name),)
    kept = tuple(f for f in draft.fields[entity] if f not in dict(args))
    claims += [
        c.Copies(entity, target.name, kept, args),
        c.Adds(entity, target.name, number, "amount", -1),
        c.Shows(entity, "", tuple(dict.fromkeys((number, *_few(draft, entity, 2))))),
    ]
    draft.tool(
        f"split_{entity}", f"Take some {_said(number)} of a {_said(entity)} into a new one.", params, claims, "split"
    )
    return True


def nest(draft: Draft, entity: str) -> bool:
    """A tree: records below records, without a cycle."""
    parent = draft.field(entity, Field("parent_id", Type("id", entity), start=None, fixed=True))
    a, b = id_param(entity), id_param(entity, "parent_id", "Below which record.")
    claims = [
        c.Needs(entity, a.name), c.Needs(entity, b.name), c.NotUnder(entity, a.name, b.name, parent),
        c.Sets(entity, a.name, ((parent, b.name),)), c.Shows(entity, a.name, (parent, *_few(draft, entity, 1))),
    ]  # fmt: skip
    draft.tool(f"move_{entity}_under", f"Put a {_said(entity)} below another.", [a, b], claims, "nest")
    draft.tool(
        f"list_children_of_{entity}", "What lies directly below a record.", [id_param(entity, "parent_id")],
        [c.Needs(entity, "parent_id"), c.Lists(entity, (*_few(draft, entity, 2), parent), ((parent, parent, "=="),))],
        "list",
    )  # fmt: skip
    return True


def ledger(draft: Draft, entity: str) -> bool:
    """Entries that are only ever added; each moves a balance that must not fall below zero nor rise above a limit."""
    field = draft.field(entity, Field("balance", Type("money"), 2_000, 60_000))
    limit = draft.field(entity, Field("balance_limit", Type("money"), start=100_000, fixed=True))
    entry = draft.entity(f"{entity}_entry"[:40], [
        Field(f"{entity}_id", Type("id", entity)), Field("amount", Type("money"), 100, 900),
        Field("kind", Type("choice", values=("charge", "credit"))), Field("posted_by", Type("id", "user")),
        Field("posted_at", Type("time")), Field("memo", Type("text")),
    ])  # fmt: skip
    target = id_param(entity)
    params = [
        target,
        Param("amount", Type("money"), "How much.", True, 1),
        Param("memo", Type("text"), "What for.", False),
    ]
    pairs = ((target.name, target.name), ("amount", "amount"), ("memo", "memo"))
    for verb, sign, guard in (
        ("charge", -1, c.Enough(entity, target.name, field, "amount")),
        ("credit", 1, c.Room(entity, target.name, field, limit, "amount")),
    ):
        draft.tool(
            f"{verb}_{entity}", f"Post a {verb} to a {_said(entity)}.", params,
            [
                c.Needs(entity, target.name), guard,
                c.Adds(entity, target.name, field, "amount", 1 if sign > 0 else -1),
                c.Creates(entry, pairs, (("kind", verb),), "posted_by", "posted_at"),
                c.Shows(entity, target.name, (field, limit)),
            ], "ledger",
        )  # fmt: skip
    draft.tool(
        f"list_{entity}_entries", "What was posted, the latest first.", [target, *_page()],
        [c.Needs(entity, target.name),
         c.Lists(entry, ("amount", "kind", "posted_at"), ((target.name, target.name, "=="),), "posted_at", True, True)],
        "page",
    )  # fmt: skip
    return True


def subscribe(draft: Draft, entity: str) -> bool:
    """Watchers of a record get a notice when one of the other tools changes it."""
    draft.entity("watch", [Field("record", Type("id", entity)), Field("watcher", Type("id", "user"))])
    draft.entity("notice", [
        Field("watcher", Type("id", "user")), Field("record", Type("id", entity)), Field("tool", Type("text")),
        Field("at", Type("time")),
    ])  # fmt: skip
    if draft.fields["watch"]["record"].type != Type("id", entity):
        return False  # another entity is watched already
    target = id_param(entity, "record")
    draft.tool(
        f"watch_{entity}", f"Be told of changes of a {_said(entity)}.", [target],
        [c.Needs(entity, "record"), c.Creates("watch", (("record", "record"),), (), "watcher"),
         c.Shows("watch", "", ("record",))], "subscribe",
    )  # fmt: skip
    draft.tool(
        "list_notices", "What the caller was told, the latest first.", [],
        [c.Lists("notice", ("record", "tool", "at"), (), "at", True, mine="watcher")], "list",
    )  # fmt: skip
    return True


def undo(draft: Draft, entity: str) -> bool:
    draft.tool(
        "undo_last_change", "Take back the last change that the caller made.", [],
        [c.Undoes(), c.Computes("count", entity, "id")], "undo",
    )  # fmt: skip
    return True


def approve(draft: Draft, entity: str) -> bool:
    """Approvals that other tools can ask for (`policies.py`)."""
    draft.entity(
        "approval", [Field("record", Type("id", entity)), Field("by", Type("id", "user")), Field("at", Type("time"))]
    )
    if draft.fields["approval"]["record"].type != Type("id", entity):
        return False
    target = id_param(entity, "record")
    draft.tool(
        f"approve_{entity}", f"Record the caller's approval of a {_said(entity)}.", [target],
        [c.Needs(entity, "record"), c.Creates("approval", (("record", "record"),), (), "by", "at"),
         c.Shows("approval", "", ("record", "by"))], "approve",
    )  # fmt: skip
    draft.tool(
        "list_approvals", "Approvals of a record.", [target],
        [c.Needs(entity, "record"), c.Lists("approval", ("by", "at"), (("record", "record", "=="),), "at")], "list",
    )  # fmt: skip
    return True


def hand_over(draft: Draft, entity: str) -> bool:
    owner = draft.field(entity, Field("owner_id", Type("id", "user")))
    target, new = id_param(entity), id_param("user", "new_owner_id")
    draft.tool(
        f"hand_over_{entity}", f"Give a {_said(entity)} to another owner.", [target, new],
        [c.Needs(entity, target.name), c.Needs("user", new.name), c.Sets(entity, target.name, ((owner, new.name),)),
         c.Shows(entity, target.name, (owner, *_few(draft, entity, 1)))], "hand_over",
    )  # fmt: skip
    draft.tool(
        f"list_my_{entity}s", f"The caller's own {_said(entity)} records.", [],
        [c.Lists(entity, _few(draft, entity, 4), mine=owner)], "list",
    )  # fmt: skip
    return True


MOTIFS: dict[str, Motif] = {
    "transfer": transfer, "reserve": reserve, "schedule": schedule, "aggregate": aggregate, "rank": rank, "page": page,
    "bulk": bulk, "merge": merge, "split": split, "nest": nest, "ledger": ledger, "subscribe": subscribe, "undo": undo,
    "approve": approve, "hand_over": hand_over,
}  # fmt: skip
