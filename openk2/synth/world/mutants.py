"""Mutants of a tool: programs with one fault planted in a guard or an effect. One that lives is a gap in the laws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from openk2.synth.world import tree as t
from openk2.synth.world.laws import failures
from openk2.synth.world.lower import lower
from openk2.synth.world.spec import Tool
from openk2.synth.world.world import World

_NEAR = {"==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_OTHER = {"+": "-", "-": "+", "*": "+", "//": "*", "%": "//", "min": "max", "max": "min"}


def mutants(tool: Tool) -> Iterator[tuple[str, t.Program]]:
    """(what was done, the program): a step, a condition or a value left out; a comparison, sign or constant changed;
    the same in the filters of a list and in what is computed.
    """
    program = lower(tool)
    for i, step in enumerate(program.steps):
        if not isinstance(step, t.Find | t.Insert) or (isinstance(step, t.Insert) and not _shown(program, step)):
            yield f"without {_name(step)}", _with(program, i, None)
        for what, changed in _changes(step):
            yield what, _with(program, i, changed)
    match program.output:
        case t.GiveList() as output:
            for name in ("where", "descending"):
                for what, changed in _changes(getattr(output, name)):
                    yield (
                        f"list: {what}",
                        dataclasses.replace(program, output=dataclasses.replace(output, **{name: changed})),
                    )
        case t.Give() as output:
            for what, changed in _changes(output):
                yield f"answer: {what}", dataclasses.replace(program, output=changed)


def _name(step: t.Step) -> str:
    return f"{type(step).__name__} {getattr(step, 'error', '') or getattr(step, 'entity', '')}".strip()


def _shown(program: t.Program, step: t.Insert) -> bool:
    return any(isinstance(node, t.GiveRecord) and node.bound == step.bind for node in t.walk(program.output))


def _with(program: t.Program, at: int, step: Any) -> t.Program:
    steps = list(program.steps)
    steps[at : at + 1] = [] if step is None else [step]
    return dataclasses.replace(program, steps=tuple(steps))


def _changes(node: Any) -> Iterator[tuple[str, Any]]:
    """Every copy of a tree with one change in it."""
    match node:
        case t.Test(op) if op in _NEAR:
            yield f"{op} became {_NEAR[op]}", dataclasses.replace(node, op=_NEAR[op])
        case t.Calc(op):
            yield f"{op} became {_OTHER[op]}", dataclasses.replace(node, op=_OTHER[op])
        case t.Const(value) if isinstance(value, bool):
            yield "a constant turned round", t.Const(not value)
        case t.Const(value) if isinstance(value, int):
            yield "a constant grew by one", t.Const(value + 1)
        case t.Const(value) if isinstance(value, str):
            yield "a constant became another", t.Const(value + "_other")
        case t.Const(value) if isinstance(value, list) and value:
            yield "a list lost its first value", t.Const(value[1:])
        case t.Insert(_, _, values) | t.Update(_, values):
            for i in range(len(values)):
                yield f"{values[i][0]} not set", dataclasses.replace(node, values=values[:i] + values[i + 1 :])
        case t.All(of) | t.Any_(of) if len(of) > 1:
            for i in range(len(of)):
                yield "a condition left out", dataclasses.replace(node, of=of[:i] + of[i + 1 :])
    if isinstance(node, tuple):
        for i, child in enumerate(node):
            for what, changed in _changes(child):
                yield what, (*node[:i], changed, *node[i + 1 :])
    elif dataclasses.is_dataclass(node) and not isinstance(node, t.Const):
        for field in dataclasses.fields(node):
            for what, changed in _changes(getattr(node, field.name)):
                yield what, dataclasses.replace(node, **{field.name: changed})  # type: ignore[arg-type]


def survivors(world: World, tool: Tool, seed: int = 0) -> tuple[list[str], int]:
    """(mutants of the tool that its laws let live, how many there are)."""
    alive, count = [], 0
    for what, program in mutants(tool):
        count += 1
        twin = world.with_programs({tool.name: program})
        try:
            found = bool(failures(twin, tool, seed))
        except (TypeError, KeyError):  # it crashed: noticed
            found = True
        if not found:
            alive.append(what)
    return alive, count
