"""What runs Python code, and the program that does so inside the box.

`execute` is the whole semantics of the python tool's text: what is printed, the repr of a last expression, the last
line of a traceback. It may be called in-process for code that is trusted.
"""

from __future__ import annotations

import ast
import io
import sys
from typing import Any, TextIO

NO_OUTPUT = "(no output)"


def execute(code: str, namespace: dict[str, Any]) -> tuple[str, bool]:
    """Run trusted `code` in this process; the text of the result and whether it is an error. `namespace` is kept."""
    out = io.StringIO()
    before = sys.stdout, sys.stderr, sys.stdin
    sys.stdout = sys.stderr = out
    sys.stdin = io.StringIO()
    try:
        is_error = run(code, namespace, out)
    finally:
        sys.stdout, sys.stderr, sys.stdin = before
    return finished(out.getvalue()), is_error


def run(code: str, namespace: dict[str, Any], out: TextIO) -> bool:
    """Run `code`, write a last expression's repr or the error's last line to `out`; whether it was an error."""
    namespace.setdefault("__name__", "__main__")
    try:
        tree = ast.parse(code, "<python>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<python>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<python>", "eval"), namespace)
            if value is not None:
                out.write(f"{value!r}\n")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        out.write(last_line(error) + "\n")
        return True
    return False


def last_line(error: BaseException) -> str:
    """The last line of the error's traceback, as `NameError: name 'x' is not defined`."""
    import traceback  # slow to import and seldom needed

    try:
        lines = traceback.TracebackException(type(error), error, None).format_exception_only()
        # A syntax error is shown over several lines and named in the last; notes follow the first line of any other.
        return (list(lines)[-1] if isinstance(error, SyntaxError) else next(iter(lines))).rstrip("\n")
    except Exception:  # the code defined an exception that cannot be shown
        return type(error).__name__


def finished(text: str) -> str:
    return text.rstrip("\n") or NO_OUTPUT
