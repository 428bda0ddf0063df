"""From a program's tree to the Python function that runs it: source text that a person can read, compiled once.

def restock(s, a):
    shelf = s.find('shelf', a.get('shelf_id'), 'NotFound')
    if not (lt(0, a.get('quantity'))): s.refuse('InvalidValue', 'The quantity must be positive.', a)
    shelf = s.update('shelf', shelf, {'stock': add(shelf['stock'], a.get('quantity'))})
    return {'id': shelf['id'], 'stock': shelf['stock']}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from openk2.synth.world import tree as t

if TYPE_CHECKING:
    from openk2.synth.world.state import State

Function = Callable[["State", dict[str, Any]], dict[str, Any]]

_TESTS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "in": "within", "has": "has"}
_CALCS = {"+": "add", "-": "sub", "*": "mul", "//": "div", "%": "mod", "min": "least", "max": "most"}


def _comparable(a: Any, b: Any) -> bool:
    return a is not None and b is not None and isinstance(a, str) == isinstance(b, str)


def _number(function: Callable[[int, int], int]) -> Callable[[Any, Any], int]:
    return lambda a, b: function(a or 0, b or 0)


BUILTINS: dict[str, Any] = {
    "eq": lambda a, b: a is not None and a == b,
    "ne": lambda a, b: a is not None and b is not None and a != b,
    "lt": lambda a, b: _comparable(a, b) and a < b,
    "le": lambda a, b: _comparable(a, b) and a <= b,
    "gt": lambda a, b: _comparable(a, b) and a > b,
    "ge": lambda a, b: _comparable(a, b) and a >= b,
    "within": lambda a, b: a is not None and b is not None and a in b,
    "has": lambda a, b: isinstance(a, str) and isinstance(b, str) and b.lower() in a.lower(),
    "add": _number(lambda a, b: a + b),
    "sub": _number(lambda a, b: a - b),
    "mul": _number(lambda a, b: a * b),
    "div": _number(lambda a, b: a // b if b else 0),
    "mod": _number(lambda a, b: a % b if b else 0),
    "least": _number(min),
    "most": _number(max),
    "either": lambda a, b: b if a is None else a,
}


def expression(e: t.Expr) -> str:
    match e:
        case t.Const(value):
            return repr(value)
        case t.Arg(name):
            return f"a.get({name!r})"
        case t.Of(bound, field):
            return f"{bound}[{field!r}]"
        case t.Now():
            return "s.now"
        case t.Me(field):
            return f"s.me[{field!r}]"
        case t.Calc(op, a, b):
            return f"{_CALCS[op]}({expression(a)}, {expression(b)})"
        case t.Or(a, b):
            return f"either({expression(a)}, {expression(b)})"
        case t.Count(entity, where):
            return f"sum(1 for it in s.rows({entity!r}) if {condition(where)})"
        case t.Total(how, entity, field, where):
            values = f"(it[{field!r}] or 0 for it in s.rows({entity!r}) if {condition(where)})"
            return f"sum{values}" if how == "sum" else f"{how}({values}, default=0)"
    raise TypeError(f"{e!r} is no expression")


def condition(c: t.Cond) -> str:
    match c:
        case t.Test(op, a, b):
            return f"{_TESTS[op]}({expression(a)}, {expression(b)})"
        case t.All(of):
            return "(" + " and ".join(map(condition, of)) + ")" if of else "True"
        case t.Any_(of):
            return "(" + " or ".join(map(condition, of)) + ")" if of else "False"
        case t.Not(of):
            return f"not {condition(of)}"
        case t.Given(arg):
            return f"(a.get({arg!r}) is not None)"
        case t.Unset(value):
            return f"({expression(value)} is None)"
    raise TypeError(f"{c!r} is no condition")


def _object(values: tuple[tuple[str, t.Expr], ...]) -> str:
    return "{" + ", ".join(f"{name!r}: {expression(value)}" for name, value in values) + "}"


def _step(step: t.Step, of: dict[str, str], tool: str) -> list[str]:
    """Lines of one step; `of` maps what is bound to its entity."""
    match step:
        case t.Find(bind, entity, key, error):
            of[bind] = entity
            return [f"{bind} = s.find({entity!r}, {expression(key)}, {error!r})"]
        case t.Require(cond, error, message):
            return [f"if not {condition(cond)}: s.refuse({error!r}, {message!r}, a)"]
        case t.Insert(bind, entity, values):
            of[bind] = entity
            return [f"{bind} = s.insert({entity!r}, {_object(values)})"]
        case t.Update(bound, values):
            return [f"{bound} = s.update({of[bound]!r}, {bound}, {_object(values)})"]
        case t.Remove(bound):
            return [f"s.remove({of[bound]!r}, {bound})"]
        case t.Each(bind, entity, where, do):
            of[bind] = entity
            body = [line for effect in do for line in _step(effect, of, tool)]
            rows = f"for {bind} in [it for it in s.rows({entity!r}) if {condition(where)}]:"
            return [rows, *("    " + line for line in body)]
        case t.Once(arg):
            return [f"if (before := s.answered({tool!r}, a.get({arg!r}))) is not None: return before"]
        case t.Undo(error):
            return [f"s.undo({error!r})"]
    raise TypeError(f"{step!r} is no step")


def _output(output: t.Output) -> str:
    match output:
        case t.Give(values):
            return _object(values)
        case t.GiveRecord(bound, fields):
            return "{" + ", ".join(f"{f!r}: {bound}[{f!r}]" for f in ("id", *fields)) + "}"
        case t.GiveList(entity, where, fields, sort, descending, offset, limit):
            test = "" if where == t.YES else f" if {condition(where)}"
            how = f"{expression(sort)}, {condition(descending)}, {expression(offset)}, {expression(limit)}"
            return f"s.page([it for it in s.rows({entity!r}){test}], {('id', *fields)!r}, {how})"
    raise TypeError(f"{output!r} is no output")


def source(name: str, program: t.Program) -> str:
    """The Python text of a tool's function. Raises TypeError for a tree that is none."""
    of: dict[str, str] = {}
    lines = [line for step in program.steps for line in _step(step, of, name)]
    once = next((step.arg for step in program.steps if isinstance(step, t.Once)), None)
    if once is None:
        lines.append(f"return {_output(program.output)}")
    else:
        lines += [f"out = {_output(program.output)}", f"s.remember({name!r}, a.get({once!r}), out)", "return out"]
    return f"def {name}(s, a):\n" + "".join(f"    {line}\n" for line in lines)


def compile_program(name: str, program: t.Program) -> Function:
    """The function of a tool: (state, checked arguments) -> result; raises state.Refused."""
    space = dict(BUILTINS)
    exec(compile(source(name, program), f"<{name}>", "exec"), space)
    return space[name]


def evaluate(cond: t.Cond, state: State) -> bool:
    """Whether a condition without bindings or arguments (a goal) holds in a state."""
    return bool(eval(condition(cond), dict(BUILTINS) | {"s": state, "a": {}}))
