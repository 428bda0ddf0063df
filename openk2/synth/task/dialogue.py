"""A dialogue going on: a world, its tools for the agent, a user who speaks, and the record of it all.

Whoever is the agent (the planner of `episode.py`, a model, or a record that `verify.py` looks at) speaks through
`assistant`: a message with calls is executed, one without goes to the user, whose answer follows. So one piece of code
decides what follows a message, when it is made and when it is verified.

    talk = Dialogue.of_task(world, task, seeded_faults(task.seed))
    while not talk.over:
        talk.assistant(agent(talk.messages, talk.specs))
    talk.record(agent={"model": "..."}), talk.failures()
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from openk2.chat.messages import Message, ToolCall
from openk2.synth.task import rubric as r
from openk2.synth.task.facts import tool_spec, wire
from openk2.synth.task.office import Office
from openk2.synth.task.task import Task
from openk2.synth.task.users import User
from openk2.synth.world.state import State
from openk2.synth.world.world import Fault, Result, World

Trajectory = dict[str, Any]  # kind, messages, tools, proof
_ID = re.compile(r"\b[a-z][a-z0-9]{0,3}-[0-9a-f]{6}\b")
_NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])")
_DIGITS = re.compile(r"(?<![A-Za-z\d.])\d+(?:\.\d+)?(?![A-Za-z\d])")  # also those of `balance_2`
_LISTED = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)  # the numbers of a numbered list
_FAULTS = ("unavailable", "rate_limit")
_SILENT = ("timeout", "lost_answer")


@lru_cache(4096)  # what was made is verified next: every text is met twice
def _shown(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Ids and figures in a text."""
    return frozenset(_ID.findall(text)), frozenset(_DIGITS.findall(text.replace(",", "")))


class Seen:
    """Ids and figures that were told or shown so far."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._figures: set[str] = set()
        self._parts: set[int] = set()  # days, hours and minutes of the times seen

    def add(self, text: str) -> None:
        ids, figures = _shown(text)
        self.ids |= ids
        for figure in figures - self._figures:
            self._figures.add(figure)
            if 3 <= len(figure) <= 6 and figure.isdigit():
                minutes = int(figure)
                self._parts |= {minutes // 1440, minutes % 1440 // 60, minutes % 60}

    def worked_out(self, value: Any) -> None:
        """Figures that the agent gives to a tool."""
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                self.worked_out(part)
        elif isinstance(value, int):
            self._figures.add(str(value))

    def figure(self, number: str) -> bool:
        """It was seen as it is, or as the cents or the minutes of which it is the spoken form."""
        plain = number.replace(",", "")
        if "." in plain:
            return plain in self._figures or (plain.replace(".", "").lstrip("0") or "0") in self._figures
        return plain in self._figures or int(plain) in self._parts or str(int(plain)) in self._figures


class Dialogue:
    """`messages`: so far, the system's and the user's first one included. `evidence`: what the rubric looks at.

    `world` is left as it is, so several dialogues in one may be under way at once. `fault`: see `World.fault`; what it
    gave is kept in `faults` and goes into the proof.
    """

    def __init__(
        self, world: World, start: State, system: str, tools: Sequence[str], user: User, rubric: Sequence[r.Check],
        fault: Fault | None = None, origin: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        world = copy.copy(world)  # the compiled tools, and a state of its own
        self.world, self.start, self.user, self.rubric = world, start, user, tuple(rubric)
        self.origin = dict(origin or {})
        world.restore(start)
        world.fault = self._fault if fault else None
        self._chance = fault
        self.faults: list[str | None] = []
        self.specs = [tool_spec(tool) for name in tools if (tool := world.tools.get(name))]
        self.tools = frozenset(spec.name for spec in self.specs)
        self.messages = [Message("system", system), Message("user", user.opening())]
        self.seen = Seen()
        self.evidence = r.Evidence(world.spec, start, world.state, [[] for _ in user.wishes])
        self.evidence.said.append((1, self.messages[1].content))
        self.done = 0  # calls since the last wish was said that succeeded and change something
        self.tried: set[str] = set()  # calls of the wish in work that would change something
        self.calls = 0
        for message in self.messages:
            self.seen.add(message.content)
        for check in self.rubric:  # figures that an agent has to work out
            if isinstance(check, r.States):
                for form in check.forms:
                    self.seen.add(_ID.sub("", form))

    @classmethod
    def of_task(cls, world: World, task: Task, fault: Fault | None = None) -> Dialogue:
        """The task's dialogue, before the agent has said anything."""
        main = world.main if isinstance(world, Office) else world
        origin: dict[str, Any] = {"world": task.world.name, "world_seed": task.world.seed, "seed": task.seed}
        origin["start"] = {"first": task.first} | task.plan.start.changes_from(_first(main, task.first))
        if isinstance(world, Office):
            origin["beside"] = [other.spec.name for other in world.beside]
        return cls(world, task.plan.start, task.system, task.tools, task.user(), task.rubric, fault, origin)

    @classmethod
    def of_record(cls, record: Trajectory, world: World) -> Dialogue:
        """The dialogue of a record before its agent's first message, with the faults that struck it.

        Raises KeyError, TypeError or ValueError for a record that is none.
        """
        proof = record["proof"]
        faults = iter(proof["faults"])
        tools = [spec["function"]["name"] for spec in record["tools"]]
        return cls(
            world, start_of(record, world), record["messages"][0]["content"], tools,
            User.from_json(proof["user"]), r.from_json(proof["rubric"]), lambda tool, args: next(faults, None),
        )  # fmt: skip

    @property
    def over(self) -> bool:
        """The user wants nothing more."""
        return self.user.at >= len(self.user.wishes)

    def _fault(self, tool: str, arguments: dict[str, Any]) -> str | None:
        assert self._chance is not None
        self.faults.append(self._chance(tool, arguments))
        return self.faults[-1]

    def assistant(self, message: Message) -> list[Message]:
        """What follows a message of the agent: results of its calls, or the user's answer (none at the end).

        Raises ValueError when the dialogue is over.
        """
        if self.over:
            raise ValueError("The dialogue is over.")
        self.messages.append(message)
        if message.tool_calls:
            follow = [self._result(call) for call in message.tool_calls]
        else:
            follow = self._reply(message.content)
        self.messages += follow
        return follow

    def _result(self, call: ToolCall) -> Message:
        arguments = _arguments(call.arguments)
        if call.name not in self.tools:
            result = _error("UnknownTool", f"There is no tool {call.name!r}.")
            self.evidence.foreign.append(f"{call.name} is none of the agent's tools")
        elif arguments is None:
            result = _error("InvalidArguments", "The arguments are no JSON object.")
            self.evidence.foreign.append(f"the arguments of {call.name} cannot be read")
        else:
            result = self._call(call.name, arguments)
        content = json.dumps(result, ensure_ascii=False)
        self.seen.add(content)
        return Message("tool", content, tool_call_id=call.id)

    def _call(self, name: str, arguments: dict[str, Any]) -> Result:
        self.evidence.guessed += [
            f"{name} was called with the id {key}, which nobody had shown"
            for key in _ids(arguments)
            if key not in self.seen.ids
        ]
        result = self.world.call(name, arguments)
        self.calls += 1
        self.seen.worked_out(arguments)
        ok, changes = "error" not in result, not self.world.tools[name].reads
        self.done += ok and changes
        if changes:
            self.tried.add(f"{name} {arguments}")
        self.evidence.calls.append(r.Done(len(self.messages), self.user.at, name, arguments, ok, changes))
        return result

    def _reply(self, text: str) -> list[Message]:
        self._look_at(text)
        wish = self.user.at
        self.evidence.answers[wish].append(text)
        reply = self.user.reply(text, self.done)
        if self.user.at != wish:
            self.done, self.tried = 0, set()
        if reply is None:
            return []
        self.seen.add(reply)
        self.evidence.said.append((len(self.messages), reply))
        return [Message("user", reply)]

    def _look_at(self, text: str) -> None:
        """Ids and figures of an answer; the agent may count its own calls, and number a list."""
        mine = {str(self.calls), str(self.done), str(len(self.tried))}
        self.evidence.guessed += [
            f"the answer names the id {key}, which nobody had shown"
            for key in _ID.findall(text)
            if key not in self.seen.ids
        ]
        self.evidence.unseen += [
            f"the answer claims {n}, which nobody had shown"
            for n in _NUMBER.findall(_LISTED.sub("", text))
            if n not in mine and not self.seen.figure(n.rstrip(","))
        ]

    def failures(self) -> list[tuple[r.Check, str]]:
        """The checks of the rubric that fail so far, with what was found instead."""
        self.evidence.end = self.world.state
        self.evidence.beside = self.world.changed() if isinstance(self.world, Office) else []
        return r.failures(self.rubric, self.evidence)

    def record(self, **more: Any) -> Trajectory:
        """The trajectory with its proof, to which `more` is added (say, which model was the agent)."""
        refused = [isinstance(check, r.Declines) for check in self.rubric]
        kind = "solve" if not any(refused) else "refuse" if sum(refused) == len(self.user.wishes) else "mixed"
        return {
            "kind": kind,
            "messages": [m.to_json() for m in self.messages],
            "tools": [wire(spec) for spec in self.specs],
            "proof": self.origin | {
                "user": self.user.to_json(), "rubric": r.to_json(self.rubric),
                "faults": self.faults, "calls": self.calls,
            } | more,
        }  # fmt: skip


def start_of(record: Trajectory, world: World) -> State:
    """The state in which a record starts. Raises KeyError or TypeError for a record that is none."""
    data = record["proof"]["start"]
    return _first(world.main if isinstance(world, Office) else world, data["first"]).changed(data)


def _first(world: World, first: int) -> State:
    twin = copy.copy(world)
    twin.reset(first)
    return twin.state


def seeded_faults(
    seed: int, rate: float = 0.08, traced: Callable[[str, dict[str, Any]], bool] = lambda tool, arguments: False
) -> Fault:
    """A service that is busy for a moment, never twice in a row; half as often one that does not answer, so that nobody
    knows whether the call took effect, where it can be found out (`traced`).
    """
    rng = random.Random(f"openk2 faults {seed}")
    before: list[str | None] = [None]

    def fault(tool: str, arguments: dict[str, Any]) -> str | None:
        struck = rng.random()
        if before[0] is not None or struck >= 1.5 * rate:
            before[0] = None
        elif struck < rate:
            before[0] = rng.choice(_FAULTS)
        else:
            before[0] = rng.choice(_SILENT) if traced(tool, arguments) else None
        return before[0]

    return fault


def rows_of(result: Result) -> list[dict[str, Any]]:
    """The records that a result shows."""
    return result["items"] if result.keys() == {"items", "total"} else [result]


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        data = json.loads(text or "{}")
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _error(code: str, message: str) -> Result:
    return {"error": {"code": code, "message": message}}


def _ids(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if _ID.fullmatch(value) else []
    if isinstance(value, list | dict):
        return [key for part in (value.values() if isinstance(value, dict) else value) for key in _ids(part)]
    return []
