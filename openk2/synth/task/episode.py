"""A trajectory from the planner: it looks up what it needs, asks what it was not told, calls, recovers, and reports.

The reasoning speaks only of what has been seen: the messages so far. Every call is executed; a call that failed stays
in view with its error. Faults come from the seed: a service that is busy for a moment.
"""

from __future__ import annotations

import json
import random
from typing import Any

from openk2.chat.messages import Message, ToolCall
from openk2.synth.task.dialogue import Dialogue, Trajectory, rows_of, seeded_faults
from openk2.synth.task.facts import PAGE, getter, label_of, trace_of, version_reader
from openk2.synth.task.phrases import listed, sentence
from openk2.synth.task.plan import Call, Goal
from openk2.synth.task.task import Task
from openk2.synth.task.words import Voice, clock, money, plural, technical
from openk2.synth.world import claims as c
from openk2.synth.world.spec import Tool
from openk2.synth.world.tree import Type, said
from openk2.synth.world.world import Result, World, invalid

_BUSY = ("ServiceUnavailable", "TooManyRequests")
_NAMED = 12  # records that a thought names one by one


class Episode:
    """One dialogue in the making, from the task's first state on."""

    def __init__(self, world: World, task: Task, faults: float = 0.08) -> None:
        """`faults`: the chance of one at a call."""
        self.task = task
        self.rng = random.Random(f"openk2 episode {task.world.name} {task.seed}")
        self.talk = Dialogue.of_task(world, task, seeded_faults(task.seed, faults, self._traced))
        self.ours = {tool.name for tool in task.world.tools}
        self.alone = True  # one call in the message that is under way
        self.world = self.talk.world
        self.names: set[tuple[str, str]] = set()  # (id, text of the record) that were shown together
        self.voice = Voice(task.world, world.state, self._by_id())

    def _by_id(self) -> frozenset[str]:
        return frozenset(e.name for e in self.task.world.entities if e.name not in self.task.finders)

    # ---- what is said and done

    def call(self, thought: str, tool: str, args: dict[str, Any]) -> Result:
        """Think, call, read; a service that is busy is called again."""
        return self.calls(thought, tool, [args])[0]

    def calls(self, thought: str, tool: str, many: list[dict[str, Any]]) -> list[Result]:
        """Several calls of one tool in one message; those that a busy service refused are made again."""
        self.alone = len(many) == 1
        results = self._once(thought, tool, many)
        if results[0].get("error", {}).get("code") == "Timeout":
            return [self._found_out(tool, many[0])]
        while busy := [i for i, result in enumerate(results) if self._passing(result)]:
            code = results[busy[0]]["error"]["code"]
            which = "it" if len(busy) == 1 else f"these {len(busy)}"
            again = self._once(f"The service answered {code}. That may pass, so I call {which} again.", tool,
                               [many[i] for i in busy])  # fmt: skip
            for i, result in zip(busy, again, strict=True):
                results[i] = result
        return results

    def _traced(self, tool: str, args: dict[str, Any]) -> bool:
        """Whether it can be found out if this call took effect."""
        if not self.alone or tool not in self.ours:
            return False
        return self._keyed(tool, args) or trace_of(self.task.world, tool) is not None

    def _keyed(self, tool: str, args: dict[str, Any]) -> bool:
        return any(isinstance(x, c.Idempotent) and x.arg in args for x in self.world.tools[tool].claims)

    def _found_out(self, tool: str, args: dict[str, Any]) -> Result:
        """The result of a call whose answer was lost, or what shows that it took effect; made again if it did not."""
        silent = "There was no answer, so I do not know whether that took effect."
        if self._keyed(tool, args):
            return self.call(f"{silent} With the same key it cannot take effect twice: I call it again.", tool, args)
        trace = trace_of(self.task.world, tool)
        assert trace is not None
        shown = trace.reader.claims[-1]
        if isinstance(shown, c.Lists):
            rows = self._read(shown.entity, f"{silent} I look.", reader=trace.reader)
        else:
            id_arg = next(x.id_arg for x in trace.reader.claims if isinstance(x, c.Needs))
            key = next(args[x.id_arg] for x in self.world.tools[tool].claims if isinstance(x, c.Sets))
            rows = [self.call(f"{silent} I look.", trace.reader.name, {id_arg: key})]
        wanted = {field: args[arg] for field, arg in trace.args if arg in args} | dict(trace.values)
        there = [row for row in rows if all(row.get(field) == value for field, value in wanted.items())]
        if there:
            return there[-1]
        return self.call("It did not take effect. I call it again.", tool, args)

    def _passing(self, result: Result) -> bool:
        """Whether it is an error that comes from a fault (a rule of the house may have the same name)."""
        message = result.get("error", {}).get("message", "")
        return result.get("error", {}).get("code") in _BUSY and "try again" in message

    def _once(self, thought: str, tool: str, many: list[dict[str, Any]]) -> list[Result]:
        first = self.talk.calls
        calls = tuple(
            ToolCall(f"functions.{tool}:{first + i}", tool, json.dumps(args, ensure_ascii=False))
            for i, args in enumerate(many)
        )
        results = [json.loads(m.content) for m in self.talk.assistant(Message("assistant", "", thought, calls))]
        for result in results:
            for row in rows_of(result):
                self.names |= {(row["id"], v) for v in row.values() if isinstance(v, str)} if "id" in row else set()
        return results

    def say(self, thought: str, text: str) -> None:
        self.talk.assistant(Message("assistant", text, thought))

    # ---- the agent

    def run(self) -> Trajectory:
        """Raises RuntimeError when the plan does not lead where it should: a fault of ours, which the caller counts."""
        for number, goal in enumerate(self.task.plan.goals):
            assert goal.before is not None
            self.voice = Voice(self.task.world, goal.before, self._by_id())
            if self.talk.user.at != number:
                raise RuntimeError("the user is at another wish")
            self._ask_what_is_missing(number)
            make = {"act": self._fulfil, "each": self._each, "ask": self._answer, "refuse": self._refuse}[goal.kind]
            self.say(*make(goal))
        if not self.talk.over:
            raise RuntimeError("the user wants more than was wished")
        return self.talk.record()

    def _ask_what_is_missing(self, number: int) -> None:
        wish, user = self.task.wishes[number], self.talk.user
        for _ in wish.private:
            missing = [said(name) for name, _ in wish.private if name not in user.told]
            if not missing:
                return
            names = listed([f"the {name}" for name in missing])
            verb, it = ("is", "it") if len(missing) == 1 else ("are", "they")
            text = self.rng.choice((
                f"What {verb} {names}?", f"Could you tell me {names}?", f"I still need {names}. What should {it} be?",
                f"Before I do that: what {verb} {names}?",
            ))  # fmt: skip
            self.say(f"{sentence(f'{names} {verb} not said')} I ask.", text)

    def _fulfil(self, goal: Goal) -> tuple[str, str]:
        for call in goal.calls:
            self._look_up(self.world.tools[call.tool], call.args)
        refused = self._tried(goal)
        result: Result = {}
        for i, call in enumerate(goal.calls):
            step = self.world.tools[call.tool]
            self._versions(step, call.args)
            thought = self._intent(step, call)
            if call.why:
                thought = (
                    f"The service says of {goal.calls[i + 1].tool}: {refused[i + 1]} So first {step.name}. {thought}"
                )
            result = self.call(thought, step.name, call.args)
            if "error" in result:
                raise RuntimeError(f"{step.name} was refused: {result['error']}")
        closing = self.rng.choice(("That is done. I report it.", "It worked; I say what changed.", "Done. I answer."))
        return closing, self._report(self.world.tools[goal.calls[-1].tool], result)

    def _tried(self, goal: Goal) -> dict[int, str]:
        """What the service says to each call that another must make possible, tried from the wanted one back: nothing
        else tells that it is not possible yet.
        """
        said_: dict[int, str] = {}
        for i in range(len(goal.calls) - 1, 0, -1):
            tool = self.world.tools[goal.calls[i].tool]
            self._versions(tool, goal.calls[i].args)
            error = self.call(self._intent(tool, goal.calls[i]), tool.name, goal.calls[i].args).get("error")
            if error is None:
                raise RuntimeError("a step that should be needed was not")
            said_[i] = error["message"]
        return said_

    def _refuse(self, goal: Goal) -> tuple[str, str]:
        call = goal.calls[0]
        tool = self.world.tools[call.tool]
        self._look_up(tool, call.args)
        self._versions(tool, call.args)
        result = self.call(self._intent(tool, call), tool.name, call.args)
        if result.get("error", {}).get("code") != goal.error:
            raise RuntimeError("what should be refused was not")
        reason = result["error"]["message"]
        text = self.rng.choice((
            f"I could not do that: {reason} Nothing was changed.",
            f"That is not possible. {reason} I have left everything as it was.",
            f"I cannot do that. The service says: {reason}",
        ))  # fmt: skip
        closing = self.rng.choice((
            "It is refused, and I know no allowed way. I say why.", "I do not get around that; I tell the reason.",
        ))  # fmt: skip
        return closing, text

    def _each(self, goal: Goal) -> tuple[str, str]:
        tool = self.world.tools[goal.calls[0].tool]
        need = next(x for x in tool.claims if isinstance(x, c.Needs))
        shown = self.voice.value(goal.by[1], self.task.world.entity(goal.entity).field(goal.by[0]).type)
        rows = self._read(goal.entity, f"I need all {plural(goal.entity)} with {said(goal.by[0])} {shown}.", goal.by)
        todo = {call.args[need.id_arg]: call for call in goal.calls}
        found = [row for row in rows if row[goal.by[0]] == goal.by[1]]
        if {row["id"] for row in found} != todo.keys():
            raise RuntimeError("the records of a wish for each are not those of the plan")
        label = label_of(self.task.world, goal.entity) or "id"
        names = ", ".join(f"{row[label]} ({row['id']})" for row in found[:_NAMED])
        count = len(found)
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        thought = f"With {said(goal.by[0])} {shown} there are {count}: {names}{more}. "
        at_once = 1 if any(isinstance(x, c.Version) for x in tool.claims) else self.rng.choice((1, 1, 4, 8))
        for at in range(0, count, at_once):
            part = [todo[row["id"]] for row in found[at : at + at_once]]
            self._versions(tool, part[0].args)
            thought += f"Now {found[at][label]}." if len(part) == 1 else f"Now {at + 1} to {at + len(part)}."
            if any("error" in result for result in self.calls(thought, tool.name, [call.args for call in part])):
                raise RuntimeError(f"{tool.name} was refused for one of many")
            thought = ""
        text = self.rng.choice((
            f"Done for all {count} {plural(goal.entity)}: {said(tool.name)}.",
            f"I have done that for {count} {plural(goal.entity)}; these are all with {said(goal.by[0])} {shown}.",
        ))  # fmt: skip
        return f"All {count} are done. I report it.", text

    def _answer(self, goal: Goal) -> tuple[str, str]:
        q = goal.question
        assert q is not None
        entity = self.task.world.entity(q.entity)
        if q.entity in self.task.finders:
            rows = self._read(q.entity, f"To answer I look at the {plural(q.entity)}.", q.by)
        else:
            one = getter(self.task.world, q.entity)
            assert one is not None and isinstance(one.claims[0], c.Needs)
            rows = [self.call(f"I look at the {said(q.entity)}.", one.name, {one.claims[0].id_arg: q.key})]
        if q.by is not None:
            rows = [row for row in rows if row[q.by[0]] == q.by[1]]
        answer, *other = self.voice.forms(q, goal.answer)
        if q.how == "value" and entity.field(q.field).type.kind == "id" and (goal.answer, answer) not in self.names:
            answer = other[0] if other else answer  # its name was not shown
        label = label_of(self.task.world, q.entity) or "id"
        names = [f"{row.get(label)}" for row in rows]
        some = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        if q.how == "count":
            return f"These count: {some or 'none'}. That makes {answer}.", self._tell(
                f"There {'is' if answer == '1' else 'are'} {answer}", f"The number is {answer}")  # fmt: skip
        kind = entity.field(q.field).type
        if q.how == "sum":
            parts = [row[q.field] or 0 for row in rows]
            sums = " + ".join(map(str, parts)) + f" = {sum(parts)}"
            unit = f" That is {answer}." if kind.kind == "money" else ""
            return f"{sums}.{unit}", self._tell(f"The total {said(q.field)} is {answer}", f"It is {answer} in all")
        if q.how == "value":
            row = next(row for row in rows if row["id"] == q.key)
            quoted = f'"{answer}"' if " " in answer and kind.kind == "text" else answer
            thought = f"{self.voice.called(q.entity, q.key)} has {said(q.field)} {_spoken(row[q.field], kind)}."
            return thought, self._tell(f"The {said(q.field)} is {quoted}", f"It is {quoted}")
        best = next(row for row in rows if row["id"] == goal.answer)
        value = self.voice.value(best[q.field], kind)
        among = f"Of these {len(rows)} it is" if len(rows) > 1 else "There is only"
        thought = f"{among} {best.get(label)}, with {said(q.field)} {_spoken(best[q.field], kind)}."
        return thought, self._tell(
            f"It is {answer}, with {said(q.field)} {value}", f"{answer} ({said(q.field)} {value})"
        )

    def _tell(self, *texts: str) -> str:
        return sentence(self.rng.choice(texts))

    # ---- looking

    def _read(
        self, entity: str, thought: str, by: tuple[str, Any] | None = None, until: str = "", reader: Tool | None = None
    ) -> list[dict[str, Any]]:
        """All records of the list, page by page (`by`: a filter may be used), or as far as the record `until`."""
        reader = reader or self.world.tools[self.task.finders[entity]]
        shown = reader.claims[-1]
        assert isinstance(shown, c.Lists)
        args: dict[str, Any] = {"limit": PAGE} if shown.paged else {}
        filter_ = next((arg for arg, name, op in shown.filters if by and name == by[0] and op == "=="), None)
        if filter_ and by and self.rng.random() < 0.6 and not invalid(reader, args | {filter_: by[1]}):
            args[filter_] = by[1]
        rows: list[dict[str, Any]] = []
        while True:
            result = self.call(thought, reader.name, args | ({"offset": len(rows)} if rows else {}))
            if "error" in result:
                raise RuntimeError(f"{reader.name} was refused: {result['error']}")
            rows += result["items"]
            if not shown.paged or len(rows) >= result["total"] or any(row["id"] == until for row in result["items"]):
                return rows
            thought = f"{len(rows)} of {result['total']} so far. The next page."

    def _look_up(self, tool: Tool, args: dict[str, Any]) -> None:
        """See the ids of the records that the user named by their labels."""
        for p in tool.params:
            if p.type.kind not in ("id", "ids") or p.name not in args:
                continue
            for key in [args[p.name]] if p.type.kind == "id" else args[p.name]:
                shown = self.voice.called(p.type.of, key)
                if shown == key or (key, shown) in self.names:
                    continue
                rows = self._read(p.type.of, f"I need the id of the {said(p.type.of)} {shown}.", None, key)
                if all(row["id"] != key for row in rows):
                    raise RuntimeError("a record was not in the list")

    def _versions(self, tool: Tool, args: dict[str, Any]) -> None:
        """Read the version that the tool expects, with a tool that shows it."""
        for claim in tool.claims:
            if isinstance(claim, c.Version):
                args[claim.arg] = self.world.state.tables[claim.entity][args[claim.id_arg]][claim.field]
                reader = version_reader(self.task.world, claim)
                assert reader is not None
                need = next(x for x in reader.claims if isinstance(x, c.Needs))
                thought = f"{tool.name} wants the version that I have read, so I read the record."
                self.call(thought, reader.name, {need.id_arg: args[claim.id_arg]})

    # ---- words

    def _intent(self, tool: Tool, call: Call) -> str:
        """Why this call, and how values that people say otherwise become arguments."""
        parts = []
        for p in tool.params:
            value = call.args.get(p.name)
            if value is None or technical(p.name):
                continue
            if p.type.kind == "time":
                day, rest = divmod(value, 1440)
                parts.append(f"{clock(value)} is {day} * 1440 + {rest // 60} * 60 + {rest % 60} = {value}")
            elif p.type.kind == "money":
                parts.append(f"{money(value)} is {value} cents")
            elif p.type.kind == "id" and (shown := self.voice.called(p.type.of, value)) != value:
                parts.append(f"{shown} is {value}")
        opening = self.rng.choice((f"Now {tool.name}.", f"I call {tool.name}.", f"{tool.name} does that."))
        return " ".join([*(sentence(part) for part in parts), opening])

    def _report(self, tool: Tool, result: Result) -> str:
        """What was done, with the figures that came back."""
        shown = tool.claims[-1]
        if isinstance(shown, c.Shows):
            label = label_of(self.task.world, shown.entity)
            name = f"{result[label]} ({result['id']})" if label and result.get(label) else result["id"]
            record = f"the {said(shown.entity)} {name}"
            if tool.motif == "soft_delete" or any(isinstance(x, c.Removes) for x in tool.claims):
                return self._tell(f"{record} is gone", f"Done: {record} was deleted")
            told = ", ".join(self._changed(tool, shown, result))
            if shown.id_arg == "":
                return self._tell(*(f"{start}{' with ' + told if told else ''}" for start in
                                    (f"{record} is there now", f"I have made {record}")))  # fmt: skip
            if not told:
                return self._tell(f"Done for {record}: {said(tool.name)}")
            return self._tell(f"Done: {record} now has {told}", f"That worked. {sentence(record)[:-1]} has {told}")
        if "value" in result:
            return f"Done: {said(tool.name)}. The count is now {result['value']}."
        return f"Done: {said(tool.name)}. {result.get('total', 0)} records remain in the list."

    def _changed(self, tool: Tool, shown: c.Shows, result: Result) -> list[str]:
        """Up to three values of the result, those first that the call has set."""
        label = label_of(self.task.world, shown.entity)
        sets = [name for x in tool.claims if isinstance(x, c.Sets) for name, _ in (*x.args, *x.values)]
        sets += [x.field for x in tool.claims if isinstance(x, c.Adds)]
        fields = [f for f in self.task.world.entity(shown.entity).fields if result.get(f.name) is not None]
        fields = [f for f in fields if f.name != label and (f.name in sets or f.type.kind not in ("id", "ids"))]
        fields.sort(key=lambda f: f.name not in sets)
        return [f"{said(f.name)} {self.voice.value(result[f.name], f.type)}" for f in fields[:3]]


def _spoken(value: Any, kind: Type) -> str:
    """A value as tools write it, and as people say it where that is something else."""
    if kind.kind == "time":
        day, rest = divmod(value, 1440)
        return f"{value}: {value} = {day} * 1440 + {rest}, and {rest} = {rest // 60} * 60 + {rest % 60}"
    return f"{value}, which is {money(value)}" if kind.kind == "money" else str(value)
