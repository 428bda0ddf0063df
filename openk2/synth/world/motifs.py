"""The operation algebra beyond what an API has: pieces of a world that are sensible for the fields an entity has.

Each motif takes a draft and an entity and adds fields and tools; it returns False where the entity does not fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from openk2.synth.world import claims as c
from openk2.synth.world.draft import Draft, id_param
from openk2.synth.world.filters import narrow, order, page_params
from openk2.synth.world.tree import Field, Param, Type, said

Motif = Callable[[Draft, str], bool]


def _amount(name: str = "amount", doc: str = "How much.") -> Param:
    return Param(name, Type("int"), doc, True, 1)


def _number(draft: Draft, entity: str, default: str = "units") -> str:
    """A numeric field to count with, made if there is none."""
    numbers = draft.of_kind(entity, "int", "money")
    return draft.rng.choice(numbers).name if numbers else draft.field(entity, Field(default, Type("int"), 20, 200))


def _few(draft: Draft, entity: str, n: int = 3) -> tuple[str, ...]:
    """The first field of an entity and some others, `n` or up to three more: services differ in what they show."""
    first, *others = draft.fields[entity]
    some = draft.rng.sample(others, min(len(others), max(0, n - 1) + draft.rng.randint(0, 3)))
    return (first, *sorted(some, key=others.index))


_PERSON = (Field("name", Type("text")), Field("phone", Type("text")), Field("email", Type("text")))
_PRIORITY = Field("priority", Type("choice", values=("low", "normal", "high")))
_MORE: dict[str, tuple[Field, ...]] = {  # what a record of a motif may have besides
    "booking": (
        Field("title", Type("text")), Field("purpose", Type("choice", values=("meeting", "repair", "visit"))),
        Field("participants", Type("int"), 1, 40), Field("reminder", Type("flag")), Field("notes", Type("text")),
        Field("equipment", Type("texts")), Field("contact", Type("object", parts=_PERSON)), _PRIORITY,
    ),
    "hold": (
        Field("reference", Type("text")), Field("channel", Type("choice", values=("web", "phone", "desk"))),
        Field("party_size", Type("int"), 1, 12), Field("firm", Type("flag")), Field("note", Type("text")),
        Field("contact", Type("object", parts=_PERSON)), Field("labels", Type("texts")), _PRIORITY,
    ),
    "entry": (
        Field("reference", Type("text")), Field("category", Type("choice", values=("fee", "refund", "gift"))),
        Field("quantity", Type("int"), 1, 30), Field("taxed", Type("flag")), Field("tags", Type("texts")),
        Field("source", Type("object", parts=(Field("system", Type("text")), Field("page", Type("int"), 1, 90)))),
    ),
    "note": (
        Field("visibility", Type("choice", values=("private", "team", "public"))), Field("pinned", Type("flag")),
        Field("importance", Type("int"), 1, 5), Field("tags", Type("texts")), Field("topic", Type("text")),
        Field("links", Type("objects", parts=(Field("title", Type("text")), Field("url", Type("text"))))),
    ),
    "watch": (
        Field("channel", Type("choice", values=("email", "chat", "sms"))), Field("events", Type("texts")),
        Field("quiet", Type("flag")), Field("reason", Type("text")), Field("most_per_day", Type("int"), 1, 20),
    ),
    "approval": (
        Field("comment", Type("text")), Field("level", Type("int"), 1, 3), Field("conditions", Type("texts")),
        Field("outcome", Type("choice", values=("accepted", "conditional"))), Field("signed", Type("flag")),
    ),
}  # fmt: skip


def _more(draft: Draft, entity: str, of: str) -> tuple[list[Param], c.Pairs]:
    """Up to four fields more for the entity of a motif, each as an argument that fills it."""
    pool = [f for f in _MORE[of] if f.name not in draft.fields[entity]]
    fields = draft.rng.sample(pool, draft.rng.randint(0, min(4, len(pool))))
    draft.entity(entity, fields)
    low = {"int": 1}
    params = [
        Param(f.name, f.type, f"The {said(f.name)} of the {said(entity)}.", draft.chance(0.3), low.get(f.type.kind))
        for f in fields
    ]
    return params, tuple((f.name, f.name) for f in fields)


def _names(draft: Draft, entity: str, *first: str) -> tuple[str, ...]:
    """These fields of an entity, and some of its others."""
    return tuple(dict.fromkeys((*first, *(name for name in draft.fields[entity] if draft.chance(0.4)))))


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
    doc = f"Move some {said(field)} from one {said(entity)} to another."
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
    more, pairs = _more(draft, booking, "hold")
    pool, hold = id_param(entity), id_param(booking)
    until = Param("expires_at", Type("time"), "Until when it is held.")
    draft.tool(
        f"reserve_{entity}", f"Hold some {said(field)} of a {said(entity)} for the caller until a time.",
        [pool, _amount("quantity"), until, *more],
        [
            c.Needs(entity, pool.name), c.Ahead("expires_at"), c.Enough(entity, pool.name, field, "quantity", held),
            c.Adds(entity, pool.name, held, "quantity"),
            c.Creates(booking, ((pool.name, pool.name), ("quantity", "quantity"), ("expires_at", "expires_at"), *pairs),
                      (("hold_state", "held"),), mine="holder_id"),
            c.Shows(booking, "", _names(draft, booking, pool.name, "quantity", "hold_state")),
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
                c.Shows(booking, hold.name, _names(draft, booking, "hold_state", "quantity")),
            ], verb,
        )  # fmt: skip
    if draft.chance(0.5):  # in other worlds holds are released by hand alone
        draft.tool(
            f"expire_{booking}s", "Close every open hold whose time is over.", [],
            [c.Expires(booking, "expires_at", "hold_state", ("held",), "expired", entity, pool.name, "quantity", held),
             c.Computes("count", booking, "quantity", (), (("hold_state", "expired"),))], "expire",
        )  # fmt: skip
    params, filters = narrow(draft, booking, draft.rng.randint(1, 3))
    draft.tool(
        f"list_{booking}s", "Holds, the largest first.", params,
        [c.Lists(booking, _names(draft, booking, pool.name, "quantity"), tuple(filters), "quantity", True)], "list",
    )  # fmt: skip
    return True


def schedule(draft: Draft, entity: str) -> bool:
    """Slots in a calendar that must not overlap."""
    slot = draft.entity(f"{entity}_booking"[:40], [
        Field(f"{entity}_id", Type("id", entity)), Field("starts_at", Type("time")), Field("ends_at", Type("time")),
        Field("booked_by", Type("id", "user")),
        Field("booking_state", Type("choice", values=("booked", "cancelled")), start="cancelled", fixed=True),
    ])  # fmt: skip
    more, pairs = _more(draft, slot, "booking")
    place = id_param(entity)
    times = [Param("starts_at", Type("time"), "When it begins."), Param("ends_at", Type("time"), "When it ends.")]
    free = c.FreeSlot(
        slot, place.name, place.name, "starts_at", "starts_at", "ends_at", "ends_at", "booking_state", ("booked",)
    )
    draft.tool(
        f"book_{entity}", f"Book a {said(entity)} for a time in which it is free.", [place, *times, *more],
        [
            c.Needs(entity, place.name), c.Ahead("starts_at"), c.Ordered("starts_at", "ends_at"), free,
            c.Creates(slot, ((place.name, place.name), ("starts_at", "starts_at"), ("ends_at", "ends_at"), *pairs),
                      (("booking_state", "booked"),), mine="booked_by"),
            c.Shows(slot, "", _names(draft, slot, place.name, "starts_at", "ends_at")),
        ], "schedule",
    )  # fmt: skip
    target = id_param(slot)
    draft.tool(
        f"cancel_{slot}", "Give a booked time free again.", [target],
        [
            c.Needs(slot, target.name), c.InState(slot, target.name, "booking_state", ("booked",)),
            *([c.Deadline(slot, target.name, "starts_at", draft.rng.choice((60, 1440)))] if draft.chance(0.6) else []),
            c.Sets(slot, target.name, (), (("booking_state", "cancelled"),)),
            c.Shows(slot, target.name, _names(draft, slot, "booking_state", "starts_at")),
        ], "cancel",
    )  # fmt: skip
    params, filters = narrow(draft, slot, draft.rng.randint(1, 4), ("booking_state", place.name))
    draft.tool(
        f"list_{slot}s", "Booked times, the earliest first.",
        [id_param(entity, required=False), *params],
        [c.Lists(slot, _names(draft, slot, place.name, "starts_at"), ((place.name, place.name, "=="), *filters),
                 "starts_at", fixed=(("booking_state", "booked"),))], "list",
    )  # fmt: skip
    return True


def aggregate(draft: Draft, entity: str) -> bool:
    number = _number(draft, entity)
    params, filters = narrow(draft, entity, draft.rng.randint(1, 3), (number,))
    if not params:
        return False
    how = draft.rng.choice(("sum", "max", "min", "count"))
    words = {"sum": "The total", "max": "The largest", "min": "The smallest", "count": "The number of records with a"}[
        how
    ]
    draft.tool(
        f"{how}_{entity}_{number}", f"{words} {said(number)} over {said(entity)} records.", params,
        [c.Computes(how, entity, number, tuple(filters))], "aggregate",
    )  # fmt: skip
    return True


def rank(draft: Draft, entity: str) -> bool:
    number = _number(draft, entity)
    top, down = draft.rng.randint(2, 5), draft.chance(0.5)
    params, filters = narrow(draft, entity, draft.rng.randint(1, 4), (number,))
    shown = tuple(dict.fromkeys((*_few(draft, entity, 2), number)))
    word = "most" if down else "least"
    draft.tool(
        f"rank_{entity}_by_{number}", f"The {top} {said(entity)} records with the {word} {said(number)}.", params,
        [c.Lists(entity, shown, tuple(filters), number, down, top=top)], "rank",
    )  # fmt: skip
    return True


def page(draft: Draft, entity: str) -> bool:
    times = draft.of_kind(entity, "time")
    sort = draft.rng.choice(times).name if times else "id"
    params, filters = narrow(draft, entity, draft.rng.randint(1, 4))
    more, by, way = order(draft, entity, draft.chance(0.5), draft.chance(0.5))
    params += [*page_params(), *more]
    draft.tool(
        f"browse_{entity}s", f"{said(entity).capitalize()} records a page at a time.", params,
        [c.Lists(entity, _few(draft, entity, 4), tuple(filters), sort, True, True, sort_arg=by, order_arg=way)], "page",
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
        name, f"Set {said(target.name)} to {value} in many {said(entity)} records at once.", params, claims, "bulk"
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
    doc = f"Merge one {said(entity)} into another: {said(number)} is added up, the source is gone."
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
        f"split_{entity}", f"Take some {said(number)} of a {said(entity)} into a new one.", params, claims, "split"
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
    draft.tool(f"move_{entity}_under", f"Put a {said(entity)} below another.", [a, b], claims, "nest")
    params, filters = narrow(draft, entity, draft.rng.randint(1, 4), (parent,))
    draft.tool(
        f"list_children_of_{entity}", "What lies directly below a record.",
        [id_param(entity, "parent_id"), *params],
        [c.Needs(entity, "parent_id"),
         c.Lists(entity, (*_few(draft, entity, 2), parent), ((parent, parent, "=="), *filters))],
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
    more, pairs = _more(draft, entry, "entry")
    params = [
        target,
        Param("amount", Type("money"), "How much.", True, 1),
        Param("memo", Type("text"), "What for.", False),
        *more,
    ]
    pairs = ((target.name, target.name), ("amount", "amount"), ("memo", "memo"), *pairs)
    for verb, sign, guard in (
        ("charge", -1, c.Enough(entity, target.name, field, "amount")),
        ("credit", 1, c.Room(entity, target.name, field, limit, "amount")),
    ):
        draft.tool(
            f"{verb}_{entity}", f"Post a {verb} to a {said(entity)}.", params,
            [
                c.Needs(entity, target.name), guard,
                c.Adds(entity, target.name, field, "amount", 1 if sign > 0 else -1),
                c.Creates(entry, pairs, (("kind", verb),), "posted_by", "posted_at"),
                c.Shows(entity, target.name, tuple(dict.fromkeys((field, limit, *_few(draft, entity, 0))))),
            ], "ledger",
        )  # fmt: skip
    by, filters = narrow(draft, entry, draft.rng.randint(1, 3), (target.name,))
    draft.tool(
        f"list_{entity}_entries", "What was posted, the latest first.", [target, *by, *page_params()],
        [c.Needs(entity, target.name),
         c.Lists(entry, _names(draft, entry, "amount", "kind", "posted_at"),
                 ((target.name, target.name, "=="), *filters), "posted_at", True, True)],
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
    more, pairs = _more(draft, "watch", "watch")
    draft.tool(
        f"watch_{entity}", f"Be told of changes of a {said(entity)}.", [target, *more],
        [c.Needs(entity, "record"), c.Creates("watch", (("record", "record"), *pairs), (), "watcher"),
         c.Shows("watch", "", ("record", *dict(pairs)))], "subscribe",
    )  # fmt: skip
    params, filters = narrow(draft, "notice", draft.rng.randint(1, 3), ("watcher",))
    draft.tool(
        "list_notices", "What the caller was told, the latest first.", params,
        [c.Lists("notice", ("record", "tool", "at"), tuple(filters), "at", True, mine="watcher")], "list",
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
    more, pairs = _more(draft, "approval", "approval")
    draft.tool(
        f"approve_{entity}", f"Record the caller's approval of a {said(entity)}.", [target, *more],
        [c.Needs(entity, "record"), c.Creates("approval", (("record", "record"), *pairs), (), "by", "at"),
         c.Shows("approval", "", ("record", "by", *dict(pairs)))], "approve",
    )  # fmt: skip
    params, filters = narrow(draft, "approval", draft.rng.randint(1, 4), ("record",))
    draft.tool(
        "list_approvals", "Approvals of a record.", [target, *params],
        [c.Needs(entity, "record"),
         c.Lists("approval", ("by", "at", *dict(pairs)), (("record", "record", "=="), *filters), "at")], "list",
    )  # fmt: skip
    return True


def note(draft: Draft, entity: str) -> bool:
    """Notes that people leave at a record."""
    note_ = draft.entity(f"{entity}_note"[:40], [
        Field("text", Type("text")), Field(f"{entity}_id", Type("id", entity)), Field("author_id", Type("id", "user")),
        Field("written_at", Type("time")),
    ])  # fmt: skip
    more, pairs = _more(draft, note_, "note")
    about, target = id_param(entity), id_param(note_)
    text = Param("text", Type("text"), "What it says.")
    draft.tool(
        f"add_{note_}", f"Leave a note at a {said(entity)}.", [about, text, *more],
        [c.Needs(entity, about.name),
         c.Creates(note_, (("text", "text"), (about.name, about.name), *pairs), (), "author_id", "written_at"),
         c.Shows(note_, "", _names(draft, note_, "text", about.name))], "create",
    )  # fmt: skip
    changed = [dataclasses.replace(p, required=False) for p in more] or [text]
    draft.tool(
        f"edit_{note_}", f"Change a note at a {said(entity)}.", [target, *changed],
        [c.Needs(note_, target.name), c.Sets(note_, target.name, tuple((p.name, p.name) for p in changed)),
         c.Shows(note_, target.name, _names(draft, note_, "text"))], "update",
    )  # fmt: skip
    draft.tool(
        f"delete_{note_}", "Take a note away.", [target],
        [c.Needs(note_, target.name), c.Removes(note_, target.name),
         c.Shows(note_, target.name, _names(draft, note_, "text"))], "delete",
    )  # fmt: skip
    by, filters = narrow(draft, note_, draft.rng.randint(1, 4), (about.name,))
    draft.tool(
        f"list_{note_}s", "Notes, the latest first.", [id_param(entity, required=False), *by],
        [c.Lists(note_, _names(draft, note_, "text", about.name), ((about.name, about.name, "=="), *filters),
                 "written_at", True)], "list",
    )  # fmt: skip
    return True


def hand_over(draft: Draft, entity: str) -> bool:
    owner = draft.field(entity, Field("owner_id", Type("id", "user")))
    target, new = id_param(entity), id_param("user", "new_owner_id")
    draft.tool(
        f"hand_over_{entity}", f"Give a {said(entity)} to another owner.", [target, new],
        [c.Needs(entity, target.name), c.Needs("user", new.name), c.Sets(entity, target.name, ((owner, new.name),)),
         c.Shows(entity, target.name, (owner, *_few(draft, entity, 1)))], "hand_over",
    )  # fmt: skip
    params, filters = narrow(draft, entity, draft.rng.randint(1, 4), (owner,))
    draft.tool(
        f"list_my_{entity}s", f"The caller's own {said(entity)} records.", params,
        [c.Lists(entity, _few(draft, entity, 4), tuple(filters), mine=owner)], "list",
    )  # fmt: skip
    return True


MOTIFS: dict[str, Motif] = {
    "transfer": transfer, "reserve": reserve, "schedule": schedule, "aggregate": aggregate, "rank": rank, "page": page,
    "bulk": bulk, "merge": merge, "split": split, "nest": nest, "ledger": ledger, "subscribe": subscribe, "undo": undo,
    "approve": approve, "hand_over": hand_over, "note": note,
}  # fmt: skip
RARE = frozenset({"undo", "bulk"})  # which look the same in all worlds
READING = frozenset({"aggregate", "rank", "page", "subscribe", "note"})  # for nouns that no operation changes
