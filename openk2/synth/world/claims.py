"""What a tool says that it does: the algebra from which tools are composed.

A tool is a list of claims. From the same claims follow, each in its own file and without knowing the others, the code
that runs (`lower.py`), the laws that test it from outside (`laws.py`), the words that a model and a user read
(`words.py`), and the steps of a plan (`synth/tasks`). So code and test are two readings of one statement, and a mutant
of the code that no law notices is a gap in the laws.

`arg` is always the name of an argument. Fields are of the entity that the claim names; `id_arg` is the argument that
holds the id of its record. Values of `args` pairs are (field, argument); of `values` pairs (field, constant).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openk2.synth.world.tree import Value

Pairs = tuple[tuple[str, str], ...]  # (field, argument)
Values = tuple[tuple[str, Value], ...]  # (field, constant)
Filters = tuple[tuple[str, str, str], ...]  # (argument, field, operator: == >= <= in has), where the argument is given


# ---- guards: each names the error of a refusal


@dataclass(frozen=True)
class Needs:
    """The record must exist."""

    entity: str
    id_arg: str
    error: str = "NotFound"


@dataclass(frozen=True)
class Refers:
    """The record must exist, if the argument is given."""

    entity: str
    arg: str
    error: str = "NotFound"


@dataclass(frozen=True)
class InState:
    """The record's `field` must be one of `allowed`."""

    entity: str
    id_arg: str
    field: str
    allowed: tuple[str, ...]
    error: str = "InvalidState"


@dataclass(frozen=True)
class Matches:
    """The record's `field` (an id) must be the argument: what lies in another record is named with it, as in a path."""

    entity: str
    id_arg: str
    field: str
    arg: str
    error: str = "NotFound"


@dataclass(frozen=True)
class Unique:
    """No record of the entity may have this value in `field` already (`scope`: of those with equal values there)."""

    entity: str
    field: str
    arg: str
    scope: str = ""  # a field that is given by an argument of the same name
    error: str = "AlreadyExists"


@dataclass(frozen=True)
class AtMost:
    """There may be at most `n` records of the entity (`per`: with the caller in that field)."""

    entity: str
    n: int
    per: str = ""
    error: str = "LimitExceeded"


@dataclass(frozen=True)
class Unused:
    """No record of `by` may point to it with `by_field`."""

    entity: str
    id_arg: str
    by: str
    by_field: str
    error: str = "InUse"


@dataclass(frozen=True)
class Enough:
    """The record's `field`, less its `held` field if there is one, must be at least the amount."""

    entity: str
    id_arg: str
    field: str
    arg: str
    held: str = ""
    error: str = "Insufficient"


@dataclass(frozen=True)
class Room:
    """The record's `field` plus the amount must not exceed its `limit` field."""

    entity: str
    id_arg: str
    field: str
    limit: str
    arg: str
    error: str = "CapacityExceeded"


@dataclass(frozen=True)
class Different:
    """Two arguments must differ."""

    arg: str
    other: str
    error: str = "SameRecord"


@dataclass(frozen=True)
class Same:
    """Two records of the entity must agree in `field` (one currency, one region)."""

    entity: str
    id_arg: str
    other_arg: str
    field: str
    error: str = "Mismatch"


@dataclass(frozen=True)
class Ahead:
    """The time in the argument must lie in the future."""

    arg: str
    error: str = "InvalidTime"


@dataclass(frozen=True)
class Ordered:
    """The first argument must be less than the second."""

    arg: str
    other: str
    error: str = "InvalidRange"


@dataclass(frozen=True)
class FreeSlot:
    """No record with the same `place` may overlap [start, end); `open_field`, `open_values`: of those that count."""

    entity: str
    place: str
    place_arg: str
    start: str
    start_arg: str
    end: str
    end_arg: str
    open_field: str = ""
    open_values: tuple[str, ...] = ()
    error: str = "SlotTaken"


@dataclass(frozen=True)
class NotUnder:
    """A record must not become its own parent, nor the child of its own child (`parent` field)."""

    entity: str
    id_arg: str
    parent_arg: str
    parent: str
    error: str = "CycleNotAllowed"


@dataclass(frozen=True)
class Linked:
    """A link record between the two must exist (`present`) or must not."""

    link: str
    left: str
    left_arg: str
    right: str
    right_arg: str
    present: bool
    error: str = "NotLinked"


# ---- policies: guards that a handbook states; each is a sentence besides


@dataclass(frozen=True)
class Owner:
    """Only the user in the record's `field` may do it (`or_role`: or one with that role)."""

    entity: str
    id_arg: str
    field: str
    or_role: str = ""
    error: str = "Forbidden"


@dataclass(frozen=True)
class Role:
    """Only users with one of these roles."""

    allowed: tuple[str, ...]
    error: str = "Forbidden"


@dataclass(frozen=True)
class Hours:
    """Only between these hours of the day, [start, end)."""

    start: int
    end: int
    error: str = "OutsideHours"


@dataclass(frozen=True)
class Deadline:
    """Only until `minutes` before (after, if negative) the time in the record's `field`; None there is no deadline."""

    entity: str
    id_arg: str
    field: str
    minutes: int
    error: str = "TooLate"


@dataclass(frozen=True)
class Ceiling:
    """An amount above `most` needs one of these roles."""

    arg: str
    most: int
    allowed: tuple[str, ...]
    error: str = "ApprovalRequired"


@dataclass(frozen=True)
class Approved:
    """`n` different users, the caller not among them, must have approved the record (entity `approval`)."""

    entity: str
    id_arg: str
    n: int
    error: str = "ApprovalRequired"


@dataclass(frozen=True)
class Rate:
    """At most `n` calls of this tool by one user within `minutes` (kept in the hidden entity `call`)."""

    tool: str
    n: int
    minutes: int
    error: str = "TooManyRequests"


@dataclass(frozen=True)
class Version:
    """The argument must be the record's `field` (a counter): else somebody changed it meanwhile. A change adds one."""

    entity: str
    id_arg: str
    field: str
    arg: str
    error: str = "Stale"


@dataclass(frozen=True)
class Idempotent:
    """A second call with the same key does nothing and answers as the first did."""

    arg: str


@dataclass(frozen=True)
class Alive:
    """A record that was deleted softly (a time in `field`) counts as not there."""

    entity: str
    id_arg: str
    field: str
    error: str = "NotFound"


# ---- effects


@dataclass(frozen=True)
class Creates:
    """One new record. `mine`: the field that gets the caller; `stamp`: the field that gets the time."""

    entity: str
    args: Pairs = ()
    values: Values = ()
    mine: str = ""
    stamp: str = ""


@dataclass(frozen=True)
class Removes:
    entity: str
    id_arg: str


@dataclass(frozen=True)
class Sets:
    """Fields become arguments (where given) and constants. `stamp`: a field that gets the time; `mine`: the caller."""

    entity: str
    id_arg: str
    args: Pairs = ()
    values: Values = ()
    mine: str = ""
    stamp: str = ""


@dataclass(frozen=True)
class Adds:
    """The record's `field` grows (or shrinks, sign -1) by the amount."""

    entity: str
    id_arg: str
    field: str
    arg: str
    sign: Literal[1, -1] = 1


@dataclass(frozen=True)
class Copies:
    """One new record with these fields as the old one has them, and constants."""

    entity: str
    id_arg: str
    kept: tuple[str, ...]
    args: Pairs = ()
    values: Values = ()


@dataclass(frozen=True)
class Absorbs:
    """The other's `field` is added to the first one's, what pointed to it points to the first, and it is gone."""

    entity: str
    id_arg: str
    other_arg: str
    field: str
    by: str = ""
    by_field: str = ""


@dataclass(frozen=True)
class SetsEach:
    """Constants in every record listed by the `ids_arg`, or (without) whose `field` is the value of `arg`; of those in
    one of `only` states of `only_field`, if stated.
    """

    entity: str
    values: Values
    ids_arg: str = ""
    field: str = ""
    arg: str = ""
    only_field: str = ""
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemovesEach:
    """Every record listed by the `ids_arg` is gone; ids of none are passed over."""

    entity: str
    ids_arg: str


@dataclass(frozen=True)
class Frees:
    """What a record holds of its pool is held no longer: the pool's `held` shrinks by the record's `amount`, and so
    does its field `taken`, if there is one. `pool_field` of the record points to the pool.
    """

    entity: str
    id_arg: str
    pool: str
    pool_field: str
    amount: str
    held: str
    taken: str = ""


@dataclass(frozen=True)
class Expires:
    """Every record whose time in `field` is past and whose `state` is one of `of` gets the state `to`, and what it
    holds of its pool (as in `Frees`) is held no longer.
    """

    entity: str
    field: str
    state: str
    of: tuple[str, ...]
    to: str
    pool: str
    pool_field: str
    amount: str
    held: str


@dataclass(frozen=True)
class Unlinks:
    """The link record between the two is gone."""

    link: str
    left: str
    left_arg: str
    right: str
    right_arg: str


@dataclass(frozen=True)
class Notifies:
    """Every watcher (entity `watch` with this record) gets a notice (entity `notice`) that names the tool."""

    entity: str
    id_arg: str
    tool: str


@dataclass(frozen=True)
class Undoes:
    """The caller's last change is taken back."""

    error: str = "NothingToUndo"


# ---- what is given back


@dataclass(frozen=True)
class Shows:
    """Fields of the record found (`id_arg`) or made (`id_arg` "")."""

    entity: str
    id_arg: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Lists:
    """Records that match the given filters, sorted, a page at a time (`offset`, `limit` arguments where `paged`).

    `mine`: only those with the caller in that field. `fixed`: constants that fields must have. `top`: at most so many.
    `sort_arg`: an argument that names another field to sort by; `order_arg`: one that says `ascending` (as where it is
    not given) or `descending`, instead of `descending`.
    """

    entity: str
    fields: tuple[str, ...]
    filters: Filters = ()
    sort: str = "id"
    descending: bool = False
    paged: bool = False
    mine: str = ""
    fixed: Values = ()
    top: int = 50
    sort_arg: str = ""
    order_arg: str = ""


@dataclass(frozen=True)
class Computes:
    """Count, sum, max or min of `field` over the records that match the given filters."""

    how: Literal["count", "sum", "max", "min"]
    entity: str
    field: str
    filters: Filters = ()
    fixed: Values = ()


Policy = Owner | Role | Hours | Deadline | Ceiling | Approved | Rate | Version | Idempotent | Alive
Guard = (
    Needs | Refers | InState | Matches | Unique | AtMost | Unused | Enough | Room | Different | Same | Ahead | Ordered
    | FreeSlot | NotUnder | Linked | Policy
)  # fmt: skip
Effect = (
    Creates | Removes | Sets | Adds | Copies | Absorbs | SetsEach | RemovesEach | Frees | Expires | Unlinks | Notifies
    | Undoes
)  # fmt: skip
Shown = Shows | Lists | Computes
Claim = Guard | Effect | Shown
