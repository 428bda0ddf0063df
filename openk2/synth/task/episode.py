"""A trajectory from the planner: it looks up what it needs, asks what it was not told, calls, recovers, and reports.

The reasoning speaks only of what has been seen: the messages so far. Every call is executed; a call that failed stays
in view with its error. Faults come from the seed: a service that is busy for a moment, an answer that is lost.
"""

from __future__ import annotations

import json
import random
from typing import Any

from openk2.chat.messages import Message, ToolCall
from openk2.synth.task.plan import Call, label_of, outcome
from openk2.synth.task.task import Task, finder
from openk2.synth.task.words import Voice, clock, money, said, sentence, technical
from openk2.synth.world import claims as c
from openk2.synth.world.spec import Tool
from openk2.synth.world.world import Result, World

Trajectory = dict[str, Any]  # kind, messages, tools, proof
_FAULTS = ("unavailable", "rate_limit")


class Episode:
    """One dialogue in the making. `world` is in the task's first state."""

    def __init__(self, world: World, task: Task, faults: float = 0.08, rash: float = 0.5) -> None:
        """`faults`: the chance of one at a call. `rash`: the chance to try first and look at the error."""
        self.world, self.task, self.rash = world, task, rash
        self.rng = random.Random(f"openk2 episode {task.world.name} {task.seed}")
        self.user = task.user()
        self.messages = [Message("system", task.system), Message("user", self.user.opening())]
        self.calls = 0
        self.refused = 0
        self.seen = {entity.name: set[str]() for entity in task.world.entities}  # ids whose labels were looked up
        self.voice = Voice(task.world, world.state, task.by_id)
        self.answers: list[str] = []
        self._faults: list[str | None] = []
        self._fault_rate = faults
        world.fault = self._fault

    def _fault(self, tool: str, arguments: dict[str, Any]) -> str | None:
        before = self._faults[-1] if self._faults else None
        fault = self.rng.choice(_FAULTS) if before is None and self.rng.random() < self._fault_rate else None
        self._faults.append(fault)
        return fault

    # ---- what is said and done

    def call(self, thought: str, tool: str, args: dict[str, Any]) -> Result:
        """Think, call, read; a service that is busy is called again."""
        result = self._once(thought, tool, args)
        while result.get("error", {}).get("code") in ("ServiceUnavailable", "TooManyRequests") and self._faults[-1]:
            code = result["error"]["code"]
            result = self._once(f"The service answered {code}. That may pass, so I call it again.", tool, args)
        return result

    def _once(self, thought: str, tool: str, args: dict[str, Any]) -> Result:
        result = self.world.call(tool, args)
        call = ToolCall(f"functions.{tool}:{self.calls}", tool, json.dumps(args, ensure_ascii=False))
        self.messages.append(Message("assistant", "", thought, (call,)))
        self.messages.append(Message("tool", json.dumps(result, ensure_ascii=False), tool_call_id=call.id))
        self.calls += 1
        self.refused += "error" in result
        return result

    def say(self, thought: str, text: str) -> bool:
        """An answer to the user; False when the user wants nothing more."""
        self.messages.append(Message("assistant", text, thought))
        reply = self.user.reply(text)
        if reply is not None:
            self.messages.append(Message("user", reply))
        return reply is not None

    # ---- the agent

    def run(self) -> Trajectory:
        """Raises RuntimeError when the plan does not lead where it should: a fault of ours, which the caller counts."""
        wishes = _wishes(self.task.plan.calls)
        for number, wish in enumerate(wishes):
            request = self.task.requests[number]
            if request.private:
                names = " and ".join(f"the {said(name)}" for name, _ in request.private)
                self.say(f"{sentence(names + ' is not said')} I ask.", f"What is {names}?")
            text = self._refuse(wish[-1]) if self.task.refused else self._fulfil(wish)
            self.answers.append(text)
            more = self.say(self._closing(), text)
            if more != (number + 1 < len(wishes)):
                raise RuntimeError("the user ended too early or too late")
        self.world.fault = None
        if outcome(self.task.plan.start, self.world.state) != self.task.goal:
            raise RuntimeError("the dialogue led to another state than the plan")
        return self._record()

    def _closing(self) -> str:
        return self.rng.choice(
            ("That is done. I report it.", "It worked; I say what changed.", "The result is there. I answer.")
        )

    def _fulfil(self, wish: list[Call]) -> str:
        target = wish[-1]
        tool = self.world.tools[target.tool]
        for call in wish:
            self._look_up(self.world.tools[call.tool], call.args)
        if len(wish) > 1 and self.rng.random() < self.rash:
            result = self.call(self._intent(tool, target), tool.name, target.args)
            if "error" not in result:
                raise RuntimeError("a step that should be needed was not")
        result: Result = {}
        for i, call in enumerate(wish):
            step = self.world.tools[call.tool]
            self._versions(step, call.args)
            thought = self._intent(step, call)
            if not call.wanted:
                goal = self.world.tools[wish[i + 1].tool]
                thought = f"{goal.name} needs {said(call.why).replace('=', ' not to be ')}. {thought}"
            result = self.call(thought, step.name, call.args)
            if "error" in result:
                raise RuntimeError(f"{step.name} was refused: {result['error']}")
        return self._report(tool, target, result)

    def _refuse(self, call: Call) -> str:
        tool = self.world.tools[call.tool]
        self._look_up(tool, call.args)
        self._versions(tool, call.args)
        result = self.call(self._intent(tool, call), tool.name, call.args)
        if result.get("error", {}).get("code") != self.task.refused:
            raise RuntimeError("what should be refused was not")
        reason = result["error"]["message"]
        return self.rng.choice((
            f"I could not do that: {reason} Nothing was changed.",
            f"That is not possible. {reason} I have left everything as it was.",
        ))  # fmt: skip

    def _look_up(self, tool: Tool, args: dict[str, Any]) -> None:
        """See the ids of the records that the user named by their labels."""
        for p in tool.params:
            if p.type.kind not in ("id", "ids") or p.name not in args or p.type.of in self.task.by_id:
                continue
            wanted = [args[p.name]] if p.type.kind == "id" else args[p.name]
            missing = [key for key in wanted if key not in self.seen[p.type.of] and not self._read(key)]
            if not missing:
                continue
            reader = finder(self.task.world, p.type.of, self.task.tools)
            label = label_of(self.task.world, p.type.of)
            if reader is None or label is None:
                raise RuntimeError(f"no tool lists {p.type.of}")
            shown = self.voice.called(p.type.of, missing[0])
            thought = f"I need the id of the {said(p.type.of)} {shown}."
            paged = any(q.name == "limit" for q in reader.params)
            result = self.call(thought, reader.name, {"limit": 50} if paged else {})
            self.seen[p.type.of] |= {item["id"] for item in result["items"]}
            if any(key not in self.seen[p.type.of] for key in missing):
                raise RuntimeError("a record was not in the list")

    def _read(self, key: str) -> bool:
        return any(key in m.content for m in self.messages)

    def _versions(self, tool: Tool, args: dict[str, Any]) -> None:
        """Read the version that the tool expects, with a tool that shows it."""
        for claim in tool.claims:
            if isinstance(claim, c.Version):
                version = self.world.state.tables[claim.entity][args[claim.id_arg]][claim.field]
                args[claim.arg] = version
                reader = next(
                    (t for t in self.world.spec.tools if t.name in self.task.tools and _shows(t, claim)), None
                )
                if reader is None:
                    raise RuntimeError(f"no tool shows the version of {claim.entity}")
                need = next(x for x in reader.claims if isinstance(x, c.Needs))
                thought = f"{tool.name} wants the version that I have read, so I read the record."
                self.call(thought, reader.name, {need.id_arg: args[claim.id_arg]})

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

    def _report(self, tool: Tool, call: Call, result: Result) -> str:
        """What was done, with the figures that came back."""
        told = []
        shown = tool.claims[-1]
        if isinstance(shown, c.Shows):
            fields = self.task.world.entity(shown.entity).fields
            for f in fields:
                if f.name in result and result[f.name] is not None and f.type.kind not in ("ids", "id"):
                    told.append(f"{said(f.name)} {self.voice.value(result[f.name], f.type)}")
            told = told[:3]
            record = f"The {said(shown.entity)} ({result['id']})"
            return sentence(
                f"{record}: {tool.name.replace('_', ' ')} is done; {', '.join(told)}" if told else f"{record} is done"
            )
        if "value" in result:
            return f"Done: {said(tool.name)}. The count is now {result['value']}."
        return f"Done: {said(tool.name)}. {result.get('total', 0)} records remain in the list."

    def _record(self) -> Trajectory:
        task = self.task
        return {
            "kind": "refuse" if task.refused else "solve",
            "messages": [m.to_json() for m in self.messages],
            "tools": [spec.to_wire() for spec in task.tool_specs()],
            "proof": {
                "world": task.world.name, "world_seed": task.world.seed, "seed": task.seed,
                "start": task.plan.start.to_json(), "goal": task.goal, "refused": task.refused,
                "faults": self._faults, "wishes": len(task.requests), "calls": self.calls,
            },
        }  # fmt: skip


def _shows(tool: Tool, claim: c.Version) -> bool:
    """Whether the tool shows this field of one record of which it needs only the id."""
    shown, needs = tool.claims[-1], [x for x in tool.claims if isinstance(x, c.Needs)]
    shows = isinstance(shown, c.Shows) and shown.entity == claim.entity and claim.field in shown.fields
    return tool.reads and shows and len(needs) == 1 and sum(p.required for p in tool.params) == 1


def _wishes(calls: list[Call]) -> list[list[Call]]:
    """Calls in groups that each end with a wanted one."""
    groups: list[list[Call]] = [[]]
    for call in calls:
        groups[-1].append(call)
        if call.wanted:
            groups.append([])
    return groups[:-1]
