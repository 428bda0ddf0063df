"""From claims to a program: each claim becomes a guard, an effect or the output, in the order of the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from openk2.synth.world import claims as c
from openk2.synth.world import tree as t
from openk2.synth.world.spec import Tool
from openk2.synth.world.tree import said

_DAY = 1440
_PARENTS = 3  # guards against cycles look so far up


def lower(tool: Tool) -> t.Program:
    """The program of a tool. Raises ValueError when an effect stands before a guard, or the output is not last."""
    steps: list[t.Step] = []
    made = ""  # what the tool made, which it then shows
    output: t.Output | None = None
    changed = False
    for claim in tool.claims:
        if output is not None:
            raise ValueError(f"{tool.name}: {claim} stands after the output")
        if isinstance(claim, c.Shown):
            output = _shown(claim, made, {p.name for p in tool.params if p.required})
            continue
        if isinstance(claim, c.Guard) and changed:
            raise ValueError(f"{tool.name}: the guard {claim} stands after an effect")
        changed = changed or isinstance(claim, c.Effect)
        if isinstance(claim, c.Creates | c.Copies):
            made = "new"
        steps += _guard(claim, tool) if isinstance(claim, c.Guard) else _effect(claim, tool)
    if output is None:
        raise ValueError(f"{tool.name} gives nothing back")
    steps.sort(key=lambda s: isinstance(s, t.Effect | t.Undo))  # stable: bookkeeping of a guard comes with the effects
    return t.Program(tuple(steps), output)


def bound(id_arg: str) -> str:
    return f"r_{id_arg}"


def _it(field: str) -> t.Of:
    return t.Of("it", field)


def _in(expr: t.Expr, values: Sequence[str]) -> t.Cond:
    return t.Test("in", expr, t.Const(list(values)))


def _guard(claim: c.Guard, tool: Tool) -> list[t.Step]:
    match claim:
        case c.Needs(entity, id_arg, error):
            return [t.Find(bound(id_arg), entity, t.Arg(id_arg), error)]
        case c.Refers(entity, arg, error):
            there = t.Test(">", t.Count(entity, t.Test("==", _it("id"), t.Arg(arg))), t.Const(0))
            told = f"There is no {said(entity)} {{{arg}}}."
            return [t.Require(t.Any_((t.Not(t.Given(arg)), there)), error, told)]
        case c.InState(entity, id_arg, field, allowed, error):
            told = f"The {said(entity)} must be {' or '.join(allowed)} for this."
            return [t.Require(_in(t.Of(bound(id_arg), field), allowed), error, told)]
        case c.Matches(entity, id_arg, field, arg, error):
            told = f"There is no {said(entity)} {{{id_arg}}} with the {said(field)} {{{arg}}}."
            return [t.Require(t.Test("==", t.Of(bound(id_arg), field), t.Arg(arg)), error, told)]
        case c.Unique(entity, field, arg, scope, error):
            same: tuple[t.Cond, ...] = (t.Test("==", _it(field), t.Arg(arg)),)
            if scope:
                same += (t.Test("==", _it(scope), t.Arg(scope)),)
            told = f"There is a {said(entity)} with the {said(field)} {{{arg}}} already."
            return [t.Require(t.Test("==", t.Count(entity, t.All(same)), t.Const(0)), error, told)]
        case c.AtMost(entity, n, per, error):
            where = t.Test("==", _it(per), t.Me("id")) if per else t.All()
            told = f"There may be at most {n} {said(entity)} records{' of one user' if per else ''}."
            return [t.Require(t.Test("<", t.Count(entity, where), t.Const(n)), error, told)]
        case c.Unused(_, id_arg, by, by_field, error):
            where = t.Test("==", _it(by_field), t.Of(bound(id_arg), "id"))
            return [t.Require(t.Test("==", t.Count(by, where), t.Const(0)), error, f"A {said(by)} still uses it.")]
        case c.Enough(_, id_arg, field, arg, held, error):
            have: t.Expr = t.Of(bound(id_arg), field)
            if held:
                have = t.Calc("-", have, t.Of(bound(id_arg), held))
            return [t.Require(t.Test("<=", t.Arg(arg), have), error, f"Not enough {said(field)} for {{{arg}}}.")]
        case c.Room(_, id_arg, field, limit, arg, error):
            sum_ = t.Calc("+", t.Of(bound(id_arg), field), t.Arg(arg))
            told = f"With {{{arg}}} more, its {said(field)} would exceed its {said(limit)}."
            return [t.Require(t.Test("<=", sum_, t.Of(bound(id_arg), limit)), error, told)]
        case c.Different(arg, other, error):
            return [t.Require(t.Test("!=", t.Arg(arg), t.Arg(other)), error, f"{arg} and {other} must differ.")]
        case c.Same(_, id_arg, other_arg, field, error):
            same_ = t.Test("==", t.Of(bound(id_arg), field), t.Of(bound(other_arg), field))
            return [t.Require(same_, error, f"Both must have the same {said(field)}.")]
        case c.Ahead(arg, error):
            return [
                t.Require(
                    t.Any_((t.Not(t.Given(arg)), t.Test(">", t.Arg(arg), t.Now()))),
                    error,
                    f"{arg} must lie in the future.",
                )
            ]
        case c.Ordered(arg, other, error):
            return [t.Require(t.Test("<", t.Arg(arg), t.Arg(other)), error, f"{arg} must be before {other}.")]
        case c.FreeSlot(entity, place, place_arg, start, start_arg, end, end_arg, open_field, open_values, error):
            overlap: tuple[t.Cond, ...] = (
                t.Test("==", _it(place), t.Arg(place_arg)),
                t.Test("<", _it(start), t.Arg(end_arg)),
                t.Test(">", _it(end), t.Arg(start_arg)),
            )
            if open_field:
                overlap += (_in(_it(open_field), open_values),)
            told = f"Another {said(entity)} is there at that time."
            return [t.Require(t.Test("==", t.Count(entity, t.All(overlap)), t.Const(0)), error, told)]
        case c.NotUnder():
            return _not_under(claim)
        case c.Linked(link, left, left_arg, right, right_arg, present, error):
            pair = t.All((t.Test("==", _it(left), t.Arg(left_arg)), t.Test("==", _it(right), t.Arg(right_arg))))
            told = f"They are {'not' if present else 'already'} linked."
            return [t.Require(t.Test(">" if present else "==", t.Count(link, pair), t.Const(0)), error, told)]
    return _policy(claim, tool)


def _not_under(claim: c.NotUnder) -> list[t.Step]:
    """The new parent is not the record itself, nor has it among its own parents, `_PARENTS` steps up."""
    steps: list[t.Step] = []
    told = "A record cannot lie below itself."
    own = t.Of(bound(claim.id_arg), "id")
    steps.append(t.Require(t.Test("!=", t.Arg(claim.parent_arg), own), claim.error, told))
    # A record on the way up that has it as its parent: found by counting records whose id is an ancestor.
    above: t.Expr = t.Of(bound(claim.parent_arg), claim.parent)
    for _ in range(_PARENTS):
        steps.append(t.Require(t.Not(t.Test("==", above, own)), claim.error, told))
        above = t.Total("max", claim.entity, claim.parent, t.Test("==", _it("id"), above))
    return steps


def _policy(claim: c.Policy, tool: Tool) -> list[t.Step]:
    match claim:
        case c.Owner(_, id_arg, field, or_role, error):
            mine: t.Cond = t.Test("==", t.Of(bound(id_arg), field), t.Me("id"))
            if or_role:
                mine = t.Any_((mine, t.Test("==", t.Me("role"), t.Const(or_role))))
            others = f" or a {said(or_role)}" if or_role else ""
            told = f"Only its {said(field).removesuffix(' id')}{others} may do this."
            return [t.Require(mine, error, told)]
        case c.Role(allowed, error):
            return [t.Require(_in(t.Me("role"), allowed), error, f"This needs the role {' or '.join(allowed)}.")]
        case c.Hours(start, end, error):
            hour = t.Calc("//", t.Calc("%", t.Now(), t.Const(_DAY)), t.Const(60))
            within = t.All((t.Test("<=", t.Const(start), hour), t.Test("<", hour, t.Const(end))))
            return [t.Require(within, error, f"This is possible from {start}:00 to {end}:00 only.")]
        case c.Deadline(_, id_arg, field, minutes, error):
            last = t.Calc("-", t.Of(bound(id_arg), field), t.Const(minutes))
            open_ = t.Any_((t.Unset(t.Of(bound(id_arg), field)), t.Test("<=", t.Now(), last)))
            return [t.Require(open_, error, "The time for this is over.")]
        case c.Ceiling(arg, most, allowed, error):
            may = t.Any_((t.Not(t.Test(">", t.Arg(arg), t.Const(most))), _in(t.Me("role"), allowed)))
            return [t.Require(may, error, f"More than {most} needs the role {' or '.join(allowed)}.")]
        case c.Approved(_, id_arg, n, error):
            others = t.All(
                (t.Test("==", _it("record"), t.Of(bound(id_arg), "id")), t.Test("!=", _it("by"), t.Me("id")))
            )
            told = f"{n} other users must approve it first."
            return [t.Require(t.Test(">=", t.Count("approval", others), t.Const(n)), error, told)]
        case c.Rate(name, n, minutes, error):
            recent = t.All((
                t.Test("==", _it("tool"), t.Const(name)), t.Test("==", _it("by"), t.Me("id")),
                t.Test(">", _it("at"), t.Calc("-", t.Now(), t.Const(minutes))),
            ))  # fmt: skip
            told = f"At most {n} calls of this within {minutes} minutes."
            entry = t.Insert("entry", "call", (("tool", t.Const(name)), ("by", t.Me("id")), ("at", t.Now())))
            return [t.Require(t.Test("<", t.Count("call", recent), t.Const(n)), error, told), entry]
        case c.Version(_, id_arg, field, arg, error):
            current = t.Test("==", t.Of(bound(id_arg), field), t.Arg(arg))
            grown = t.Update(bound(id_arg), ((field, t.Calc("+", t.Of(bound(id_arg), field), t.Const(1))),))
            return [t.Require(current, error, f"It has changed meanwhile; {{{arg}}} is not its {said(field)}."), grown]
        case c.Idempotent(arg):
            return [t.Once(arg)]
        case c.Alive(entity, id_arg, field, error):
            there = t.Unset(t.Of(bound(id_arg), field))
            return [t.Require(there, error, f"There is no {said(entity)} {{{id_arg}}}.")]
    raise ValueError(f"{claim} is no guard")


def _effect(claim: c.Effect, tool: Tool) -> list[t.Step]:
    match claim:
        case c.Creates(entity, args, values, mine, stamp):
            return [t.Insert("new", entity, _values(args, values, mine, stamp))]
        case c.Copies(entity, id_arg, kept, args, values):
            old = tuple((f, cast("t.Expr", t.Of(bound(id_arg), f))) for f in kept)
            return [t.Insert("new", entity, old + _values(args, values, "", ""))]
        case c.Removes(_, id_arg):
            return [t.Remove(bound(id_arg))]
        case c.Sets(_, id_arg, args, values, mine, stamp):
            optional = {p.name for p in tool.params if not p.required}
            pairs = tuple(
                (f, cast("t.Expr", t.Or(t.Arg(a), t.Of(bound(id_arg), f)) if a in optional else t.Arg(a)))
                for f, a in args
            )
            return [t.Update(bound(id_arg), pairs + _values((), values, mine, stamp))]
        case c.Adds(_, id_arg, field, arg, sign):
            return [
                t.Update(
                    bound(id_arg), ((field, t.Calc("+" if sign > 0 else "-", t.Of(bound(id_arg), field), t.Arg(arg))),)
                )
            ]
        case c.Absorbs(entity, id_arg, other_arg, field, by, by_field):
            total = t.Calc("+", t.Of(bound(id_arg), field), t.Of(bound(other_arg), field))
            steps: list[t.Step] = [t.Update(bound(id_arg), ((field, total),))]
            if by:
                mine_ = t.Update("each", ((by_field, t.Of(bound(id_arg), "id")),))
                steps.append(t.Each("each", by, t.Test("==", _it(by_field), t.Of(bound(other_arg), "id")), (mine_,)))
            return [*steps, t.Remove(bound(other_arg))]
        case c.SetsEach(entity, values, ids_arg, field, arg, only_field, only):
            where: t.Cond = t.Test("in", _it("id"), t.Arg(ids_arg)) if ids_arg else t.Test("==", _it(field), t.Arg(arg))
            if only_field:
                where = t.All((where, _in(_it(only_field), only)))
            return [t.Each("each", entity, where, (t.Update("each", _values((), values, "", "")),))]
        case c.RemovesEach(entity, ids_arg):
            return [t.Each("each", entity, t.Test("in", _it("id"), t.Arg(ids_arg)), (t.Remove("each"),))]
        case c.Frees(_, id_arg, pool, pool_field, amount, held, taken):
            return [_freed(bound(id_arg), pool, pool_field, amount, held, taken)]
        case c.Expires(entity, field, state, of, to, pool, pool_field, amount, held):
            past = t.All((t.Test("<", _it(field), t.Now()), _in(_it(state), of)))
            freed = _freed("each", pool, pool_field, amount, held, "")
            return [t.Each("each", entity, past, (freed, t.Update("each", ((state, t.Const(to)),))))]
        case c.Unlinks(link, left, left_arg, right, right_arg):
            pair = t.All((t.Test("==", _it(left), t.Arg(left_arg)), t.Test("==", _it(right), t.Arg(right_arg))))
            return [t.Each("each", link, pair, (t.Remove("each"),))]
        case c.Notifies(_, id_arg, name):
            watched = t.Test("==", _it("record"), t.Arg(id_arg))
            notice = (
                ("watcher", cast("t.Expr", t.Of("each", "watcher"))),
                ("record", t.Arg(id_arg)),
                ("tool", t.Const(name)),
                ("at", t.Now()),
            )
            return [t.Each("each", "watch", watched, (t.Insert("notice", "notice", notice),))]
        case c.Undoes(error):
            return [t.Undo(error)]
    raise ValueError(f"{claim} is no effect")


def _freed(record: str, pool: str, pool_field: str, amount: str, held: str, taken: str) -> t.Effect:
    """Of the pool that `record` points to: less by its amount is held (and there)."""
    less = [(f, t.Calc("-", t.Of("pool", f), t.Of(record, amount))) for f in (held, taken) if f]
    return t.Each("pool", pool, t.Test("==", _it("id"), t.Of(record, pool_field)), (t.Update("pool", tuple(less)),))


def _values(args: c.Pairs, values: c.Values, mine: str, stamp: str) -> tuple[tuple[str, t.Expr], ...]:
    out: list[tuple[str, t.Expr]] = [(field, t.Arg(arg)) for field, arg in args]
    out += [(field, t.Const(value)) for field, value in values]
    if mine:
        out.append((mine, t.Me("id")))
    if stamp:
        out.append((stamp, t.Now()))
    return tuple(out)


def _where(filters: c.Filters, required: set[str], fixed: c.Values, mine: str = "") -> t.Cond:
    conds: list[t.Cond] = []
    for arg, field, op in filters:
        fits = t.Test(cast("t.Operator", op), _it(field), t.Arg(arg))
        conds.append(fits if arg in required else t.Any_((t.Not(t.Given(arg)), fits)))
    conds += [t.Test("==", _it(field), t.Const(value)) for field, value in fixed]
    if mine:
        conds.append(t.Test("==", _it(mine), t.Me("id")))
    return t.All(tuple(conds))


def _shown(claim: c.Shown, made: str, required: set[str]) -> t.Output:
    match claim:
        case c.Shows(_, id_arg, fields):
            return t.GiveRecord(bound(id_arg) if id_arg else made, fields)
        case c.Lists(entity, fields, filters, sort, descending, paged, mine, fixed, top, sort_arg, order_arg):
            offset, limit = (
                (t.Or(t.Arg("offset"), t.Const(0)), t.Or(t.Arg("limit"), t.Const(10)))
                if paged
                else (t.Const(0), t.Const(top))
            )
            by: t.Expr = t.Or(t.Arg(sort_arg), t.Const(sort)) if sort_arg else t.Const(sort)
            down = t.Test("==", t.Arg(order_arg), t.Const("descending")) if order_arg else t.YES if descending else t.NO
            return t.GiveList(entity, _where(filters, required, fixed, mine), fields, by, down, offset, limit)
        case c.Computes(how, entity, field, filters, fixed):
            where = _where(filters, required, fixed)
            value: t.Expr = t.Count(entity, where) if how == "count" else t.Total(_how(how), entity, field, where)
            return t.Give((("value", value),))


def _how(how: str) -> Literal["sum", "max", "min"]:
    return cast('Literal["sum", "max", "min"]', how)
