"""Tasks planned backwards from what is to be: wishes with the calls that fulfil them, in a state made for them.

A plan is kept only if its execution goes as planned and every call of it is needed (`needed.py`); wishes that stand in
each other's way are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from openk2.synth.task.facts import PAGE
from openk2.synth.task.rubric import NOW, Becomes, Kept, state_checks
from openk2.synth.world import claims as c
from openk2.synth.world.state import State
from openk2.synth.world.world import Result, World


@dataclass
class Call:
    """One call of a plan. `why`: of a call that makes another possible, the guard it satisfies; else ""."""

    tool: str
    args: dict[str, Any]
    why: str = ""


@dataclass(frozen=True)
class Question:
    """About the records of an entity (`by`: those with this value in this field; `key`: one of them).

    count: how many; sum: of `field`; most, least: which has the largest, smallest `field`; value: the `field` of `key`.
    """

    how: Literal["count", "sum", "most", "least", "value"]
    entity: str
    field: str = ""
    by: tuple[str, Any] | None = None
    key: str = ""


@dataclass
class Goal:
    """One wish. act: the last call is wanted, those before make it possible; each: all are, one a record of `entity`
    with `by` (field, value); ask: `question` has the answer `answer`; refuse: the one call is refused with `error`.

    `before`: the world's state when the wish is said. `words`: in one of which a reason for the refusal is told.
    """

    kind: Literal["act", "each", "ask", "refuse"]
    calls: list[Call] = field(default_factory=list)
    entity: str = ""
    by: tuple[str, Any] = ("", None)
    question: Question | None = None
    answer: Any = None
    error: str = ""
    words: tuple[str, ...] = ()
    before: State | None = None

    @property
    def changing(self) -> list[Call]:
        """The calls that succeed."""
        return [] if self.kind == "refuse" else self.calls


@dataclass
class Plan:
    """Goals in order, from `start` on; `end` is the state after them; `states`: before each of the calls."""

    start: State
    goals: list[Goal]
    end: State
    states: list[State] = field(default_factory=list)
    few: bool = True  # no table has more records than a page shows

    @property
    def calls(self) -> list[Call]:
        """All calls that succeed, in order."""
        return [call for goal in self.goals for call in goal.changing]


Follow = Callable[[World, Goal, Result], Goal | None]


def execute(
    world: World, start: State, goals: list[Goal], few: bool = True, follow: Follow | None = None
) -> Plan | None:
    """The plan of those goals that can be reached one after the other; None where none is.

    `follow` may answer what a goal gave with a goal more, about what was made.
    """
    start.forget()
    world.restore(start)
    plan = Plan(start, [], start, few=few)
    called: set[str] = set()
    left = list(reversed(goals))
    while left:
        goal = left.pop()
        states, results = _try(world, goal, called)
        if states is None:
            continue
        plan.goals.append(goal)
        plan.states += states
        called |= {f"{call.tool} {call.args}" for call in goal.changing}
        if follow is not None and results and (more := follow(world, goal, results[-1])) is not None:
            left.append(more)
    plan.end = world.snapshot()
    fits = not few or all(len(t) <= PAGE for state in (start, plan.end) for t in state.tables.values())
    return plan if plan.goals and fits else None


def _try(world: World, goal: Goal, called: set[str]) -> tuple[list[State] | None, list[Result]]:
    """(the states before each call, the results), or None, the world as it was, where it does not go as planned."""
    point = world.snapshot()
    goal.before = point
    states: list[State] = []
    results: list[Result] = []
    if goal.question is not None:
        goal.answer = answer(goal.question, world.state)
        return (None if goal.answer is None else []), []
    idle = any(f"{call.tool} {call.args}" in called for call in goal.calls) or not _all_of(goal, point)
    if len(goal.calls) > 1 and goal.kind == "act":  # what makes it possible must be needed for it
        target = goal.calls[-1]
        idle = idle or "error" not in world.call(target.tool, target.args)
        world.restore(point)
    for call in [] if idle else goal.calls:
        states.append(point if not states else world.snapshot())
        refresh(world, call)
        results.append(world.call(call.tool, call.args))
        if results[-1].get("error", {}).get("code", "") != goal.error:
            break
    else:
        if not idle and (goal.error or _lasting(world, point)):
            return ([] if goal.error else states), results
    world.restore(point)
    return None, []


def _lasting(world: World, before: State) -> bool:
    """Whether something is different that is no stamp of the clock."""
    checks = state_checks(world.spec, before, world.state)
    return any(not (isinstance(x, Kept) or (isinstance(x, Becomes) and x.value == NOW)) for x in checks)


def _all_of(goal: Goal, state: State) -> bool:
    """Whether the calls of an `each` are for the records that there are now (later goals add records)."""
    if goal.kind != "each":
        return True
    keys = {key for key, r in state.tables[goal.entity].items() if r[goal.by[0]] == goal.by[1]}
    return all(keys.intersection(map(str, call.args.values())) for call in goal.calls) and len(keys) == len(goal.calls)


def refresh(world: World, call: Call) -> None:
    """The version that a call expects is the one there is when its turn comes."""
    for claim in world.tools[call.tool].claims:
        if isinstance(claim, c.Version):
            record = world.state.tables[claim.entity].get(call.args.get(claim.id_arg, ""))
            if record is not None:
                call.args[claim.arg] = record[claim.field]


def members(question: Question, state: State) -> Iterator[dict[str, Any]]:
    """The records that a question is about."""
    for record in state.tables[question.entity].values():
        if question.by is None or record[question.by[0]] == question.by[1]:
            yield record


def answer(question: Question, state: State) -> Any:
    """The figure or the id that answers a question; None where there is no one answer."""
    rows = list(members(question, state))
    name = question.field
    match question.how:
        case "count":
            return len(rows)
        case "value":
            return state.tables[question.entity].get(question.key, {}).get(name)
        case "sum":
            return sum(row[name] or 0 for row in rows) if rows else None
    known = sorted((row for row in rows if row[name] is not None), key=lambda row: row[name])
    if question.how == "most":
        known.reverse()
    if not known or (len(known) > 1 and known[0][name] == known[1][name]):
        return None
    return known[0]["id"]
