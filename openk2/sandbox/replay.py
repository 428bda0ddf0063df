"""Rebuilds the state of a Python process that was lost, by running its earlier calls again without their effects.

The rule, statement by statement at the top level of each call:
- A call that raised is repeated up to the statement that raised; one that was stopped is not repeated at all.
- Files are there already. What a statement writes goes to a nameless scratch file; deleting, renaming and making
  folders do nothing; sleeping takes no time. Reading reads what is there now.
- Files left open for writing are closed in the end: what would be written to them later is not to be lost silently.
- Imports are repeated with all they do.
- A statement that starts a process, opens a connection or changes files in another way is left out from there on.
- A statement that raises now, though it did not then, is left out; the rest of its call is still tried.

What was left out is named in the result. Values from `random`, `time` and the like differ from those of the first run;
hashes do not, their seed is fixed. This guards honest code against repeating itself; the boundary is the box.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Iterator
    from typing import Any

MOST_NAMES, MOST_NOTES = 20, 3
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of what cannot be repeated, and what to call it; see "Audit events table" in Python's documentation.
_REFUSED = {
    "open": "writes a file",
    "sqlite3.connect": "opens a database",
    "socket.connect": "opens a connection",
    "socket.bind": "opens a connection",
    **dict.fromkeys(
        ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
        "starts a process",
    ),
    **dict.fromkeys(
        ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.kill"),
        "changes files or processes",
    ),
}
_NO_EFFECT = (
    "mkdir", "makedirs", "remove", "unlink", "rmdir", "removedirs", "rename", "renames", "replace", "link", "symlink",
    "truncate", "chmod", "utime",
)  # fmt: skip


class Unrepeatable(BaseException):
    """A statement tried what must not happen a second time. Not an Exception, so that `except Exception` lets it by."""


class OutOfTime(BaseException):
    pass


class _Guard:
    """While `active`: no effects. Python's audit hooks stay for good, so it is switched, not removed."""

    def __init__(self) -> None:
        self.active = False
        self._scratch = False
        self._patched: list[tuple[Any, str, Any]] = []
        self._handles: list[tuple[int, int]] = []  # of scratch files, with their inodes
        self._files: list[Any] = []  # weak references to the file objects on them
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active or (reason := _REFUSED.get(event)) is None:
            return
        if event == "open" and (self._scratch or isinstance(arguments[0], int) or not arguments[2] & _WRITING):
            return
        if event == "sqlite3.connect" and arguments[0] == ":memory:":
            return
        raise Unrepeatable(reason)

    def __enter__(self) -> None:
        import builtins
        import io
        import shutil
        import time

        for name in _NO_EFFECT:
            self._patch(os, name, lambda *_, **__: None)
        for name in ("copy", "copy2", "copyfile", "copytree", "move"):
            self._patch(shutil, name, lambda _, target, *__, **___: target)
        self._patch(shutil, "rmtree", lambda *_, **__: None)
        self._patch(time, "sleep", lambda _: None)
        opened = self._opener(io.open)
        for module in (builtins, io):
            self._patch(module, "open", opened)
        self._patch(os, "open", self._low_opener(os.open))
        self.active = True

    def __exit__(self, *_: object) -> None:
        import signal

        signal.setitimer(signal.ITIMER_REAL, 0)  # else what follows might be left half done
        self.active = False
        for module, name, real in self._patched:
            setattr(module, name, real)
        self._patched.clear()

    def close_scratch(self) -> int:
        """Close what is still open of the scratch files, because what is written there is lost; how many that were."""
        open_files = [file for made in self._files if (file := made()) is not None and not file.closed]
        for file in open_files:
            with suppress(OSError):
                file.close()
        closed = len(open_files)
        for handle, inode in self._handles:
            with suppress(OSError):
                about = os.fstat(handle)
                if about.st_nlink == 0 and about.st_ino == inode:
                    os.close(handle)
                    closed += 1
        self._files.clear()
        self._handles.clear()
        return closed

    def _patch(self, module: Any, name: str, instead: Callable[..., Any]) -> None:
        """Put `instead` in its place. What the code imports by name meanwhile keeps working like the real one later."""
        real = getattr(module, name)

        def function(*args: Any, **named: Any) -> Any:
            return (instead if self.active else real)(*args, **named)

        self._patched.append((module, name, real))
        setattr(module, name, function)

    def _opener(self, real: Callable[..., Any]) -> Callable[..., Any]:
        import weakref

        def opened(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
            if isinstance(file, int) or file == os.devnull or not set(mode) & set("wax+"):
                return real(file, mode, *args, **named)
            handle = os.open(file, os.O_RDWR | os.O_CREAT)
            if "+" in mode and "w" not in mode and os.path.exists(file):  # noqa: PTH110
                with real(file, "rb") as source:
                    while data := source.read(1 << 20):
                        os.write(handle, data)
                os.lseek(handle, 0, os.SEEK_SET)
            made = real(handle, mode.replace("x", "w"), *args, **named)
            self._files.append(weakref.ref(made))
            return made

        return opened

    def _low_opener(self, real: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *args: Any, **named: Any) -> int:
            if path == os.devnull or not flags & _WRITING:
                return real(path, flags, *args, **named)
            self._scratch = True
            try:
                handle = real(".", os.O_TMPFILE | os.O_RDWR)
                self._handles.append((handle, os.fstat(handle).st_ino))
                return handle
            except OSError as error:  # the file system has no nameless files
                raise Unrepeatable(_REFUSED["open"]) from error
            finally:
                self._scratch = False

        return opened


_guards: list[_Guard] = []  # at most one: audit hooks cannot be taken away


def replay(request: str, namespace: dict[str, Any], after_call: Callable[[], None]) -> str:
    """Run the calls in `request` again and say in a sentence what is there.

    `request`: JSON with `calls`, each a pair of the code and the number of its statements to repeat (null: all of
    them), and `seconds`, the time for it.
    """
    import json
    import signal

    asked = json.loads(request)
    calls: list[tuple[str, int | None]] = asked["calls"]
    namespace.setdefault("__name__", "__main__")
    if not _guards:
        _guards.append(_Guard())

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    outputs, null = [(number, os.dup(number)) for number in (1, 2)], os.open(os.devnull, os.O_WRONLY)
    for number, _ in outputs:
        os.dup2(null, number)
    session = _Session(namespace, _guards[0])
    try:
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"], 0.5)  # again, should the code catch the first
        with _guards[0]:
            for number, (code, done) in enumerate(calls, 1):
                session.repeat(number, code, done)
                with suppress(Unrepeatable, Exception):
                    after_call()
    except OutOfTime:
        session.out_of_time(calls)
    finally:
        signal.signal(signal.SIGALRM, before)
        session.closed(_guards[0].close_scratch())
        with suppress(Exception):  # the code may have closed it
            sys.stdout.flush()
        for number, kept in outputs:
            os.dup2(kept, number)
            os.close(kept)
        os.close(null)
    return session.told(len(calls))


class _Session:
    def __init__(self, namespace: dict[str, Any], guard: _Guard):
        self._namespace, self._guard = namespace, guard
        self._wanted: set[str] = set()  # names that a statement left out would have bound
        self._notes: list[str] = []
        self._at = (0, 0)  # the call and the statement that is running

    def repeat(self, number: int, code: str, done: int | None) -> None:
        import ast

        try:
            body = ast.parse(code).body[:done]
        except (SyntaxError, ValueError):  # such a call did nothing the first time
            return
        flags = _future_flags(body)
        for index, statement in enumerate(body):
            self._at = number, index
            # A library may start processes and write caches when it is imported, and cannot be used half imported.
            self._guard.active = not isinstance(statement, (ast.Import, ast.ImportFrom))
            try:
                program = compile(ast.Module([statement], []), "<python>", "exec", flags, dont_inherit=True)
                exec(program, self._namespace)
            except OutOfTime:
                raise
            except BaseException as error:
                self._wanted |= set(_bound(statement))
                text = str(error) if isinstance(error, Unrepeatable) else f"raises {type(error).__name__}"
                self._notes.append(f"a statement of call {number} ({text})")

    def closed(self, files: int) -> None:
        if files:
            self._notes.append(f"{files} file{'s' * (files != 1)} that stayed open for writing (closed now)")

    def out_of_time(self, calls: list[tuple[str, int | None]]) -> None:
        import ast

        reached, statement = self._at
        for number, (code, done) in enumerate(calls[max(reached, 1) - 1 :], max(reached, 1)):
            try:
                body = ast.parse(code).body[:done]
            except (SyntaxError, ValueError):
                continue
            for left in body[statement if number == reached else 0 :]:
                self._wanted |= set(_bound(left))
        what = f"call {reached}" if reached == len(calls) else f"calls {reached} to {len(calls)}"
        self._notes.append(f"{what} (no time left)")

    def told(self, calls: int) -> str:
        text = f"The Python process was restarted; state rebuilt from {calls} earlier call{'s' * (calls != 1)}."
        if missing := sorted(self._wanted - self._namespace.keys()):
            more = f" and {len(missing) - MOST_NAMES} more" if len(missing) > MOST_NAMES else ""
            text += f" Missing: {', '.join(missing[:MOST_NAMES])}{more}."
        if self._notes:
            more = f"; and {len(self._notes) - MOST_NOTES} more" if len(self._notes) > MOST_NOTES else ""
            text += f" Not repeated: {'; '.join(self._notes[:MOST_NOTES])}{more}."
        return text


def _future_flags(body: list[ast.stmt]) -> int:
    """Compiler flags of the `from __future__` imports of a call: they hold for all of its statements."""
    import __future__

    import ast

    names = [a.name for s in body if isinstance(s, ast.ImportFrom) and s.module == "__future__" for a in s.names]
    return sum({getattr(__future__, name).compiler_flag for name in names})


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The module-level names that a statement binds."""
    import ast

    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, scopes[:3]):
            yield node.name  # type: ignore[attr-defined]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        if not isinstance(node, (*scopes, *comprehensions)):
            todo += ast.iter_child_nodes(node)
