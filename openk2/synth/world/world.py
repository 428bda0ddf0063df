"""A world that runs: `reset`, `call`, `snapshot`, `check`. One object serves data, environments and evaluations."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any

from openk2.synth.world.claims import Undoes
from openk2.synth.world.code import Function, compile_program, evaluate
from openk2.synth.world.lower import lower
from openk2.synth.world.populate import populate
from openk2.synth.world.spec import Tool, WorldSpec
from openk2.synth.world.state import Refused, State
from openk2.synth.world.tree import Cond, Kind, Param, Program, Type, said

Result = dict[str, Any]
_KEPT = 16  # first states: making one costs as much as a few hundred calls
Fault = Callable[[str, dict[str, Any]], str | None]  # (tool, arguments) -> what goes wrong with this call


class World:
    """A spec, its compiled tools, and one state. Raises nothing on a bad call: it answers as an API would."""

    def __init__(self, spec: WorldSpec, seed: int = 0) -> None:
        self.spec = spec
        self.tools = {tool.name: tool for tool in spec.tools}
        self._functions: dict[str, Function] = {}  # compiled when first called
        self._undoes = {tool.name for tool in spec.tools if any(isinstance(claim, Undoes) for claim in tool.claims)}
        self.fault: Fault | None = None
        self._first: dict[int, State] = {}  # first states that were made before
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """The state of `seed`: records and a past, made by the world's own tools; no fault is set."""
        self.fault = None
        if seed not in self._first:
            self.state = State(self.spec, seed)
            populate(self, random.Random(f"{self.spec.name} {self.spec.seed} {seed}"))
            if len(self._first) == _KEPT:
                del self._first[next(iter(self._first))]
            self._first[seed] = self.state
        self.state = self._first[seed].copy()

    def with_programs(self, programs: Mapping[str, Program]) -> World:
        """The same world in the same state, where these tools do something else (mutants)."""
        twin = copy.copy(self)
        twin._functions = self._functions | {name: compile_program(name, p) for name, p in programs.items()}
        twin.restore(self.state)
        return twin

    def _function(self, tool: Tool) -> Function:
        if tool.name not in self._functions:
            self._functions[tool.name] = compile_program(tool.name, lower(tool))
        return self._functions[tool.name]

    def become(self, user: str) -> None:
        """Calls are made by this user (an id of entity `user`) from now on."""
        record = self.state.tables["user"][user]
        self.state.me = {"id": record["id"], "role": record["role"]}

    def call(self, name: str, arguments: dict[str, Any]) -> Result:
        """The result, or `{"error": {"code", "message"}}`; a refused call has changed nothing but the clock."""
        tool = self.tools.get(name)
        if tool is None:
            return _error("UnknownTool", f"There is no tool {name!r}.")
        problem = invalid(tool, arguments)
        if problem:
            return _error("InvalidArguments", problem)
        fault = self.fault(name, arguments) if self.fault else None
        self.state.now += 1
        match fault:
            case "timeout":  # the call never arrived
                return _error("Timeout", "The service did not answer in time. Whether the call took effect is unknown.")
            case "rate_limit":
                return _error("TooManyRequests", "Too many calls; try again.")
            case "unavailable":
                return _error("ServiceUnavailable", "The service is unavailable for a moment; try again.")
        try:
            function = self._function(tool)
            result = function(self.state, arguments)
            self.state.commit(undoable=name not in self._undoes)
            if fault == "duplicate":  # delivered twice
                result = function(self.state, arguments)
                self.state.commit()
        except Refused as refused:
            self.state.roll_back()
            return _error(refused.code, refused.message)
        if fault == "lost_answer":  # it took effect, but the answer was lost
            return _error("Timeout", "The service did not answer in time. Whether the call took effect is unknown.")
        return result

    def check(self, goal: Cond) -> bool:
        return evaluate(goal, self.state)

    def snapshot(self) -> State:
        """A copy to come back to (`restore`) or to compare (`State.digest`)."""
        return self.state.copy()

    def restore(self, snapshot: State) -> None:
        self.state = snapshot.copy()


def _error(code: str, message: str) -> Result:
    return {"error": {"code": code, "message": message}}


_PYTHON: dict[str, type | tuple[type, ...]] = {
    "text": str, "choice": str, "id": str, "int": int, "money": int, "time": int, "flag": bool, "ids": list,
    "texts": list, "object": dict, "objects": list,
}  # fmt: skip


def invalid(tool: Tool, arguments: dict[str, Any]) -> str:
    """What is wrong with the arguments, or "" - types, choices, bounds, missing and unknown names."""
    known = {p.name for p in tool.params}
    for name in arguments:
        if name not in known:
            return f"{tool.name} takes no argument {name!r}; it takes {', '.join(sorted(known)) or 'none'}."
    for p in tool.params:
        value = arguments.get(p.name)
        if value is None:
            if p.required:
                return f"The argument {p.name!r} is missing."
            continue
        problem = _misfit(p, value)
        if problem:
            return f"The argument {p.name!r} {problem}."
    return ""


def _is_a(kind: Kind, value: object) -> bool:
    return isinstance(value, _PYTHON[kind]) and (kind == "flag" or not isinstance(value, bool))


def _misfit(p: Param, value: Any) -> str:
    if not _is_a(p.type.kind, value):
        return f"must be {_SAID[p.type.kind]}, not {value!r}"
    match p.type.kind:
        case "choice" if value not in p.type.values:
            return f"must be one of {', '.join(p.type.values)}, not {value!r}"
        case "ids" | "texts":
            if any(not isinstance(v, str) for v in value):
                return f"must be {_SAID[p.type.kind]}"
            other = [v for v in value if p.type.values and v not in p.type.values]
            return f"may hold only {', '.join(p.type.values)}, not {other[0]!r}" if other else ""
        case "object":
            return _misfit_parts(p, value)
        case "objects":
            return next((problem for v in value if (problem := _misfit_parts(p, v))), "")
        case "int" | "money" | "time":
            if p.low is not None and value < p.low:
                return f"must be at least {p.low}, not {value}"
            if p.high is not None and value > p.high:
                return f"must be at most {p.high}, not {value}"
    return ""


def _misfit_parts(p: Param, value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return f"must be {_SAID[p.type.kind]}"
    parts = {part.name: Param(part.name, part.type) for part in p.type.parts}
    for name, inner in value.items():
        if name not in parts:
            return f"has no {name!r}; it has {', '.join(parts)}"
        if problem := _misfit(parts[name], inner):
            return f"is wrong: {name!r} {problem}"
    return ""


_SAID = {
    "text": "a string", "choice": "a string", "id": "an id", "int": "an integer", "money": "an amount in cents",
    "time": "a time in minutes", "flag": "true or false", "ids": "a list of ids",
    "texts": "a list of strings", "object": "an object", "objects": "a list of objects",
}  # fmt: skip


def schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, as a model is shown it."""
    properties: dict[str, Any] = {}
    for p in tool.params:
        shape = _schema(p.type)
        if p.low is not None:
            shape["minimum"] = p.low
        if p.high is not None:
            shape["maximum"] = p.high
        unit = {"money": " (in cents)", "time": " (in minutes)"}.get(p.type.kind, "")
        properties[p.name] = shape | {"description": (p.doc or said(p.name)) + unit}
    required = [p.name for p in tool.params if p.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(kind: Type) -> dict[str, Any]:
    match kind.kind:
        case "int" | "money" | "time":
            return {"type": "integer"}
        case "flag":
            return {"type": "boolean"}
        case "choice":
            return {"type": "string", "enum": list(kind.values)}
        case "ids" | "texts":
            return {"type": "array", "items": _schema(Type("choice" if kind.values else "text", values=kind.values))}
        case "object" | "objects":
            parts = {part.name: _schema(part.type) for part in kind.parts}
            shape = {"type": "object", "properties": parts, "minProperties": 1, "additionalProperties": False}
            return shape if kind.kind == "object" else {"type": "array", "items": shape}
    return {"type": "string"}
