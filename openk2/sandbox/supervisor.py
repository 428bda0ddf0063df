"""The supervisor of a box: passes work to the executor or to a shell, holds it to its limits, and answers the host.

It never runs model code, and it alone holds the socket to the host. What the executor writes on its status pipe counts
only after the token of the call, which the supervisor drew and the code does not know.
"""

from __future__ import annotations

import os

from openk2.sandbox.frames import Capped, Frames, encode
from openk2.sandbox.worker import CODE, REPLAY, executor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SIGKILL = 9  # `signal` is slow to import
_SHELL_STATE = 100  # the file descriptor on which a shell says where it ended
_STATE_LIMIT = 64 << 10
# The trap runs however the command ends, but for `exec` and a kill: then the next shell starts where this one did.
_SHELL = r"""trap 'openk2_status=$?; { printf "cd -- %q\n" "$PWD"; export -p; } >&100; exit $openk2_status' EXIT
eval "$1"; openk2_command=$2; set --; eval "$openk2_command"
"""


class _Work:
    """One call in flight: the process that works on it and what it has said so far."""

    def __init__(self, pid: int, printed: int, status: int, timeout: float, output: int, todo: bytes = b""):
        self.pid, self.printed, self.status, self.timeout = pid, printed, status, timeout
        self.todo = memoryview(todo)
        self.capped = Capped(output)
        self.said = b""  # on the status pipe


class Supervisor:
    def __init__(self, control: int, settings: dict[str, Any], install: Callable[[bytes], None]):
        self._control = control
        self._settings = settings
        self._install = install
        self._output, self._output_stop = settings["output"], settings["output_stop"]
        self._ended: dict[int, int] = {}  # process to wait status, of those that we started
        self._to_executor: int
        self._status: int
        self._printed: int
        self._executor = self._start()

    def _start(self) -> int:
        code_out, self._to_executor = os.pipe()
        self._status, status_in = os.pipe()
        self._printed, printed_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._enter(printed_in, {code_out, status_in})
                executor(code_out, status_in, self._settings["memory"], self._settings["packages"])
            finally:
                os._exit(1)
        for handle in (code_out, status_in, printed_in):
            os.close(handle)
        for handle in (self._to_executor, self._status, self._printed):
            os.set_blocking(handle, False)
        return pid

    def _enter(self, printed: int, keep: set[int]) -> None:
        """In a new child: a session of its own, nothing inherited but `keep`, and no signals to us."""
        os.setsid()
        die_with_parent()
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        first = 3
        for handle in sorted(keep):
            os.closerange(first, handle)
            first = handle + 1
        os.closerange(first, 1 << 16)
        if self._settings["signal_filter"]:
            self._install(bytes.fromhex(self._settings["signal_filter"]))

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
                    if not _read(self._printed):  # it ended, or closed its output for good
                        poll.unregister(self._printed)
                        self._end_executor()
                    continue
                data = os.read(self._control, 1 << 16)
                if not data:
                    return
                for frame in frames.feed(data):
                    reply = self._shell(frame) if frame["kind"] == "shell" else self._python(frame)
                    self._reap()
                    reply["gone"] = self._executor in self._ended
                    write(self._control, encode({"nonce": frame["nonce"], **reply}))
                    if reply["gone"]:
                        while os.read(self._control, 1 << 16):
                            continue
                        return

    def _python(self, frame: dict[str, Any]) -> dict[str, Any]:
        self._reap()
        if self._executor in self._ended:  # between two calls: nothing of this one has run
            return {"text": "", "is_error": True, "ended": "", "lost": True}
        token = os.urandom(16)
        kind = REPLAY if frame["kind"] == "replay" else CODE
        body = token + kind + frame["code"].encode("utf-8", "surrogatepass")
        todo = len(body).to_bytes(4, "big") + body
        work = _Work(self._executor, self._printed, self._status, frame["timeout"], self._output, todo)
        ended = self._follow(work, token)
        if ended:
            return {"text": work.capped.text(), "is_error": True, "ended": ended}
        flag, done = work.said[:1], int.from_bytes(work.said[1:5], "big")
        return {"text": work.capped.text(), "is_error": flag != b"0", "ended": "", "done": done}

    def _shell(self, frame: dict[str, Any]) -> dict[str, Any]:
        printed, printed_in = os.pipe()
        status, status_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(status_in, _SHELL_STATE)
                self._enter(printed_in, {_SHELL_STATE})
                os.set_inheritable(_SHELL_STATE, True)
                self._become_shell(frame["state"], frame["code"])
            finally:
                os._exit(127)
        for handle in (printed_in, status_in):
            os.close(handle)
        for handle in (printed, status):
            os.set_blocking(handle, False)
        work = _Work(pid, printed, status, frame["timeout"], self._output)
        ended = self._follow(work, None)
        exit_status = self._ended.pop(pid, 0)
        os.close(printed)
        os.close(status)
        state = "" if ended else work.said[: _STATE_LIMIT + 1].decode("utf-8", "replace")
        code = os.waitstatus_to_exitcode(exit_status)
        return {
            "text": work.capped.text(),
            "is_error": bool(ended) or code != 0,
            "ended": ended,
            "code": code,
            "state": state if len(state) <= _STATE_LIMIT else "",
        }

    def _become_shell(self, state: str, command: str) -> None:
        import resource

        memory = self._settings["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        os.execv("/bin/bash", ["bash", "--noprofile", "--norc", "-c", _SHELL, "bash", state, command])

    def _follow(self, work: _Work, token: bytes | None) -> str:
        """Until the call is over: at its token, or without one at the end of its process. Why it was ended, or ''.

        A shell's process is expected to end: that is no reason. Raises EOFError when the host hung up.
        """
        import select
        import time

        deadline = time.monotonic() + work.timeout
        poll = select.poll()
        for handle in (work.status, work.printed, self._control):
            poll.register(handle, select.POLLIN)
        if work.todo:
            poll.register(self._to_executor, select.POLLOUT)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._kill(work.pid)
                what = "code" if token else "command"
                return f"TimeoutError: the {what} ran for {work.timeout:g} seconds and was stopped."
            self._reap(work)
            if work.pid in self._ended:  # not the end of the pipe: a child of the code may hold that open
                return self._over(work, token)
            for handle, events in poll.poll(min(remaining, 0.1) * 1000):
                if handle == self._to_executor and work.todo:
                    try:
                        work.todo = work.todo[os.write(handle, work.todo[: 1 << 16]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        work.todo = work.todo[:0]
                    if not work.todo:
                        poll.unregister(handle)
                elif handle == work.printed:
                    data = _read(handle)
                    work.capped.feed(data)
                    if not data:
                        poll.unregister(handle)
                    elif work.capped.total > self._output_stop:
                        self._kill(work.pid)
                        what = "code" if token else "command"
                        return f"OutputError: the {what} printed over {self._output_stop >> 20} MB."
                elif handle == self._control and events & (select.POLLHUP | select.POLLERR):
                    raise EOFError
                elif handle == work.status:
                    data = _read(handle)
                    if not data:
                        poll.unregister(handle)
                        if token:
                            self._wait(work.pid)
                            return self._over(work, token)
                        continue
                    work.said += data
                    if token is None:
                        work.said = work.said[: _STATE_LIMIT + 1]
                        continue
                    # Only the token ends the call, whatever else the code may write there.
                    _, found, said = work.said.rpartition(token)
                    if found and len(said) >= 5:
                        work.said = said
                        self._drain(work)
                        return ""
                    if not found:
                        work.said = work.said[-len(token) :]

    def _over(self, work: _Work, token: bytes | None) -> str:
        """The process of the call is gone."""
        self._drain(work)
        if token is not None:
            return self._ending(self._ended[work.pid])
        while (data := _read(work.status)) and len(work.said) <= _STATE_LIMIT:
            work.said += data
        return ""

    def _drain(self, work: _Work) -> None:
        """Read what was printed before the call ended, and no more: a thread may go on printing."""
        import array
        import fcntl
        import termios

        waiting = array.array("i", [0])
        fcntl.ioctl(work.printed, termios.FIONREAD, waiting)
        left = waiting[0]
        while left > 0 and (data := _read(work.printed, left)):
            work.capped.feed(data)
            left -= len(data)

    def _kill(self, pid: int) -> None:
        if pid not in self._ended:
            os.kill(pid, _SIGKILL)

    def _wait(self, pid: int) -> None:
        if pid not in self._ended:
            _, self._ended[pid] = os.waitpid(pid, 0)

    def _end_executor(self) -> None:
        self._kill(self._executor)
        self._wait(self._executor)

    def _reap(self, work: _Work | None = None) -> None:
        """Orphans of the code come to us; their remains count as processes until somebody asks for them."""
        ours = {self._executor, work.pid if work else self._executor}
        while not ours <= self._ended.keys():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in ours:
                self._ended[pid] = status

    @staticmethod
    def _ending(status: int) -> str:
        import signal

        if os.WIFSIGNALED(status):
            return f"The Python process was killed by {signal.Signals(os.WTERMSIG(status)).name}."
        return f"The Python process ended with exit code {os.WEXITSTATUS(status)}."


def write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _read(handle: int, size: int = 1 << 16) -> bytes:
    try:
        return os.read(handle, min(size, 1 << 16))
    except BlockingIOError:
        return b""


def die_with_parent() -> None:
    """Linux only; elsewhere the box's processes are ended by the host alone."""
    if os.uname().sysname == "Linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, _SIGKILL, 0, 0, 0)
