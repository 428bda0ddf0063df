"""Situations for the tests of tools: a state, a caller and arguments in which a guard just holds, or just fails.

Written from the claims alone, on plain records: it knows nothing of programs (`lower.py`), so it can contradict them.
"""

from __future__ import annotations

import random
from typing import Any

from openk2.synth.world import claims as c
from openk2.synth.world.populate import draw_value, first_value
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.state import Record, State

_DAY = 1440
NOBODY = "none-000000"


class Situation:
    """A state (its own copy), and the arguments of a call that the caller `me` is about to make."""

    def __init__(self, spec: WorldSpec, tool: Tool, state: State, rng: random.Random) -> None:
        self.spec, self.tool, self.rng = spec, tool, rng
        self.state = state.copy()
        self.slack = 0  # minutes for which guards should go on to hold
        self.args: dict[str, Any] = {}
        for p in tool.params:
            value = draw_value(p, self.state, rng)
            if value is not None:
                self.args[p.name] = value

    @property
    def now(self) -> int:
        """The clock as the tool will read it: a call takes a minute."""
        return self.state.now + 1

    def table(self, entity: str) -> dict[str, Record]:
        return self.state.tables[entity]

    def record(self, entity: str, id_arg: str) -> Record | None:
        return self.table(entity).get(self.args.get(id_arg, ""))

    def put(self, entity: str, record: Record, **values: Any) -> Record:
        """The record with these values, in its place."""
        return self.state.put(entity, record, values)

    def drop(self, entity: str, record: Record) -> None:
        del self.state.own(entity)[record["id"]]

    def add(self, entity: str, **values: Any) -> Record:
        """A further record, of fresh values but for these."""
        fresh = {f.name: first_value(f, self.state, self.rng) for f in self.spec.entity(entity).fields}
        return self.state.insert(entity, fresh | values)

    def users(self) -> list[str]:
        return [key for key in self.table("user") if key != self.state.me["id"]]


def holds(claim: c.Guard, s: Situation) -> bool:
    """Whether the guard would let the call pass."""
    args, me, now = s.args, s.state.me, s.now
    match claim:
        case c.Needs(entity, id_arg):
            return s.record(entity, id_arg) is not None
        case c.Refers(entity, arg):
            return args.get(arg) is None or args[arg] in s.table(entity)
        case c.Unique(entity, field, arg, scope):
            rows = s.table(entity).values()
            return not any(
                r[field] == args[arg] and (not scope or r[scope] == args[scope]) for r in rows if arg in args
            )
        case c.AtMost(entity, n, per):
            return sum(not per or r[per] == me["id"] for r in s.table(entity).values()) < n
        case c.Different(arg, other):
            return args[arg] != args[other]
        case c.Ahead(arg):
            return args.get(arg) is None or args[arg] > now
        case c.Ordered(arg, other):
            return args[arg] < args[other]
        case c.FreeSlot():
            return not any(_overlaps(claim, r, args) for r in s.table(claim.entity).values())
        case c.Linked(link, left, left_arg, right, right_arg, present):
            rows = s.table(link).values()
            return any(r[left] == args[left_arg] and r[right] == args[right_arg] for r in rows) == present
        case c.Role(allowed):
            return me["role"] in allowed
        case c.Hours(start, end):
            return start <= now % _DAY // 60 < end
        case c.Ceiling(arg, most, allowed):
            return args[arg] <= most or me["role"] in allowed
        case c.Rate(tool, n, minutes):
            calls = s.table("call").values()
            return sum(r["tool"] == tool and r["by"] == me["id"] and r["at"] > now - minutes for r in calls) < n
        case c.Idempotent():
            return True
    record = s.record(claim.entity, claim.id_arg)
    return record is not None and _holds_of(claim, record, s)


def _holds_of(claim: c.Guard, record: Record, s: Situation) -> bool:
    """Guards about one record."""
    args, me, now = s.args, s.state.me, s.now
    match claim:
        case c.InState(_, _, field, allowed):
            return record[field] in allowed
        case c.Matches(_, _, field, arg):
            return record[field] is not None and record[field] == args.get(arg)
        case c.Unused(_, _, by, by_field):
            return not any(r[by_field] == record["id"] for r in s.table(by).values())
        case c.Enough(_, _, field, arg, held):
            return args[arg] <= (record[field] or 0) - ((record[held] or 0) if held else 0)
        case c.Room(_, _, field, limit, arg):
            return (record[field] or 0) + args[arg] <= record[limit]
        case c.Same(entity, _, other_arg, field):
            other = s.record(entity, other_arg)
            return other is not None and record[field] is not None and record[field] == other[field]
        case c.NotUnder(entity, _, parent_arg, parent):
            above, seen = args[parent_arg], 0
            while above is not None and seen < 50:
                if above == record["id"]:
                    return False
                above, seen = (s.table(entity).get(above) or {}).get(parent), seen + 1
            return True
        case c.Owner(_, _, field, or_role):
            return record[field] == me["id"] or (bool(or_role) and me["role"] == or_role)
        case c.Deadline(_, _, field, minutes):
            return record[field] is None or now <= record[field] - minutes
        case c.Approved(_, _, n):
            given = (r for r in s.table("approval").values() if r["record"] == record["id"] and r["by"] != me["id"])
            return sum(1 for _ in given) >= n
        case c.Version(_, _, field, arg):
            return args.get(arg) == record[field]
        case c.Alive(_, _, field):
            return record[field] is None
    raise ValueError(f"{claim} is no guard of a record")


def _lasts(claim: c.Guard, s: Situation) -> bool:
    """Whether a guard that holds will hold for `slack` minutes more."""
    s.state.now += s.slack
    try:
        return holds(claim, s)
    finally:
        s.state.now -= s.slack


def _overlaps(claim: c.FreeSlot, r: Record, args: dict[str, Any]) -> bool:
    if claim.open_field and r[claim.open_field] not in claim.open_values:
        return False
    if r[claim.start] is None or r[claim.end] is None:
        return False
    same = r[claim.place] == args[claim.place_arg]
    return same and r[claim.start] < args[claim.end_arg] and r[claim.end] > args[claim.start_arg]


def arrange(claim: c.Guard, s: Situation, pass_: bool) -> None:
    """Change the situation so that the guard lets the call pass, if only just, or stops it, if only just.

    It may fail where another choice would do; the caller looks with `holds`, and tries again.
    """
    args, rng, me = s.args, s.rng, s.state.me
    if pass_ and s.slack and holds(claim, s) and _lasts(claim, s):
        return
    match claim:
        case c.Needs(entity, id_arg):
            known = list(s.table(entity))
            args[id_arg] = rng.choice(known) if pass_ and known else (s.add(entity)["id"] if pass_ else NOBODY)
        case c.Refers(entity, arg):
            args[arg] = (rng.choice(list(s.table(entity)) or [s.add(entity)["id"]])) if pass_ else NOBODY
        case c.Unique(entity, field, arg, scope):
            if arg not in args:
                return
            if pass_:
                param = s.tool.param(arg)
                args[arg] = draw_value(param, s.state, rng)
            else:
                s.add(entity, **{field: args[arg]} | ({scope: args[scope]} if scope else {}))
        case c.AtMost(entity, n, per):
            _fill(s, entity, n - 1 if pass_ else n, per)
        case c.Different(arg, other):
            param = s.tool.param(other)
            others = [key for key in s.table(param.type.of) if key != args[arg]]
            args[other] = (rng.choice(others) if others else s.add(param.type.of)["id"]) if pass_ else args[arg]
        case c.Ahead(arg):
            args[arg] = s.now + (1 + s.slack if pass_ else 0)
        case c.Ordered(arg, other):
            args[other] = args[arg] + ((1 if not s.slack else rng.choice((30, 60, 90, 120))) if pass_ else 0)
        case c.FreeSlot():
            _slot(claim, s, pass_)
        case c.Linked(link, left, left_arg, right, right_arg, present):
            rows = [r for r in s.table(link).values() if r[left] == args[left_arg] and r[right] == args[right_arg]]
            if present == pass_ and not rows:
                s.add(link, **{left: args[left_arg], right: args[right_arg]})
            elif present != pass_:
                for r in rows:
                    s.drop(link, r)
        case c.Role(allowed):
            _become(s, [role for role in _roles(s) if (role in allowed) == pass_])
        case c.Hours(start, end):
            hour = rng.choice((start, end - 1)) if pass_ else rng.choice(((start - 1) % 24, end % 24))
            s.state.now = s.state.now // _DAY * _DAY + _DAY + hour * 60 + rng.choice((0, 59)) - 1
        case c.Ceiling(arg, most, allowed):
            if not pass_:
                _become(s, [role for role in _roles(s) if role not in allowed])
                args[arg] = most + 1
            elif rng.random() < 0.5:
                args[arg] = most
            else:
                _become(s, list(allowed))
        case c.Rate(tool, n, minutes):
            for r in list(s.table("call").values()):
                s.drop("call", r)
            for i in range(n - 1 if pass_ else n):
                s.add(
                    "call", tool=tool, by=me["id"], at=s.now - (minutes - 1 if i == 0 else rng.randint(1, minutes - 1))
                )
            s.add("call", tool=tool, by=me["id"], at=s.now - minutes)  # just outside
            if others := s.users():
                s.add("call", tool=tool, by=rng.choice(others), at=s.now - 1)
            s.add("call", tool=f"{tool}_2", by=me["id"], at=s.now - 1)
        case c.Idempotent():
            return
        case _:
            record = s.record(claim.entity, claim.id_arg)
            if record is not None:
                _arrange_of(claim, record, s, pass_)


def _arrange_of(claim: c.Guard, record: Record, s: Situation, pass_: bool) -> None:
    args, rng, me = s.args, s.rng, s.state.me
    match claim:
        case c.InState(entity, _, field, allowed):
            values = s.spec.entity(entity).field(field).type.values
            s.put(entity, record, **{field: rng.choice([v for v in values if (v in allowed) == pass_] or list(values))})
        case c.Matches(entity, _, field, arg):
            known = list(s.table(s.tool.param(arg).type.of))
            if record[field] is None and known:
                record = s.put(entity, record, **{field: rng.choice(known)})
            others = [key for key in known if key != record[field]]
            args[arg] = record[field] if pass_ and record[field] else rng.choice(others or [NOBODY])
        case c.Unused(_, _, by, by_field):
            for r in [r for r in s.table(by).values() if r[by_field] == record["id"]]:
                s.put(by, r, **{by_field: None})
            if not pass_:
                s.add(by, **{by_field: record["id"]})
        case c.Enough(entity, _, field, arg, held):
            kept = {held: rng.randint(1, 5)} if held else {}
            s.put(entity, record, **kept | {field: args[arg] + sum(kept.values()) - (0 if pass_ else 1)})
        case c.Room(entity, _, field, limit, arg):
            most = record[limit]
            if most is None or args[arg] > most:
                most, args[arg] = 100, rng.randint(1, 50)
            s.put(entity, record, **{limit: most, field: most - args[arg] + (0 if pass_ else 1)})
        case c.Same(entity, _, other_arg, field):
            other = s.record(entity, other_arg)
            if other is None or other is record:
                return
            f = s.spec.entity(entity).field(field)
            if record[field] is None:
                record = s.put(entity, record, **{field: first_value(f, s.state, rng)})
            values = [v for v in f.type.values if v != record[field]] or [None]
            s.put(entity, other, **{field: record[field] if pass_ else rng.choice(values)})
        case c.NotUnder(entity, _, parent_arg, parent):
            below = s.record(entity, parent_arg)
            if pass_:
                if below is record or below is None:
                    others = [key for key in s.table(entity) if key != record["id"]]
                    args[parent_arg] = rng.choice(others) if others else s.add(entity)["id"]
                    below = s.record(entity, parent_arg)
                if below is not None:
                    s.put(entity, below, **{parent: None})
                return
            depth = rng.choice((0, 1, 2, 3))
            above = record
            for _ in range(depth):
                above = s.add(entity, **{parent: above["id"]})
            args[parent_arg] = above["id"]
        case c.Owner(entity, _, field, or_role):
            by_role = pass_ and or_role and rng.random() < 0.4
            owner = rng.choice(s.users()) if by_role or not pass_ else me["id"]
            s.put(entity, record, **{field: owner})
            if by_role:
                _become(s, [or_role], owner)
            elif not pass_ and me["role"] == or_role:
                _become(s, [role for role in _roles(s) if role != or_role], owner)
        case c.Deadline(entity, _, field, minutes):
            last = s.now + minutes + (s.slack if pass_ else -1 - s.slack)
            s.put(entity, record, **{field: None if pass_ and rng.random() < 0.2 else last})
        case c.Approved(_, _, n):
            for r in list(s.table("approval").values()):
                if r["record"] == record["id"]:
                    s.drop("approval", r)
            for _ in range(n if pass_ else n - 1):
                s.add("approval", record=record["id"], by=rng.choice(s.users()))
            s.add("approval", record=record["id"], by=me["id"])
            s.add("approval", record=NOBODY, by=rng.choice(s.users()))
        case c.Version(entity, _, field, arg):
            version = record[field] or rng.randint(1, 9)
            s.put(entity, record, **{field: version})
            args[arg] = version + (0 if pass_ else rng.choice((-1, 1)))
        case c.Alive(entity, _, field):
            s.put(entity, record, **{field: None if pass_ else s.now - rng.randint(1, 500)})


def provide(claim: c.Effect, s: Situation) -> None:
    """Records that the effect touches, and records like them that it must leave alone."""
    args, rng, me = s.args, s.rng, s.state.me
    match claim:
        case c.Expires(entity, field, state, of, _, pool, pool_field, amount, held):
            values = s.spec.entity(entity).field(state).type.values
            holder = rng.choice(list(s.table(pool).values()) or [s.add(pool)])
            s.put(pool, holder, **{held: rng.randint(20, 40)})
            for at, value in ((s.now - 1, of[0]), (s.now, of[0]), (s.now - 5, values[-1]), (s.now - 9, rng.choice(of))):
                s.add(entity, **{field: at, state: value, pool_field: holder["id"], amount: rng.randint(1, 5)})
        case c.Frees(entity, id_arg, pool, pool_field, amount, held, taken):
            record = s.record(entity, id_arg)
            if record is not None:
                holder = rng.choice(list(s.table(pool).values()) or [s.add(pool)])
                s.put(entity, record, **{pool_field: holder["id"], amount: rng.randint(1, 5)})
                holder = s.put(pool, holder, **{held: rng.randint(6, 20)})
                if taken:
                    s.put(pool, holder, **{taken: rng.randint(30, 60)})
        case c.SetsEach(entity, values, ids_arg, field, arg, only_field):
            states = s.spec.entity(entity).field(only_field).type.values if only_field else ("",)
            ids = []
            for state in states:
                other = {name: _another(s, entity, name, value) for name, value in values}
                match_ = {field: args[arg]} if field else {}
                ids.append(s.add(entity, **other | match_ | ({only_field: state} if only_field else {}))["id"])
                s.add(entity, **other | ({only_field: state} if only_field else {}))
            if ids_arg:
                args[ids_arg] = ids
        case c.RemovesEach(entity, ids_arg):
            args[ids_arg] = [s.add(entity)["id"] for _ in range(2)]
        case c.Absorbs(entity, id_arg, other_arg, field, by, by_field):
            for arg in (id_arg, other_arg):
                if (record := s.record(entity, arg)) is not None:
                    s.put(entity, record, **{field: rng.randint(3, 30)})
                    if by:
                        s.add(by, **{by_field: record["id"]})
        case c.Unlinks(link, left, left_arg, right, right_arg):
            for key in list(s.table(s.tool.param(left_arg).type.of))[:2]:
                if key != args[left_arg]:
                    s.add(link, **{left: key, right: args[right_arg]})
            for key in list(s.table(s.tool.param(right_arg).type.of))[:2]:
                if key != args[right_arg]:
                    s.add(link, **{left: args[left_arg], right: key})
        case c.Notifies(_, id_arg):
            s.add("watch", record=args[id_arg], watcher=me["id"])
            s.add("watch", record=NOBODY, watcher=me["id"])
        case c.Adds(entity, id_arg, field):
            if (record := s.record(entity, id_arg)) is not None and record[field] is None:
                s.put(entity, record, **{field: rng.randint(1, 9)})


def look_for(claim: c.Lists | c.Computes, s: Situation) -> None:
    """Two records that pass all filters, if only just, and for each filter one like them that fails this one alone."""
    args, entity = s.args, claim.entity
    if isinstance(claim, c.Lists) and claim.paged:
        args |= {"offset": s.rng.choice((0, 0, 1)), "limit": s.rng.choice((1, 2, 5, 50))}
    kept = {name for guard in s.tool.claims if isinstance(guard, c.Guard) for name in vars(guard).values() if name}
    mine = {claim.mine: s.state.me["id"]} if isinstance(claim, c.Lists) and claim.mine else {}
    given = [f for f in claim.filters if f[0] in args]
    if not (given or claim.fixed or mine):
        return
    wanted = {field: args[arg] for arg, field, op in given if arg in kept and op == "=="}
    record = s.add(entity, **wanted | dict(claim.fixed) | mine)
    fails = [(field, _another(s, entity, field, value)) for field, value in (*claim.fixed, *mine.items())]
    for arg, field, op in given:
        if record[field] is None:
            record = s.put(entity, record, **{field: _another(s, entity, field, None)})
        value = record[field]
        if arg in kept or value is None:
            continue
        other = _another(s, entity, field, value) if field != "id" else None
        if op == "in":
            args[arg] = [value, *(v for v in args[arg][1:] if v != other)]
        elif op == "has":
            at = s.rng.randrange(len(value))
            args[arg] = value[at : at + s.rng.randint(3, 6)].swapcase()
        else:
            args[arg] = value
        fails.append((field, other if op in ("==", "in", "has") else value + (1 if op == "<=" else -1)))
    inside = {">=": 1, "<=": -1}
    like = {name: record[name] + inside[op] if op in inside else record[name] for _, name, op in given}
    twin = s.add(entity, **{n: v for n, v in like.items() if n != "id"} | dict(claim.fixed) | mine)
    for arg, _, _ in [f for f in given if f[1:] == ("id", "in")]:
        args[arg] = [*args[arg], twin["id"]]
    for field, value in fails:
        s.add(
            entity,
            **{name: v for name, v in record.items() if name != "id"} | ({} if field == "id" else {field: value}),
        )


def _another(s: Situation, entity: str, field: str, value: Any) -> Any:
    """A value of the field that is not this one."""
    f = s.spec.entity(entity).field(field)
    for _ in range(20):
        other = first_value(f, s.state, s.rng)
        if other != value:
            return other
    return None


def _roles(s: Situation) -> list[str]:
    return list(s.spec.entity("user").field("role").type.values)


def _become(s: Situation, roles: list[str], not_: Any = None) -> None:
    """Call as somebody with one of these roles (made, if there is none)."""
    able = [r for r in s.table("user").values() if r["role"] in roles and r["id"] != not_]
    if not able and not roles:
        return
    record = s.rng.choice(able) if able else s.add("user", role=s.rng.choice(roles))
    s.state.me = {"id": record["id"], "role": record["role"]}


def _fill(s: Situation, entity: str, count: int, per: str) -> None:
    """Exactly `count` records (of the caller, and two of others)."""
    rows = [r for r in s.table(entity).values() if not per or r[per] == s.state.me["id"]]
    keep = {value for value in s.args.values() if isinstance(value, str)}
    for r in rows:
        if len(rows) > count and r["id"] not in keep:
            s.drop(entity, r)
            rows = [x for x in rows if x is not r]
    for _ in range(count - len(rows)):
        s.add(entity, **({per: s.state.me["id"]} if per else {}))
    if per and s.users():
        s.add(entity, **{per: s.rng.choice(s.users())})


def _slot(claim: c.FreeSlot, s: Situation, pass_: bool) -> None:
    """What is booked ends just when the new time begins and begins just when it ends; or a minute too late or early."""
    args = s.args
    start, end, place = args[claim.start_arg], args[claim.end_arg], args[claim.place_arg]
    for r in list(s.table(claim.entity).values()):
        if r[claim.place] == place:
            s.drop(claim.entity, r)
    state = {claim.open_field: s.rng.choice(claim.open_values)} if claim.open_field else {}
    over = s.rng.choice((0, 1)) if not pass_ else -1
    s.add(claim.entity, **{claim.place: place, claim.start: start - 60, claim.end: start + (over == 0)}, **state)
    s.add(claim.entity, **{claim.place: place, claim.start: end - (over == 1), claim.end: end + 60}, **state)
    if claim.open_field:
        closed = [
            v for v in s.spec.entity(claim.entity).field(claim.open_field).type.values if v not in claim.open_values
        ]
        if closed:
            s.add(claim.entity, **{claim.place: place, claim.start: start, claim.end: end, claim.open_field: closed[0]})
    others = [key for key in s.table(s.tool.param(claim.place_arg).type.of) if key != place]
    if others:
        s.add(claim.entity, **{claim.place: others[0], claim.start: start, claim.end: end}, **state)
