"""Programs of tools as trees: guards, effects and output over a typed store.

From a tree follow the Python function that runs (`code.py`), the signature that finds tools alike (`signature.py`) and
the mutants that the tests of a tool must catch (`mutants.py`). Goals are conditions of this language too.

Guards come before effects, so that a call that is refused has changed nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Value = str | int | bool | list[str] | None
Kind = Literal["text", "int", "money", "time", "flag", "choice", "id", "ids", "texts", "object", "objects"]
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "has"]


def said(name: str) -> str:
    """A name of an entity, a field or a value as people say it."""
    return name.replace("_", " ")


@dataclass(frozen=True)
class Type:
    """Of a field or an argument. `of`: the entity of an id or of ids; `values`: of a choice, or of each of `texts`;
    `parts`: the plain fields (text, int, flag, choice) of an object, or of each of `objects`; all may be left out.

    money is in cents; time is in minutes since the world began (texts show both as a person writes them).
    """

    kind: Kind
    of: str = ""
    values: tuple[str, ...] = ()
    parts: tuple[Field, ...] = ()


@dataclass(frozen=True)
class Field:
    """`low`, `high`: bounds of a fresh world's numbers; where `fixed`, a first record has `start` (None: not set)."""

    name: str
    type: Type
    low: int = 0
    high: int = 100
    start: Value = None
    fixed: bool = False


@dataclass(frozen=True)
class Entity:
    """A table of records `{"id": ..., field: value}`. `hidden` ones are bookkeeping: no goal or text speaks of them."""

    name: str  # snake_case, singular
    fields: tuple[Field, ...]
    hidden: bool = False

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)


@dataclass(frozen=True)
class Param:
    """An argument. `low` and `high` bound numbers (both included). `doc` says what it is, for the schema."""

    name: str
    type: Type
    doc: str = ""
    required: bool = True
    low: int | None = None
    high: int | None = None


# ---- expressions: what a value is made from


@dataclass(frozen=True)
class Const:
    value: Value


@dataclass(frozen=True)
class Arg:
    """An argument; None where it was not given."""

    name: str


@dataclass(frozen=True)
class Of:
    """A field (or "id") of a record that a step has bound."""

    bound: str
    field: str


@dataclass(frozen=True)
class Now:
    """The world's clock, in minutes."""


@dataclass(frozen=True)
class Me:
    """A field of the caller's own record: "id" or "role"."""

    field: str


@dataclass(frozen=True)
class Calc:
    """Integer arithmetic: + - * // % min max. Division by zero gives 0."""

    op: Literal["+", "-", "*", "//", "%", "min", "max"]
    a: Expr
    b: Expr


@dataclass(frozen=True)
class Or:
    """`a`, or `b` where `a` is None."""

    a: Expr
    b: Expr


@dataclass(frozen=True)
class Count:
    """Records of an entity for which `where` holds; they are bound as `it`."""

    entity: str
    where: Cond


@dataclass(frozen=True)
class Total:
    """Sum, largest or smallest of a field over such records; 0 where there is none."""

    how: Literal["sum", "max", "min"]
    entity: str
    field: str
    where: Cond


Expr = Const | Arg | Of | Now | Me | Calc | Or | Count | Total


# ---- conditions


@dataclass(frozen=True)
class Test:
    """Comparison of two values of one kind; `in` takes a list on the right; `has`: the left text contains the right
    one, letter case aside. Unequal kinds or None compare as False.
    """

    op: Operator
    a: Expr
    b: Expr


@dataclass(frozen=True)
class All:
    of: tuple[Cond, ...] = ()


@dataclass(frozen=True)
class Any_:
    of: tuple[Cond, ...]


@dataclass(frozen=True)
class Not:
    of: Cond


@dataclass(frozen=True)
class Given:
    """Whether an optional argument was given."""

    arg: str


@dataclass(frozen=True)
class Unset:
    """Whether a value is None."""

    value: Expr


Cond = Test | All | Any_ | Not | Given | Unset
YES, NO = All(()), Any_(())


# ---- steps of a tool


@dataclass(frozen=True)
class Find:
    """Bind the record whose id `key` is; refused with `error` where there is none."""

    bind: str
    entity: str
    key: Expr
    error: str = "NotFound"


@dataclass(frozen=True)
class Require:
    """Refused with `error` and `message` unless `cond` holds. `{arg}` in the message is filled from the arguments."""

    cond: Cond
    error: str
    message: str


@dataclass(frozen=True)
class Insert:
    """A new record with a fresh id, bound as `bind`. Fields without a value are None."""

    bind: str
    entity: str
    values: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True)
class Update:
    bound: str
    values: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True)
class Remove:
    bound: str


@dataclass(frozen=True)
class Each:
    """The effects `do` for every record (bound as `bind`) for which `where` holds, in order of ids."""

    bind: str
    entity: str
    where: Cond
    do: tuple[Effect, ...]


@dataclass(frozen=True)
class Once:
    """With a key that was used before, the tool answers as it did then and changes nothing (idempotency key)."""

    arg: str


@dataclass(frozen=True)
class Undo:
    """Put back the records that the caller's last change touched; refused where there is none."""

    error: str = "NothingToUndo"


Effect = Insert | Update | Remove | Each
Step = Find | Require | Once | Undo | Effect


# ---- output


@dataclass(frozen=True)
class Give:
    """One JSON object of named values."""

    values: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True)
class GiveRecord:
    """Fields of a bound record, its id first."""

    bound: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class GiveList:
    """Records as `{"items": [...], "total": n}`, in order of the field that `sort` names (then id), from `offset`, at
    most `limit`.
    """

    entity: str
    where: Cond
    fields: tuple[str, ...]
    sort: Expr = Const("id")
    descending: Cond = NO
    offset: Expr = Const(0)
    limit: Expr = Const(50)


Output = Give | GiveRecord | GiveList


@dataclass(frozen=True)
class Program:
    """What a tool does: guards, then effects, then what it gives back."""

    steps: tuple[Step, ...]
    output: Output


def walk(node: Any) -> Iterator[Any]:
    """The node and all nodes below it, parents first."""
    if isinstance(node, tuple):
        for child in node:
            yield from walk(child)
    elif dataclasses.is_dataclass(node):
        yield node
        for field in dataclasses.fields(node):
            yield from walk(getattr(node, field.name))
