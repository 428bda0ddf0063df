"""What runs Python code: in-process for code that is trusted (`execute`), else as the executor of a box.

`run` is the whole semantics of the python tool's text: what is printed, the repr of a last expression, the last line of
a traceback. The executor keeps one namespace over all calls and can reach its supervisor by two pipes only, so nothing
that the code does can forge or garble what the host reads.
"""

from __future__ import annotations

import io
import os
import sys
from _ast import Expr, Expression, PyCF_ONLY_AST  # `ast` itself takes 20 ms to import, a third of a start

from openk2.sandbox import replay

TYPE_CHECKING = False  # as in `typing`, which is slow to import and needed by type checkers only
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, TextIO

NO_OUTPUT = "(no output)"
CODE, REPLAY = b"c", b"r"  # what the executor can be asked for
FIGURES = "openk2_figures"  # the name under which matplotlib imports figures.py


def execute(code: str, namespace: dict[str, Any]) -> tuple[str, bool]:
    """Run trusted `code` in this process; the text of the result and whether it is an error. `namespace` is kept."""
    out = io.StringIO()
    before = sys.stdout, sys.stderr, sys.stdin
    sys.stdout = sys.stderr = out
    sys.stdin = io.StringIO()
    try:
        failed_at = run(code, namespace, out)
    finally:
        sys.stdout, sys.stderr, sys.stdin = before
    return finished(out.getvalue()), failed_at is not None


def run(code: str, namespace: dict[str, Any], out: TextIO) -> int | None:
    """Run `code`, write a last expression's repr or the error's last line to `out`.

    None, or after an error the number of top-level statements that were done before it.
    """
    namespace.setdefault("__name__", "__main__")
    done, program = 0, None
    ends: list[tuple[int, int]] = []
    try:
        tree: Any = compile(code, "<python>", "exec", PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        ends = [(statement.end_lineno, statement.end_col_offset) for statement in tree.body]
        program = compile(tree, "<python>", "exec", dont_inherit=True)
        exec(program, namespace)
        done, program = len(ends), None
        if last is not None:
            value = eval(compile(Expression(last.value), "<python>", "eval", dont_inherit=True), namespace)
            if value is not None:
                out.write(f"{value!r}\n")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        out.write(last_line(error) + "\n")
        return done if program is None else sum(end <= _place(error, program) for end in ends)
    return None


def _place(error: BaseException, program: CodeType) -> tuple[int, int]:
    """Line and column in `program` where `error` came up; (0, 0) where its traceback does not tell."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not program:
        trace = trace.tb_next
    if trace is None:
        return 0, 0
    for number, (line, _, column, _) in enumerate(program.co_positions()):
        if number == trace.tb_lasti // 2:
            return line or 0, column or 0
    return 0, 0


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


def executor(code_pipe: int, status_pipe: int, memory: int, packages: list[str]) -> None:
    """Run each piece of code that comes in, for ever. What it prints goes to file descriptor 1."""
    import resource
    import types

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    main = types.ModuleType("__main__")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openk2"]:
        del sys.modules[name]  # the code may have an openk2 of its own to import
    sys.modules["__main__"] = main  # so that pickle and dataclasses find what the code defines
    sys.path += [*packages, ""]  # the workspace last: a file json.py there must not break the standard library
    sys.meta_path.append(_Figures)  # pyright: ignore[reportArgumentType]
    sys.argv = [""]
    out = _printer()
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = out
    # Bound here: the code may put anything in the place of a module's functions.
    read, write, getpid, give_up, own = os.read, os.write, os.getpid, os._exit, os.getpid()
    received = b""
    while data := read(code_pipe, 1 << 16):
        received += data
        size = int.from_bytes(received[:4], "big")
        if len(received) < 4 or len(received) < 4 + size:
            continue
        token, kind, text = received[4:20], received[20:21], received[21 : 4 + size].decode("utf-8", "surrogatepass")
        received = received[4 + size :]
        failed_at: int | None = 0
        try:
            if kind == REPLAY:
                answer = replay.replay(text, main.__dict__, save_figures)
                out, failed_at = _printer(), None
                out.write(answer)
            else:
                failed_at = run(text, main.__dict__, out)
        except KeyboardInterrupt:
            out.write("KeyboardInterrupt\n")
        if getpid() != own:  # the code forked and its child came back here
            give_up(0)
        try:
            save_figures()
        except BaseException as error:
            out.write(last_line(error) + "\n")
        try:
            out.flush()
        except (OSError, ValueError):  # the code closed it
            out = _printer()
        sys.stdout = sys.stderr = out
        write(status_pipe, token + (b"0" if failed_at is None else b"1") + (failed_at or 0).to_bytes(4, "big"))


def save_figures() -> None:
    """Write the figures that the code left open as files, and close them."""
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None and pyplot.get_fignums():
        __import__(FIGURES).save_all()


class _Figures:
    """Finds figures.py, which is in no folder that the code imports from."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if name != FIGURES:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, os.path.join(os.path.dirname(__file__), "figures.py"))  # noqa: PTH118, PTH120


def _printer() -> TextIO:
    """Standard output, a line at a time, so that it stays in order with what a subprocess prints."""
    return io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
