"""What the claims of a tool say that the world is like after a call, and what it gives back: on plain records.

As `arrange.py`, a second reading of the claims that knows nothing of programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from openk2.synth.world import claims as c
from openk2.synth.world.arrange import Situation
from openk2.synth.world.state import Record

Tables = dict[str, dict[str, Record]]
NEW = "(new)"
_FITS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda has, wanted: has == wanted,
    ">=": lambda has, wanted: has >= wanted,
    "<=": lambda has, wanted: has <= wanted,
    "in": lambda has, wanted: has in wanted,
    "has": lambda has, wanted: wanted.casefold() in has.casefold(),
}


class After:
    """Tables after the call; `made`: new records by entity (their ids are not known). `shown`: what is given back."""

    def __init__(self, s: Situation) -> None:
        self.s = s
        self.tables: Tables = {e: {k: dict(r) for k, r in table.items()} for e, table in s.state.tables.items()}
        self.made: dict[str, list[Record]] = {}
        self.last: Record | None = None
        self.found = {
            claim.id_arg: self.tables[claim.entity][s.args[claim.id_arg]]
            for claim in s.tool.claims
            if isinstance(claim, c.Needs)
        }
        self.shown: Any = None
        for claim in s.tool.claims:
            self._apply(claim)

    def _make(self, entity: str, **values: Any) -> None:
        blank: Record = {f.name: f.start if f.fixed else None for f in self.s.spec.entity(entity).fields}
        self.last = {"id": NEW} | blank | values
        self.made.setdefault(entity, []).append(self.last)

    def _all(self, entity: str) -> list[Record]:
        return [*self.tables[entity].values(), *self.made.get(entity, [])]

    def _stamps(self, claim: c.Creates | c.Sets) -> Record:
        out: Record = {}
        if claim.mine:
            out[claim.mine] = self.s.state.me["id"]
        if claim.stamp:
            out[claim.stamp] = self.s.now
        return out

    def _release(self, record: Record, claim: c.Frees | c.Expires, taken: str = "") -> None:
        pool = self.tables[claim.pool].get(record[claim.pool_field])
        if pool is not None:
            for field in filter(None, (claim.held, taken)):
                pool[field] = (pool[field] or 0) - (record[claim.amount] or 0)

    def _apply(self, claim: c.Claim) -> None:
        args, now, me = self.s.args, self.s.now, self.s.state.me["id"]
        match claim:
            case c.Creates(entity, pairs, values):
                self._make(entity, **{f: args.get(a) for f, a in pairs} | dict(values) | self._stamps(claim))
            case c.Copies(entity, id_arg, kept, pairs, values):
                old = {f: self.found[id_arg][f] for f in kept}
                self._make(entity, **old | {f: args.get(a) for f, a in pairs} | dict(values))
            case c.Removes(entity, id_arg):
                del self.tables[entity][args[id_arg]]
            case c.Sets(_, id_arg, pairs, values):
                given = {f: args[a] for f, a in pairs if args.get(a) is not None}
                self.found[id_arg].update(given | dict(values) | self._stamps(claim))
            case c.Adds(_, id_arg, field, arg, sign):
                self.found[id_arg][field] = (self.found[id_arg][field] or 0) + sign * args[arg]
            case c.Absorbs(entity, id_arg, other_arg, field, by, by_field):
                self.found[id_arg][field] = (self.found[id_arg][field] or 0) + (self.found[other_arg][field] or 0)
                for record in self.tables[by].values() if by else ():
                    if record[by_field] == args[other_arg]:
                        record[by_field] = args[id_arg]
                del self.tables[entity][args[other_arg]]
            case c.SetsEach(entity, values, ids_arg, field, arg, only_field, only):
                for record in self.tables[entity].values():
                    chosen = record["id"] in args[ids_arg] if ids_arg else record[field] == args[arg]
                    if chosen and (not only_field or record[only_field] in only):
                        record.update(dict(values))
            case c.RemovesEach(entity, ids_arg):
                self.tables[entity] = {k: r for k, r in self.tables[entity].items() if k not in args[ids_arg]}
            case c.Frees(_, id_arg, taken=taken):
                self._release(self.found[id_arg], claim, taken)
            case c.Expires(entity, field, state, of, to):
                for record in self.tables[entity].values():
                    if record[field] is not None and record[field] < now and record[state] in of:
                        self._release(record, claim)
                        record[state] = to
            case c.Unlinks(link, left, left_arg, right, right_arg):
                for key, record in list(self.tables[link].items()):
                    if record[left] == args[left_arg] and record[right] == args[right_arg]:
                        del self.tables[link][key]
            case c.Notifies(_, id_arg, tool):
                for watch in list(self.tables["watch"].values()):
                    if watch["record"] == args[id_arg]:
                        self._make("notice", watcher=watch["watcher"], record=args[id_arg], tool=tool, at=now)
            case c.Rate(tool):
                self._make("call", tool=tool, by=me, at=now)
            case c.Version(_, id_arg, field):
                self.found[id_arg][field] += 1
            case c.Shows(entity, id_arg, fields):
                record = self.found[id_arg] if id_arg else self.made[entity][0]
                self.shown = {f: record[f] for f in ("id", *fields)}
            case c.Lists():
                self.shown = self._listed(claim)
            case c.Computes(how, entity, field, filters, fixed):
                rows = [r for r in self._all(entity) if self._fits(r, filters, fixed)]
                numbers = [r[field] or 0 for r in rows] if how != "count" else []
                value = len(rows) if how == "count" else sum(numbers) if how == "sum" else 0
                if how in ("max", "min") and numbers:
                    value = max(numbers) if how == "max" else min(numbers)
                self.shown = {"value": value}

    def _fits(self, r: Record, filters: c.Filters, fixed: c.Values) -> bool:
        for arg, field, op in filters:
            wanted = self.s.args.get(arg)
            if wanted is None:
                continue
            if r[field] is None or not _FITS[op](r[field], wanted):
                return False
        return all(r[field] == value for field, value in fixed)

    def _listed(self, claim: c.Lists) -> Record:
        me = self.s.state.me["id"]
        rows = [r for r in self._all(claim.entity) if self._fits(r, claim.filters, claim.fixed)]
        rows = [r for r in rows if not claim.mine or r[claim.mine] == me]
        field = (self.s.args.get(claim.sort_arg) if claim.sort_arg else None) or claim.sort
        down = self.s.args.get(claim.order_arg) == "descending" if claim.order_arg else claim.descending
        known = sorted((r for r in rows if r[field] is not None), key=lambda r: r["id"])
        known.sort(key=lambda r: r[field], reverse=down)
        rows = known + sorted((r for r in rows if r[field] is None), key=lambda r: r["id"])
        start, most = 0, claim.top
        if claim.paged:
            given = self.s.args.get("limit")
            start, most = self.s.args.get("offset") or 0, 10 if given is None else given
        shown = [{f: r[f] for f in ("id", *claim.fields)} for r in rows[start : start + most]]
        return {"items": shown, "total": len(rows)}


def canonical(tables: Tables, known: Tables, made: dict[str, list[Record]] | None = None) -> str:
    """Tables as text, ids of records that are not in `known` left out."""
    out: dict[str, Any] = {}
    for entity, table in tables.items():
        old = {k: r for k, r in table.items() if k in known[entity]}
        new = [r for k, r in table.items() if k not in known[entity]] + (made or {}).get(entity, [])
        out[entity] = [old, sorted(json.dumps(r | {"id": NEW}, sort_keys=True) for r in new)]
    return json.dumps(out, sort_keys=True)
