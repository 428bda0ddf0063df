"""What makes a trajectory good, as a list of small checks: each is a value, has its own code, and is a sentence.

The checks of a task follow from its plan and travel with the trajectory (`proof.rubric`). Those of the state are the
goal: all of them hold exactly where the end differs from the start as the plan's end does, whatever the way. The rest
look at how the agent got there and at what it told the user. Each passes or fails by itself, so the share that passes
is a score, and what fails says what went wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from openk2.synth.task.facts import counters
from openk2.synth.task.phrases import declines
from openk2.synth.world.spec import WorldSpec
from openk2.synth.world.state import Record, State
from openk2.synth.world.tree import said

NOW = "<now>"  # a value that the clock gave during the dialogue
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()


# ---- the state at the end


@dataclass(frozen=True)
class Becomes:
    """A record that was there has this value in a field. `value`: NOW and `new(entity)` stand for what a run gives."""

    entity: str
    key: str
    field: str
    value: Any


@dataclass(frozen=True)
class Made:
    """There are exactly `n` new records with these values (fields left out are None)."""

    entity: str
    values: tuple[tuple[str, Any], ...]
    n: int


@dataclass(frozen=True)
class Gone:
    """A record that was there is there no more."""

    entity: str
    key: str


@dataclass(frozen=True)
class Kept:
    """Nothing is different at the end but what the other checks of the rubric say."""


# ---- what was told


@dataclass(frozen=True)
class States:
    """The answer to a wish gives the figure or name that was asked for, in one of these forms."""

    wish: int
    forms: tuple[str, ...]


@dataclass(frozen=True)
class Fulfils:
    """The answer to a wish that can be fulfilled does not say that it cannot be."""

    wish: int


@dataclass(frozen=True)
class Declines:
    """The answer to a wish that cannot be fulfilled says so."""

    wish: int


@dataclass(frozen=True)
class Explains:
    """The answer to a wish that is declined gives the reason: one of these words is in it."""

    wish: int
    words: tuple[str, ...]


# ---- how it was done


@dataclass(frozen=True)
class Asked:
    """What the user kept back was said before it was used as this argument."""

    tool: str
    arg: str
    value: Any
    said: str


@dataclass(frozen=True)
class OwnTools:
    """Only tools were called that the agent has, with arguments that can be read."""


@dataclass(frozen=True)
class KnownIds:
    """No call and no answer uses an id that nobody had told or shown before."""


@dataclass(frozen=True)
class KnownFigures:
    """No answer gives a figure that nobody had told or shown before."""


@dataclass(frozen=True)
class Once:
    """No call that changes something was made again after it had succeeded."""


StateCheck = Becomes | Made | Gone | Kept
Check = StateCheck | States | Fulfils | Declines | Explains | Asked | OwnTools | KnownIds | KnownFigures | Once
CONDUCT: tuple[Check, ...] = (OwnTools(), KnownIds(), KnownFigures(), Once())
_CHECKS: dict[str, type] = {kind.__name__: kind for kind in get_args(Check)}


def to_json(rubric: Iterable[Check]) -> list[dict[str, Any]]:
    return [{"check": type(check).__name__} | _lists(vars(check)) for check in rubric]


def from_json(data: Iterable[dict[str, Any]]) -> tuple[Check, ...]:
    """Raises KeyError or TypeError for what is no rubric."""
    return tuple(
        _CHECKS[d["check"]](**{name: _tuples(value) for name, value in d.items() if name != "check"}) for d in data
    )


def _lists(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, tuple):
        return [_lists(part) for part in value]
    return {name: _lists(part) for name, part in value.items()} if isinstance(value, dict) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# ---- what a rubric looks at


@dataclass(frozen=True)
class Done:
    """One call of the agent. `at`: how many messages there were before it; `ok`: it was no error."""

    at: int
    wish: int
    tool: str
    args: dict[str, Any]
    ok: bool
    changes: bool


@dataclass
class Evidence:
    """What was seen of a dialogue. `answers`: by wish, what the agent said; `said`: by the user, (at message, text)."""

    spec: WorldSpec
    start: State
    end: State
    answers: list[list[str]]
    calls: list[Done] = field(default_factory=list)
    said: list[tuple[int, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # calls of tools the agent does not have
    guessed: list[str] = field(default_factory=list)  # ids that nobody had shown
    unseen: list[str] = field(default_factory=list)  # figures that nobody had shown
    beside: list[str] = field(default_factory=list)  # other worlds that were changed


# ---- the goal


def new(entity: str) -> str:
    """Stands for the id of a new record: ids depend on the order in which records are made."""
    return f"<new {entity}>"


def state_checks(spec: WorldSpec, start: State, end: State, given: Iterable[Any] = ()) -> list[Check]:
    """The goal: what the end is to be, seen from the start. `given`: values that calls gave, so no stamps."""
    skip, given = counters(spec), set(given)
    out: list[Check] = []
    for entity in spec.entities:
        if entity.hidden:
            continue
        old, table = start.tables[entity.name], end.tables[entity.name]
        if old is table:
            continue
        made: dict[str, Made] = {}
        for key, record in table.items():
            before = old.get(key)
            if before is record or before == record:
                continue
            form = {
                f.name: _form(f.type.kind, f.type.of, record[f.name], start, end, given)
                for f in entity.fields
                if (entity.name, f.name) not in skip
            }
            if before is None:
                values = tuple(sorted((name, value) for name, value in form.items() if value is not None))
                same = made.get(repr(values))
                made[repr(values)] = Made(entity.name, values, same.n + 1 if same else 1)
            else:
                out += [Becomes(entity.name, key, name, v) for name, v in form.items() if record[name] != before[name]]
        out += [made[values] for values in sorted(made)]
        out += [Gone(entity.name, key) for key in old if key not in table]
    return [*out, Kept()]


def _form(kind: str, of: str, value: Any, start: State, end: State, given: set[Any]) -> Any:
    if kind == "time" and isinstance(value, int) and start.now < value <= end.now and value not in given:
        return NOW
    if kind == "id" and value in end.tables.get(of, {}) and value not in start.tables[of]:
        return new(of)
    return tuple(value) if isinstance(value, list) else value


def _fits(expected: Any, value: Any, e: Evidence) -> bool:
    if expected == NOW:
        return isinstance(value, int) and e.start.now < value <= e.end.now
    if isinstance(expected, str) and expected.startswith("<new "):
        entity = expected[5:-1]
        return value in e.end.tables[entity] and value not in e.start.tables[entity]
    return (tuple(value) if isinstance(value, list) else value) == expected


def _is(made: Made, record: Record, skip: frozenset[tuple[str, str]], e: Evidence) -> bool:
    values = dict(made.values)
    names = (name for name in record if name != "id" and (made.entity, name) not in skip)
    return all(_fits(values.get(name), record[name], e) for name in names)


def _others(rubric: Sequence[Check], e: Evidence) -> list[str]:
    """What is different without a check of the rubric that says so."""
    fields = {(x.entity, x.key, x.field) for x in rubric if isinstance(x, Becomes)}
    gone = {(x.entity, x.key) for x in rubric if isinstance(x, Gone)}
    made = [x for x in rubric if isinstance(x, Made)]
    skip = counters(e.spec)
    out = list(e.beside)
    for entity in e.spec.entities:
        name, old, table = entity.name, e.start.tables[entity.name], e.end.tables[entity.name]
        if entity.hidden or old is table:
            continue
        out += [f"the {name} {key} is gone" for key in old if key not in table and (name, key) not in gone]
        for key, record in table.items():
            before = old.get(key)
            if before is record or before == record:
                continue
            if before is None:
                if not any(x.entity == name and _is(x, record, skip, e) for x in made):
                    out.append(f"there is another new {name}, {key}")
            else:
                out += [
                    f"the {f} of the {name} {key} was changed"
                    for f in record
                    if record[f] != before[f] and (name, key, f) not in fields and (name, f) not in skip
                ]
    return out


# ---- the checks


def failures(rubric: Sequence[Check], e: Evidence) -> list[tuple[Check, str]]:
    """The checks that fail, each with what was found instead."""
    return [(check, found) for check in rubric if (found := _found(check, rubric, e))]


def reached(rubric: Sequence[Check], e: Evidence) -> bool:
    """Whether all checks of the state hold."""
    return not any(_found(check, rubric, e) for check in rubric if isinstance(check, StateCheck))


def _found(check: Check, rubric: Sequence[Check], e: Evidence) -> str:
    """What stands against the check, or "" where it holds."""
    match check:
        case Becomes(entity, key, name, value):
            record = e.end.tables[entity].get(key)
            if record is None:
                return f"the {entity} {key} is gone"
            return "" if _fits(value, record[name], e) else f"the {name} of the {entity} {key} is {record[name]!r}"
        case Made(entity, _, n):
            old, skip = e.start.tables[entity], counters(e.spec)
            count = sum(_is(check, r, skip, e) for key, r in e.end.tables[entity].items() if key not in old)
            return "" if count == n else f"there are {count} new {entity} records with these values, not {n}"
        case Gone(entity, key):
            return f"the {entity} {key} is still there" if key in e.end.tables[entity] else ""
        case Kept():
            return "; ".join(_others(rubric, e)[:3])
        case States(wish, forms):
            text = " ".join(_answers(e, wish))
            return "" if any(_says(text, form) for form in forms) else f"{forms[0]} is not in the answer"
        case Fulfils(wish):
            last = _answers(e, wish)[-1:]
            if not last:
                return "there is no answer"
            return "a wish that can be fulfilled is said to be impossible" if declines(last[0]) else ""
        case Declines(wish):
            last = _answers(e, wish)[-1:]
            return "" if last and declines(last[0]) else "an impossible wish is said to be done"
        case Explains(wish, words):
            text = " ".join(_answers(e, wish)).lower()
            return "" if any(word in text for word in words) else "the answer gives no reason"
        case Asked(tool, arg, value, said):
            told = min((at for at, text in e.said if said in text), default=len(e.said) + 10**9)
            early = [d for d in e.calls if d.tool == tool and _lists(d.args.get(arg)) == _lists(value) and d.at < told]
            return f"{tool} was called with {arg} {value!r}, which nobody had said" if early else ""
        case OwnTools():
            return "; ".join(e.foreign[:3])
        case KnownIds():
            return "; ".join(e.guessed[:3])
        case KnownFigures():
            return "; ".join(e.unseen[:3])
        case Once():
            calls = Counter((d.tool, json.dumps(d.args, sort_keys=True)) for d in e.calls if d.ok and d.changes)
            return "; ".join(f"{tool} was called {n} times with {args}" for (tool, args), n in calls.items() if n > 1)
    raise TypeError(f"{check!r} is no check")


def _answers(e: Evidence, wish: int) -> list[str]:
    return e.answers[wish] if wish < len(e.answers) else []


def _says(text: str, form: str) -> bool:
    """The form stands in the text as a word of its own; small numbers also as number words."""
    forms = [form, _NUMBERS[int(form)]] if form.isdigit() and int(form) < len(_NUMBERS) else [form]
    return any(re.search(rf"(?<![\w.-]){re.escape(f)}(?![\w-]|\.\d)", text, re.IGNORECASE) for f in forms)


# ---- in words


def sentence_of(check: Check) -> str:
    """What the check asks, as a person reads it."""
    match check:
        case Becomes(entity, key, name, value):
            return f"At the end the {said(name)} of the {said(entity)} {key} is {_shown(value)}."
        case Made(entity, values, n):
            told = ", ".join(f"{said(name)} {_shown(value)}" for name, value in values)
            return f"There is exactly {n} new {said(entity)} with {told}."
        case Gone(entity, key):
            return f"The {said(entity)} {key} is gone."
        case Kept():
            return "Nothing else is different."
        case States(wish, forms):
            return f"The answer to wish {wish + 1} says {forms[0]}."
        case Fulfils(wish):
            return f"The answer to wish {wish + 1} does not decline it."
        case Declines(wish):
            return f"The answer to wish {wish + 1} declines it."
        case Explains(wish, words):
            return f"The answer to wish {wish + 1} gives the reason ({' or '.join(words[:4])})."
        case Asked(tool, arg, _, told):
            return f"The {said(arg)} ({told}) was said before {tool} was called with it."
        case OwnTools():
            return "Only the agent's own tools were called."
        case KnownIds():
            return "No id was used that nobody had told or shown."
        case KnownFigures():
            return "No answer gives a figure that nobody had told or shown."
        case Once():
            return "No call that changed something was made twice."
    raise TypeError(f"{check!r} is no check")


def _shown(value: Any) -> str:
    if value == NOW:
        return "the time of the change"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "nothing"
    return "nothing" if value is None else str(value).strip("<>")
