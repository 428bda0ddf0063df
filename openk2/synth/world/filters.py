"""What a list can be asked for: ids, values of a field, a span of time or numbers, a part of a name, an order, a page.

Each filter is (argument, field, operator), as `claims.Lists` has it.
"""

from __future__ import annotations

import re

from openk2.synth.world.draft import Draft
from openk2.synth.world.schemas import PART_OF, Operation, Slot, singular
from openk2.synth.world.tree import Field, Param, Type, said

Filter = tuple[str, str, str]

_MOST = 6
_FROM = re.compile(r"(^|_)(start|after|since|from|begin|earliest)(_|$)")
_UNTIL = re.compile(r"(^|_)(end|before|until|to|latest|max)(_|$)")
_WHAT = {">=": "from this on", "<=": "up to this", "has": "that contain this", "in": "that are one of these"}


def page_params() -> list[Param]:
    return [
        Param("offset", Type("int"), "How many to skip.", False, 0),
        Param("limit", Type("int"), "How many at most (10 if not given).", False, 1, 50),
    ]


def order(draft: Draft, entity: str, by: bool, order: bool) -> tuple[list[Param], str, str]:
    """(arguments, the one that names the field to sort by, the one that says in which order); "" for none."""
    fields = [f.name for f in draft.of_kind(entity, "int", "money", "time", "text")][:6]
    params: list[Param] = []
    if by and len(fields) > 1:
        values = tuple(sorted(draft.rng.sample(fields, draft.rng.randint(2, len(fields)))))
        params.append(Param("sort_by", Type("choice", values=values), "By which field the list is sorted.", False))
    sort = "sort_by" if params else ""
    if order:
        both = Type("choice", values=("ascending", "descending"))
        params.append(Param("sort_order", both, "The smallest first (as without it), or the largest.", False))
    return params, sort, "sort_order" if order else ""


def asked(draft: Draft, operation: Operation, looks_up: bool) -> tuple[list[Param], list[Filter]]:
    """The filters that the real operation has; `looks_up`: what it requires stays required (else now and then)."""
    fields = draft.fields[operation.noun]
    params: list[Param] = []
    filters: list[Filter] = []
    for slot in sorted(dict.fromkeys(operation.inputs), key=lambda s: not s.required):
        made = _filter(draft, operation.noun, slot, looks_up)
        if made is None or len(params) == _MOST:
            continue
        field, op, kind = made
        required = slot.required and (looks_up or draft.chance(0.3))
        params.append(Param(slot.name, kind, _said(field, op), required))
        filters.append((slot.name, field, op))
    assert all(field in fields or field == "id" for _, field, _ in filters)
    return params, filters


def _said(field: str, op: str) -> str:
    name = said(field)
    return f"Only those with {'this ' + name if op == '==' else 'the ' + name + ' ' + _WHAT[op]}."


def _filter(draft: Draft, entity: str, slot: Slot, looks_up: bool) -> tuple[str, str, Type] | None:
    """(field, operator, type of the argument) for an input of a real operation."""
    fields = draft.fields[entity]
    f, one = fields.get(slot.name), fields.get(singular(slot.name)[0])
    if slot.kind in ("id", "ids") and slot.of == entity:
        return "id", "in" if slot.kind == "ids" else "==", Type(slot.kind, entity)
    if f and f.type.kind in ("int", "money", "time"):
        return f.name, "<=" if _UNTIL.search(f.name) else ">=", f.type
    if f and f.type.kind in ("text", "choice", "flag", "id"):
        return f.name, "has" if looks_up and f.type.kind == "text" else "==", f.type
    if slot.kind == "texts" and one and one.type.kind in ("text", "choice"):
        return one.name, "in", Type("texts", values=one.type.values)
    if slot.kind == "ids" and (of := fields.get(f"{slot.of}_id")) and of.type == Type("id", slot.of):
        return of.name, "in", Type("ids", slot.of)
    times = draft.of_kind(entity, "time")
    if slot.kind == "time" and times and (_FROM.search(slot.name) or _UNTIL.search(slot.name)):
        return times[0].name, ">=" if _FROM.search(slot.name) else "<=", Type("time")
    if slot.kind == "text" and PART_OF.search(slot.name) and (label := label_field(draft, entity)):
        return label.name, "has", Type("text")
    return None


def label_field(draft: Draft, entity: str) -> Field | None:
    return next((f for f in draft.of_kind(entity, "text") if f.name.endswith(("name", "title", "text"))), None)


def narrow(draft: Draft, entity: str, count: int, without: tuple[str, ...] = ()) -> tuple[list[Param], list[Filter]]:
    """Up to `count` filters for a list of the entity, none of them required, none on the fields `without`."""
    label = label_field(draft, entity)
    fields = [f for f in draft.of_kind(entity, "choice", "flag", "id", "int", "money", "time") if f.name not in without]
    if label and label.name not in without:
        fields.append(label)
    params: list[Param] = []
    filters: list[Filter] = []
    for f in draft.rng.sample(fields, min(count, len(fields))):
        name, op, kind = f.name, "==", f.type
        if f.type.kind in ("int", "money", "time"):
            op = draft.rng.choice((">=", "<="))
            first = ("after", "before") if f.type.kind == "time" else ("min", "max")
            name = f"{first[op == '<=']}_{f.name}"
        elif f.type.kind == "text":
            name, op = f"{f.name}_contains", "has"
        elif f.type.kind in ("choice", "id") and draft.chance(0.3):
            name, op = f"{f.name}_in", "in"
            kind = Type("texts", values=f.type.values) if f.type.kind == "choice" else Type("ids", f.type.of)
        params.append(Param(name, kind, _said(f.name, op), False))
        filters.append((name, f.name, op))
    return params, filters
