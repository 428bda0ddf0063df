"""What runs Python code, and the program that does so inside the box.

`execute` is the whole semantics of the python tool's text: what is printed, the repr of a last expression, the last
line of a traceback. It may be called in-process for code that is trusted.

As a program (`main`, started by `LAUNCH`) it runs in the box on the standard library alone, as two processes. The
supervisor confines itself, never runs model code, and alone holds the socket to the host. Its child, the executor, runs
the code and can reach the supervisor by two pipes only, so nothing it does can forge or garble what the host reads.
"""

from __future__ import annotations

import io
import os
import sys
from _ast import Expr, Expression, PyCF_ONLY_AST  # `ast` itself takes 20 ms to import, a third of a start

TYPE_CHECKING = False  # as in `typing`, which is slow to import and needed by type checkers only
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

_SIGKILL = 9  # `signal` is slow to import too
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
        tree: Any = compile(code, "<python>", "exec", PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        exec(compile(tree, "<python>", "exec", dont_inherit=True), namespace)
        if last is not None:
            value = eval(compile(Expression(last.value), "<python>", "eval", dont_inherit=True), namespace)
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


# ---------------------------------------------------------------------------------------------------- frames


def encode(frame: dict[str, Any]) -> bytes:
    """A frame on the wire: four bytes of length, then JSON."""
    import json

    data = json.dumps(frame).encode()
    return len(data).to_bytes(4, "big") + data


class Frames:
    """Cuts a byte stream back into frames. Raises ValueError for a frame longer than `limit` or not a JSON object."""

    def __init__(self, limit: int):
        self._limit = limit
        self._data = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        import json

        self._data += data
        frames = []
        while len(self._data) >= 4:
            size = int.from_bytes(self._data[:4], "big")
            if size > self._limit:
                raise ValueError(f"a frame of {size} bytes")
            if len(self._data) < 4 + size:
                break
            frame = json.loads(self._data[4 : 4 + size])
            if not isinstance(frame, dict):
                raise ValueError("a frame that is not an object")
            frames.append(frame)
            del self._data[: 4 + size]
        return frames


class Capped:
    """Keeps the beginning and the end of a byte stream of any length, and counts the rest."""

    def __init__(self, limit: int):
        self._head_size, self._tail_size = limit * 2 // 3, limit - limit * 2 // 3
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_size - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 4 * self._tail_size + (1 << 16):
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_size)]

    def text(self) -> str:
        self._trim()
        left_out = self.total - len(self._head) - len(self._tail)
        middle = f"\n… ({left_out} bytes left out) …\n" if left_out else ""
        if not middle:
            return (self._head + self._tail).decode("utf-8", "replace")
        return self._head.decode("utf-8", "replace") + middle + self._tail.decode("utf-8", "replace")


# ---------------------------------------------------------------------------------------------------- the executor


def executor(code_pipe: int, status_pipe: int, memory: int, packages: list[str]) -> None:
    """Run each piece of code that comes in, for ever. What it prints goes to file descriptor 1."""
    import resource
    import types

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main  # so that pickle and dataclasses find what the code defines
    sys.path += [*packages, ""]  # the workspace last: a file json.py there must not break the standard library
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
        token, code, received = received[4:20], received[20 : 4 + size], received[4 + size :]
        is_error = True
        try:
            is_error = run(code.decode("utf-8", "surrogatepass"), main.__dict__, out)
        except KeyboardInterrupt:
            out.write("KeyboardInterrupt\n")
        if getpid() != own:  # the code forked and its child came back here
            give_up(0)
        try:
            out.flush()
        except (OSError, ValueError):  # the code closed it
            out = _printer()
        sys.stdout = sys.stderr = out
        write(status_pipe, token + (b"1" if is_error else b"0"))


def _printer() -> TextIO:
    """Standard output, a line at a time, so that it stays in order with what a subprocess prints."""
    return io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True)


# ---------------------------------------------------------------------------------------------------- the supervisor


class Supervisor:
    """Passes code to the executor and its output back to the host, and holds the call to its limits."""

    def __init__(self, control: int, settings: dict[str, Any], install: Callable[[bytes], None]):
        self._control = control
        self._output, self._output_stop = settings["output"], settings["output_stop"]
        self._to_executor: int
        self._status: int
        self._printed: int
        self._ended: int | None = None  # the executor's wait status
        self._pid = self._start(settings, install)

    def _start(self, settings: dict[str, Any], install: Callable[[bytes], None]) -> int:
        code_out, self._to_executor = os.pipe()
        self._status, status_in = os.pipe()
        self._printed, printed_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                _die_with_parent()
                os.dup2(printed_in, 1)
                os.dup2(printed_in, 2)
                low, high = sorted((code_out, status_in))
                for first, end in ((3, low), (low + 1, high), (high + 1, 1 << 16)):
                    os.closerange(first, end)
                install(bytes.fromhex(settings["signal_filter"]))
                executor(code_out, status_in, settings["memory"], settings["packages"])
            finally:
                os._exit(1)
        for handle in (code_out, status_in, printed_in):
            os.close(handle)
        for handle in (self._to_executor, self._status, self._printed):
            os.set_blocking(handle, False)
        return pid

    def serve(self) -> None:
        """Answer calls until the host hangs up. It does so too after the executor's end, when it has ended the rest:
        as long as we live, all of the box descends from us."""
        import select

        frames = Frames(1 << 30)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._printed, select.POLLIN)
        while True:
            for handle, _ in poll.poll():
                if handle == self._printed:  # a thread that printed between two calls: nobody asked for it
                    if not _read(self._printed):
                        return
                    continue
                data = os.read(self._control, 1 << 16)
                if not data:
                    return
                for frame in frames.feed(data):
                    reply = self._call(frame)
                    self._reap()
                    _write(self._control, encode(reply))
                    if reply["ended"]:
                        while os.read(self._control, 1 << 16):
                            continue
                        return

    def _call(self, frame: dict[str, Any]) -> dict[str, Any]:
        """One call. `ended` says why the executor is gone, or is empty."""
        import select
        import time

        token, status = os.urandom(16), b""
        body = token + frame["code"].encode("utf-8", "surrogatepass")
        todo = memoryview(len(body).to_bytes(4, "big") + body)
        capped = Capped(self._output)
        deadline = time.monotonic() + frame["timeout"]
        poll = select.poll()
        for handle in (self._status, self._printed, self._control):
            poll.register(handle, select.POLLIN)
        poll.register(self._to_executor, select.POLLOUT)

        def reply(is_error: bool, ended: str = "") -> dict[str, Any]:
            return {"nonce": frame["nonce"], "text": capped.text(), "is_error": is_error, "ended": ended}

        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._kill()
                return reply(True, f"TimeoutError: the code ran for {frame['timeout']:g} seconds and was stopped.")
            self._reap()
            if self._ended is not None:  # not the end of the pipe: a child of the code may hold that open
                self._drain(capped)
                return reply(True, self._ending())
            for handle, events in poll.poll(min(remaining, 0.1) * 1000):
                if handle == self._to_executor:
                    try:
                        todo = todo[os.write(handle, todo[: 1 << 16]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        todo = todo[:0]
                    if not todo:
                        poll.unregister(handle)
                elif handle == self._printed:
                    data = _read(handle)
                    capped.feed(data)
                    if not data:
                        poll.unregister(handle)
                    elif capped.total > self._output_stop:
                        self._kill()
                        return reply(True, f"OutputError: the code printed over {self._output_stop >> 20} MB.")
                elif handle == self._control and events & (select.POLLHUP | select.POLLERR):
                    raise EOFError
                elif handle == self._status:
                    data = _read(handle)
                    if not data:
                        self._drain(capped)
                        return reply(True, self._ending())
                    status += data  # only the token ends the call: whatever else the code may write there
                    _, found, flag = status.rpartition(token)
                    if found and flag:
                        self._drain(capped)
                        return reply(flag[:1] != b"0")
                    status = status[-len(token) :]

    def _drain(self, capped: Capped) -> None:
        """Read what was printed before the call ended, and no more: a thread may go on printing."""
        import array
        import fcntl
        import termios

        waiting = array.array("i", [0])
        fcntl.ioctl(self._printed, termios.FIONREAD, waiting)
        left = waiting[0]
        while left > 0 and (data := _read(self._printed, left)):
            capped.feed(data)
            left -= len(data)

    def _kill(self) -> None:
        os.kill(self._pid, _SIGKILL)

    def _reap(self) -> None:
        """Orphans of the code come to us; their remains count as processes until somebody asks for them."""
        while self._ended is None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid == self._pid:
                self._ended = status

    def _ending(self) -> str:
        import signal

        if self._ended is None:
            _, self._ended = os.waitpid(self._pid, 0)
        status = self._ended
        if os.WIFSIGNALED(status):
            return f"The Python process was killed by {signal.Signals(os.WTERMSIG(status)).name}."
        return f"The Python process ended with exit code {os.WEXITSTATUS(status)}."


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _read(handle: int, size: int = 1 << 16) -> bytes:
    try:
        return os.read(handle, min(size, 1 << 16))
    except BlockingIOError:
        return b""


# ---------------------------------------------------------------------------------------------------- confinement

_SET_PARENT_DEATH_SIGNAL, _SET_KEEP_CAPABILITIES, _SET_CHILD_SUBREAPER = 1, 8, 36  # linux/prctl.h


def confine(settings: dict[str, Any], restrict: Callable[..., int], install: Callable[[bytes], None]) -> None:
    """Give up everything, in the order that still allows the next step. Raises OSError: then nothing may run."""
    import ctypes
    import resource

    for name, value in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.umask(0o022)
    user = settings["user"]
    if user is not None and os.getuid() == 0:
        _become(user, settings["keep_reading"])
    os.chdir(settings["workspace"])
    os.environ["PWD"] = settings["workspace"]
    if settings["landlock"] is not None:
        restrict(**settings["landlock"])
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    install(bytes.fromhex(settings["filter"]))


def _become(user: int, keep_reading: bool) -> None:
    """Drop root for `user`. `keep_reading`: walk through folders closed to others (Landlock still says which)."""
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    dac_read_search, version_3 = 2, 0x20080522
    if keep_reading:
        libc.prctl(_SET_KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if keep_reading:
        mask = 1 << dac_read_search
        header, data = struct.pack("=Ii", version_3, 0), struct.pack("=6I", mask, mask, 0, 0, 0, 0)
        if libc.capset(header, data) != 0:
            raise OSError(ctypes.get_errno(), "capset was refused")
    if os.getuid() != user or os.geteuid() != user:
        raise OSError("the box could not drop root")


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, _SIGKILL, 0, 0, 0)


# How the host starts `main`: argv is this folder and the number of the control socket. Imported, not run as a script,
# because Python keeps the compiled form of imported files only.
LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); import worker; worker.main()"


def main() -> None:
    import landlock  # pyright: ignore[reportMissingImports]  siblings: the package is not visible in the box
    import seccomp  # pyright: ignore[reportMissingImports]

    del sys.path[0]
    control = int(sys.argv[2])
    frames, first = Frames(1 << 30), []
    while not first:
        data = os.read(control, 1 << 16)
        if not data:
            return
        first = frames.feed(data)
    settings = first[0]
    try:
        children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)  # later /proc is closed to us
    except OSError:  # no /proc in a namespace, where it is not needed
        children = -1
    try:
        confine(settings, landlock.restrict, seccomp.install)
        supervisor = Supervisor(control, settings, seccomp.install)
    except Exception as error:
        _write(control, encode({"ready": False, "error": f"{type(error).__name__}: {error}"}))
        return
    _write(control, encode({"ready": True}))
    try:
        supervisor.serve()
    except Exception as error:  # to the host's record of what the box said
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        end_the_rest(settings["kill_all"], children)
        os._exit(0)


def end_the_rest(kill_all: bool, children: int) -> None:
    """Kill every other process of the box. `kill_all`: they are the only ones that we can signal at all.

    Else `children`, an open /proc/.../children of ours, is read: orphans turn up there, because we adopt them.
    """
    import time

    if kill_all:
        try:
            os.kill(-1, _SIGKILL)
        except ProcessLookupError:
            return  # we are the last
    deadline = time.monotonic() + 5.0
    while children >= 0 and (pids := os.pread(children, 1 << 16, 0).split()) and time.monotonic() < deadline:
        for pid in pids:
            os.kill(int(pid), _SIGKILL)
        os.waitpid(-1, 0)
