"""Goals of the four kinds, each in a state that is made for it: the state grows goal by goal."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from openk2.synth.task.dials import Dials
from openk2.synth.task.facts import PAGE, finder, getter, label_of, plannable
from openk2.synth.task.needed import idle_goals
from openk2.synth.task.plan import Call, Goal, Plan, Question, execute
from openk2.synth.task.steps import deep, steps
from openk2.synth.world import claims as c
from openk2.synth.world.arrange import Situation, arrange, holds
from openk2.synth.world.laws import situation
from openk2.synth.world.populate import first_values
from openk2.synth.world.spec import Tool
from openk2.synth.world.state import Record, State
from openk2.synth.world.texts import name as fresh_label
from openk2.synth.world.tree import Field
from openk2.synth.world.world import Result, World, invalid

_TRIES = 12
_MANY = 12  # goals
_IMPOSSIBLE = (c.Owner, c.Role, c.Deadline, c.Ceiling, c.Approved, c.Enough, c.Room, c.Unused)
_DEEP = 0.3  # the chance that a tool is drawn of those that another call makes possible
_FOLLOW = 0.3  # the chance that a wish is about what the one before it made


def make_plan(
    world: World, rng: random.Random, dials: Dials, good: Callable[[Plan], bool] = lambda plan: True
) -> Plan | None:
    """A plan with as many goals as the dials say, or fewer, and a question more where it is not `good`; None where none
    is found. The world's state is kept.
    """
    before = world.snapshot()
    maker = Maker(world, rng, before.copy(), dials)
    count = rng.randint(*dials.goals)
    maker.crowd(max(0, count - 6) // 2)
    goals: list[Goal] = []
    best: Plan | None = None
    try:
        for _ in range(4):  # goals may stand in each other's way: what falls away is drawn again
            for _ in range(2 * (count - len(goals))):
                if len(goals) < count and (goal := maker.goal()) is not None:
                    goals.append(goal)
            plan = execute(world, maker.state, goals, maker.few, maker.follow) if goals else None
            if plan is None:
                return None
            idle = set(idle_goals(world, plan))
            goals = [goal for i, goal in enumerate(plan.goals) if i not in idle]
            maker.following = False
            if not idle and not good(plan) and (more := maker.ask()) is not None:
                goals.insert(rng.randint(0, len(goals)), more)
            elif not idle:
                best = plan if good(plan) else best
                if best is plan and len(goals) >= 0.9 * count:
                    return plan
        return execute(world, best.start, best.goals, maker.few) if best else None  # later tries changed its goals
    finally:
        world.restore(before)


class Maker:
    """`state`: the start as it is so far; made for the goals there are."""

    def __init__(self, world: World, rng: random.Random, state: State, dials: Dials) -> None:
        self.world, self.rng, self.state, self.dials = world, rng, state, dials
        self.spec = world.spec
        self.few = dials.goals[1] <= _MANY and dials.crowd[1] <= _MANY  # records, so that a page shows them all
        self.slack = 400 + 8 * dials.goals[1] * max(1, round(dials.each * dials.crowd[1]))
        tools = list(plannable(world.spec))
        if dials.goals[1] > _MANY or self.slack >= 720:  # not what is possible for some hours, or a few times
            tools = [t for t in tools if not any(isinstance(x, c.Hours | c.AtMost | c.Rate) for x in t.claims)]
        role, hours = state.me["role"], {state.now % 1440 // 60, (state.now + self.slack) % 1440 // 60}
        self.forbidden = [t for t in tools if any(role not in x.allowed for x in t.claims if isinstance(x, c.Role))]
        closed = [t for t in tools for x in t.claims if isinstance(x, c.Hours) and hours - set(range(x.start, x.end))]
        self.tools = [t for t in tools if t not in self.forbidden and t not in closed]  # who calls, and when, stays
        self.deep = [t for t in self.tools if t.name in deep(self.spec)]
        self.following = True

    def goal(self) -> Goal | None:
        """One of a kind drawn by the dials, or None where it is not found; `state` has changed for it, if found."""
        draw = self.rng.random()
        for chance, make in (
            (self.dials.impossible, self.refuse), (self.dials.ask, self.ask), (self.dials.each, self.each),
        ):  # fmt: skip
            if draw < chance:
                return make()
            draw -= chance
        return self.act()

    def crowd(self, more: int) -> None:
        """So many records more of each entity."""
        for entity in self.spec.entities:
            if entity.hidden or entity.name in ("user", "notice", "approval", "watch"):
                continue
            for _ in range(more):
                self.state.insert(entity.name, first_values(entity, self.state, self.rng))
        self.state.commit(undoable=False)

    # ---- one call, and what makes it possible

    def act(self) -> Goal | None:
        if not self.tools:
            return None
        deep = self.deep if self.deep and self.dials.depth and self.rng.random() < _DEEP else self.tools
        tool = self.rng.choice(deep)
        for _ in range(_TRIES):
            s = self._situation(tool)
            if s is None:
                return None
            if not self._same_caller(s) or not self._labelled(tool, s):
                continue
            calls = [Call(tool.name, self._some_of(tool, s.args))]
            for _ in range(self.dials.depth):
                earlier = self._before(s, calls)
                if earlier is None:
                    break
                calls.insert(0, earlier)
            self.state = s.state
            return Goal("act", calls)
        return None

    def _situation(self, tool: Tool) -> Situation | None:
        return situation(self.world, tool, self.state, self.rng, slack=self.slack)

    def _same_caller(self, s: Situation) -> bool:
        """Not another caller, not another time: that would not do for the goals there are already."""
        return s.state.me == self.state.me and s.state.now == self.state.now

    def _some_of(self, tool: Tool, args: dict[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in args.items() if tool.param(n).required or self.rng.random() < 0.6}

    def _labelled(self, tool: Tool, s: Situation) -> bool:
        """Whether a person can say which records are meant: every label is one of a kind."""
        for claim in tool.claims:
            if not isinstance(claim, c.Needs):
                continue
            label, record = label_of(self.spec, claim.entity), s.record(claim.entity, claim.id_arg)
            rows = s.table(claim.entity).values()
            if record is None or (label and sum(r[label] == record[label] for r in rows) != 1):
                return False
        return True

    def _before(self, s: Situation, calls: list[Call]) -> Call | None:
        """A call that brings the record of the first call into the state it must have, of which the situation takes it
        out, and in which none of the calls is possible, nor done already.
        """
        call, chain = calls[0], [self.world.tools[call.tool] for call in calls]
        tool = chain[0]
        for claim in tool.claims:
            if not isinstance(claim, c.InState):
                continue
            key = call.args[claim.id_arg]
            same = [x for t in chain for x in t.claims if isinstance(x, c.InState) and x.field == claim.field]
            ends = [x for t in chain for x in t.claims if isinstance(x, c.Sets) and x.entity == claim.entity]
            done = [*(v for x in same for v in x.allowed), *(dict(x.values).get(claim.field) for x in ends)]
            ways = [w for w in steps(self.spec, tool.name, claim) if w.tool not in chain and w.tool in self.tools]
            for step in self.rng.sample(ways, len(ways)):
                sources = [value for value in step.sources if value not in done]
                if not sources:
                    continue
                twin = Situation(self.spec, step.tool, s.state, self.rng)
                twin.slack = self.slack
                twin.put(claim.entity, twin.table(claim.entity)[key], **{claim.field: self.rng.choice(sources)})
                args = self._arranged(step.tool, twin, {step.id_arg: key} | step.args)
                if args is not None and self._same_caller(twin):
                    s.state = twin.state
                    return Call(step.tool.name, args, f"{claim.field}={s.table(claim.entity)[key][claim.field]}")
        return None

    def _arranged(self, tool: Tool, s: Situation, args: dict[str, Any]) -> dict[str, Any] | None:
        """The required arguments of a call that passes in this situation, which is changed for it; or None."""
        s.args = {p.name: s.args[p.name] for p in tool.params if p.required and p.name in s.args} | args
        guards = [claim for claim in tool.claims if isinstance(claim, c.Guard)]
        for claim in guards:
            arrange(claim, s, True)
        passes = not invalid(tool, s.args) and all(s.args[n] == v for n, v in args.items())
        return s.args if passes and all(holds(claim, s) for claim in guards) else None

    def _arguments(self, tool: Tool, s: Situation, args: dict[str, Any]) -> dict[str, Any] | None:
        """The required arguments of a call that passes in this situation as it is, or None."""
        s.args = {p.name: s.args[p.name] for p in tool.params if p.required and p.name in s.args} | args
        for claim in tool.claims:
            if (
                isinstance(claim, c.Version | c.Matches)
                and (record := s.record(claim.entity, claim.id_arg)) is not None
            ):
                s.args[claim.arg] = record[claim.field]
        guards = [claim for claim in tool.claims if isinstance(claim, c.Guard)]
        return s.args if all(holds(claim, s) for claim in guards) else None

    def follow(self, world: World, goal: Goal, result: Result) -> Goal | None:
        """A wish about the record that the goal's last call made, if one is possible in the world as it is now."""
        made = next((x for x in world.tools[goal.calls[-1].tool].claims if isinstance(x, c.Creates | c.Copies)), None)
        if goal.kind != "act" or made is None or not self.following or self.rng.random() >= _FOLLOW:
            return None
        key, label = result.get("id"), label_of(self.spec, made.entity)
        record = world.state.tables[made.entity].get(str(key))
        if record is None or label is None or record[label] is None:
            return None
        lasting = [t for t in self.tools if not any(isinstance(x, c.Hours | c.Deadline | c.Rate) for x in t.claims)]
        for tool in self.rng.sample(lasting, len(lasting)):
            id_arg = next((x.id_arg for x in tool.claims if isinstance(x, c.Needs) and x.entity == made.entity), None)
            if id_arg is None:
                continue
            s = Situation(self.spec, tool, world.state, self.rng)
            args = self._arguments(tool, s, {id_arg: key})
            if args is not None and self._labelled(tool, s):
                return Goal("act", [Call(tool.name, args)])
        return None

    # ---- the same call for many records

    def each(self) -> Goal | None:
        tools = [t for t in self.tools if _about_one(t)]
        for tool in self.rng.sample(tools, min(len(tools), _TRIES)):
            need = next(x for x in tool.claims if isinstance(x, c.Needs))
            count = self.rng.randint(*self.dials.crowd)
            reader = finder(self.spec, need.entity, self.few)
            if reader is None or (self.few and 2 * count + len(self.state.tables[need.entity]) > PAGE):
                continue
            s = self._situation(tool)
            if s is None or not self._same_caller(s):
                continue
            record, shown = s.record(need.entity, need.id_arg), reader.claims[-1]
            assert record is not None and isinstance(shown, c.Lists)
            fields = [f for f in self.spec.entity(need.entity).fields if f.name in shown.fields]
            fields = [f for f in fields if f.type.kind in ("choice", "flag") and record[f.name] is not None]
            args = {n: v for n, v in self._some_of(tool, s.args).items() if n != need.id_arg}
            if any(tool.param(name).type.kind == "text" for name in args):
                continue  # not one name for all
            if not fields:
                continue
            by = self.rng.choice(fields)
            keys = self._members(tool, s, need, record, (by.name, record[by.name]), count)
            if keys is None:
                continue
            self.state = s.state
            calls = [Call(tool.name, {need.id_arg: key} | args) for key in keys]
            return Goal("each", calls, need.entity, (by.name, record[by.name]))
        return None

    def _members(
        self, tool: Tool, s: Situation, need: c.Needs, record: Record, by: tuple[str, Any], count: int
    ) -> list[str] | None:
        """Records like `record` that the call is for, `count` in all, and as many that it is not for; None if it fails.

        No other record has the value `by`.
        """
        kind = self.spec.entity(need.entity).field(by[0]).type
        values = [True, False] if kind.kind == "flag" else list(kind.values)
        others = [value for value in values if value != by[1]]
        if not others:
            return None
        for row in [row for row in s.table(need.entity).values() if row[by[0]] == by[1] and row is not record]:
            s.put(need.entity, row, **{by[0]: self.rng.choice(others)})
        label = label_of(self.spec, need.entity)
        keys = [record["id"]]
        for i in range(2 * count - 2):
            like = {name: value for name, value in record.items() if name != "id"}
            if label is not None:
                like[label] = fresh_label(self.rng)
            if i % 2:
                s.add(need.entity, **({label: like[label]} if label else {}), **{by[0]: self.rng.choice(others)})
            else:
                keys.append(s.add(need.entity, **like)["id"])
        guards = [claim for claim in tool.claims if isinstance(claim, c.Guard)]
        for key in keys:
            s.args[need.id_arg] = key
            for claim in guards:
                if isinstance(claim, c.Version):
                    s.args[claim.arg] = s.table(need.entity)[key][claim.field]
                if not holds(claim, s):
                    return None
        s.state.commit(undoable=False)
        return keys

    # ---- a question

    def ask(self) -> Goal | None:
        """About records that a list shows, or one that can be got; the answer comes when its turn comes."""
        entities = [e for e in self.spec.entities if not e.hidden and e.name not in ("user", "notice")]
        for entity in self.rng.sample(entities, len(entities)):
            table = self.state.tables[entity.name]
            lists = finder(self.spec, entity.name, self.few)
            reader = lists or getter(self.spec, entity.name)
            if len(table) < 3 or reader is None:
                continue
            shown, label = reader.claims[-1], label_of(self.spec, entity.name)
            assert isinstance(shown, c.Lists | c.Shows)
            fields = [f for f in entity.fields if f.name in shown.fields and f.name != label]
            options = self._of_many(entity.name, fields, list(table.values())) if lists else []
            plain = [f for f in fields if f.type.kind not in ("ids", "texts", "object", "objects")]
            if plain:
                key = self.rng.choice(list(table))
                options.append(Question("value", entity.name, self.rng.choice(plain).name, None, key))
            if options:
                return Goal("ask", question=self.rng.choice(options))
        return None

    def _of_many(self, entity: str, fields: list[Field], rows: list[Record]) -> list[Question]:
        """One question of each kind about all records, or about those with one value."""
        rng = self.rng
        kinds = [f.name for f in fields if f.type.kind in ("choice", "flag")]
        numbers = [f.name for f in fields if f.type.kind in ("int", "money")]
        ordered = numbers + [f.name for f in fields if f.type.kind == "time"]
        by = None
        if kinds:
            name = rng.choice(kinds)
            values = [row[name] for row in rows if row[name] is not None]
            by = (name, rng.choice(values)) if values else None
        out = [Question("count", entity, "", by)] if by else []
        if numbers:
            out.append(Question("sum", entity, rng.choice(numbers), rng.choice((None, by))))
        if ordered:
            out.append(Question(rng.choice(("most", "least")), entity, rng.choice(ordered), rng.choice((None, by))))
        return out

    # ---- what a rule or a record forbids

    def refuse(self) -> Goal | None:
        tools = [t for t in self.tools if any(isinstance(x, _IMPOSSIBLE) for x in t.claims)] + self.forbidden
        for tool in self.rng.sample(tools, min(len(tools), 6)):
            claim = self.rng.choice([x for x in tool.claims if isinstance(x, _IMPOSSIBLE)])
            s = self._situation(tool)
            if s is None:
                continue
            arrange(claim, s, False)
            s.state.me = dict(self.state.me)
            if invalid(tool, s.args) or holds(claim, s) or s.state.now != self.state.now:
                continue
            s.state.commit(undoable=False)
            self.world.restore(s.state)
            error = self.world.call(tool.name, s.args).get("error", {})
            if error.get("code") == claim.error:
                self.state = s.state
                words = _reasons(claim, error["message"])
                return Goal("refuse", [Call(tool.name, s.args)], error=claim.error, words=words)
        return None


def _about_one(tool: Tool) -> bool:
    """Whether the tool changes one record that it needs, and can be called for many with the same other arguments."""
    needs = [x for x in tool.claims if isinstance(x, c.Needs)]
    alone = len(needs) == 1 and tool.param(needs[0].id_arg).required and needs[0].entity != "user"
    never = (c.Unique, c.Rate, c.AtMost, c.Idempotent, c.FreeSlot, c.Refers, c.Matches)
    return alone and not any(isinstance(x, never) for x in tool.claims)


_EMPTY = frozenset(
    "only this that there have with record records from must than been more after before does would other".split()
)


def _reasons(claim: c.Guard, message: str) -> tuple[str, ...]:
    """Words one of which a reason has: those of the error, and what people say instead."""
    words = [w for w in re.findall(r"[a-z]+", message.lower()) if len(w) > 3 and w not in _EMPTY]
    words += [w.lower() for w in re.findall(r"[A-Z][a-z]{3,}", getattr(claim, "error", ""))]
    more = {
        c.Owner: "owner owned permission authori belong", c.Role: "role permission authori",
        c.Unused: "use refer depend", c.Ceiling: "limit above more", c.Deadline: "late deadline time until passed",
        c.Approved: "approv", c.Enough: "enough insufficient", c.Room: "capacity limit exceed",
    }  # fmt: skip
    return tuple(dict.fromkeys([*words, *more.get(type(claim), "").split()]))
