"""calculator(expression): exact arithmetic by walking a syntax tree; nothing is ever evaluated as code."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

from openk2.tools.base import ToolError, tool

MAX_CHARACTERS = 2000
MAX_BITS = 13_000  # about 3900 digits, below Python's own limit for printing an integer

Number = int | float

_CONSTANTS = {"pi": math.pi, "e": math.e}
_ALIASES = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_COMMON = (
    "Use numbers, + - * / // % **, parentheses, pi, e, and min max sum abs round sqrt floor ceil log exp sin cos tan "
    "factorial comb."
)


@tool(idempotent=True, timeout=5.0)
def calculator(expression: str) -> str:
    """Compute an arithmetic expression in Python syntax, for example (3 + 4) * 2 ** 5 or round(17 / 3, 2).

    Args:
        expression: The expression; digits may be grouped with _ as in 1_234_567 (the result groups them with commas).
    """
    return show(evaluate(expression))


def evaluate(expression: str) -> Number:
    """The value of `expression`: an exact integer or a float. Raises ToolError with one sentence for the model."""
    text = expression.strip().translate(_ALIASES)
    if not text:
        raise ToolError("The expression is empty.")
    if len(text) > MAX_CHARACTERS:
        raise ToolError(f"The expression is longer than {MAX_CHARACTERS} characters.")
    try:
        with warnings.catch_warnings():  # "4(3)" warns on stderr besides being refused below
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError(f"This is not an arithmetic expression. {_COMMON}") from None
    try:
        value = _value(tree)
    except ZeroDivisionError:
        raise ToolError("Division by zero.") from None
    except OverflowError:
        raise ToolError("The result is too large.") from None
    except RecursionError:
        raise ToolError("The expression is nested too deeply.") from None
    if isinstance(value, list):
        raise ToolError("The result is a list, not a number: write numbers without commas, as 1234 or 1_234.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("The result is not a finite number.")
    return value


def show(value: Number) -> str:
    """Thousands grouped by commas; integers exact; floats rounded to 10 places, integral ones without a point."""
    if isinstance(value, int):
        return f"{value:,}"
    rounded = round(value, 10)
    if rounded == 0 and value != 0:  # do not call a small number nothing
        return repr(float(f"{value:.10g}"))
    return f"{int(rounded):,}" if rounded.is_integer() and abs(rounded) < 1e16 else f"{rounded:,}"


def _value(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=bool() | complex()):
            raise ToolError(_COMMON)
        case ast.Constant(value=int() | float() as number):
            return _checked(number)
        case ast.Name(id=name):
            if name not in _CONSTANTS:
                raise ToolError(f"Unknown name {name}. {_COMMON}")
            return _CONSTANTS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_number(item) for item in items]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _number(operand)
        case ast.BinOp(op=ast.BitXor()):
            raise ToolError("Write a power as **, not ^.")
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _checked(_power(_number(left), _number(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _checked(_OPERATORS[type(op)](_number(left), _number(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, arguments)
        case _:
            raise ToolError(f"Only arithmetic can be computed here. {_COMMON}")


def _number(node: ast.AST) -> Number:
    value = _value(node)
    if isinstance(value, list):
        raise ToolError("A list stands where a number is needed: write numbers without commas, as 1234 or 1_234.")
    return value


def _checked(value: Any) -> Number:
    if isinstance(value, complex):
        raise ToolError("The result is not a real number.")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ToolError("The result is too large.")
    return value


def _power(base: Number, exponent: Number) -> Any:
    large = isinstance(base, int) and abs(base) > 1 and (base.bit_length() - 1) * exponent > MAX_BITS
    if large and isinstance(exponent, int):  # checked before it is computed
        raise ToolError("The result is too large.")
    return base**exponent


def _call(name: str, arguments: list[ast.expr]) -> Number:
    if name not in _FUNCTIONS:
        raise ToolError(f"Unknown function {name}. {_COMMON}")
    function, least, most = _FUNCTIONS[name]
    values = [_value(argument) for argument in arguments]
    if most is None and len(values) == 1 and isinstance(values[0], list):  # sum([1, 2]) is sum(1, 2)
        values = values[0]
    if any(isinstance(value, list) for value in values):
        raise ToolError(f"{name} takes numbers, not a list.")
    if len(values) < least or (most is not None and len(values) > most):
        raise ToolError(f"{name} takes {least if most in (None, least) else f'{least} to {most}'} argument(s).")
    try:
        return _checked(function(*values))
    except (ValueError, TypeError):
        shown = ", ".join(show(value) for value in values)
        raise ToolError(f"{name}({shown}) is not defined.") from None


def _round(value: Number, places: Number = 0) -> Number:
    digits = _whole(places)
    if abs(digits) > 400:
        raise ValueError
    return round(value, digits) if digits else round(value)


def _whole(value: Number) -> int:
    if int(value) != value:
        raise ValueError
    return int(value)


def _factorial(value: Number) -> int:
    n = _whole(value)
    if n > 1500:
        raise ToolError("The result is too large.")
    return math.factorial(n)


def _comb(n: Number, k: Number) -> int:
    whole, part = _whole(n), _whole(k)
    if whole >= 0 <= part and min(part, whole - part) * max(whole.bit_length(), 1) > 4 * MAX_BITS:
        raise ToolError("The result is too large.")
    return math.comb(whole, part)


def _sqrt(value: Number) -> Number:
    if isinstance(value, int) and value >= 0:
        root = math.isqrt(value)
        if root * root == value:  # exact for a square of any size
            return root
    return math.sqrt(value)


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# name: (function, least arguments, most arguments or None for any number and lists)
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int | None]] = {
    "min": (lambda *v: min(v), 1, None),
    "max": (lambda *v: max(v), 1, None),
    "sum": (lambda *v: sum(v), 1, None),
    "abs": (abs, 1, 1),
    "round": (_round, 1, 2),
    "sqrt": (_sqrt, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "log": (math.log, 1, 2),
    "exp": (math.exp, 1, 1),
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
    "factorial": (_factorial, 1, 1),
    "comb": (_comb, 2, 2),
}
