"""The processes of one box, from start to end."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openk2.errors import UserError
from openk2.sandbox import bwrap, landlock, processes, seatbelt, seccomp
from openk2.sandbox.cgroup import Group
from openk2.sandbox.confine import LAUNCH, LINUX
from openk2.sandbox.frames import Frames, encode
from openk2.sandbox.policy import (
    DEVICES,
    PROXY_PORT,
    Policy,
    environment,
    interpreter,
    reachable_by_others,
    readable_paths,
    site_packages,
    spare_user,
)
from openk2.sandbox.worker import finished
from openk2.sandbox.workspace import changed, look, own

# The boundary, what filters system calls, and what holds the limits; strongest first.
Tier = Literal[
    "bubblewrap+seccomp+cgroup",
    "bubblewrap+seccomp+rlimits",
    "landlock+seccomp+cgroup",
    "landlock+seccomp+rlimits",
    "seatbelt+rlimits",
]
TIERS: tuple[Tier, ...] = (
    "bubblewrap+seccomp+cgroup",
    "bubblewrap+seccomp+rlimits",
    "landlock+seccomp+cgroup",
    "landlock+seccomp+rlimits",
    "seatbelt+rlimits",
)
PACKAGE = str(Path(__file__).parents[2])  # what holds `openk2/sandbox`
START_SECONDS = 20.0
GRACE_SECONDS = 2.0  # after a call's own timeout, before the host stops waiting for the supervisor
WATCH_SECONDS = 0.25
SLACK = 64 << 20  # bytes of memory for the supervisor and for shared pages that are counted twice


class Refused(Exception):
    """A tier could not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call printed. `files`: what it made or wrote in the workspace, by name."""

    text: str
    is_error: bool
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One frame from the box, judged. `done`: statements before an error. `gone`: the Python state is lost."""

    outcome: Outcome
    gone: bool
    done: int | None = None
    shell: str | None = None  # where a shell command ended, as a script that leads there
    lost: bool = False  # the Python process was gone before, and nothing has run


class Running:
    """Raises Refused where the tier does not work, UserError where the workspace or the policy does not."""

    def __init__(self, workspace: Path, policy: Policy, tier: Tier):
        self._policy, self._workspace, self._tier = policy, workspace.resolve(), tier
        self._user = spare_user()
        self._readable = readable_paths(policy)
        self._refuse_what_cannot_work()
        try:
            self._workspace.mkdir(parents=True, exist_ok=True)
            if self._user is not None:
                own(self._workspace, self._user)
        except OSError as error:
            raise UserError(f"The workspace {workspace} cannot be used: {error.strerror}.") from error
        self._stopping = threading.Lock()
        self._group = self._make_group()
        self._host, box_end = socket.socketpair()
        network, box_network = socket.socketpair() if policy.network else (None, None)
        self._frames = Frames(8 * policy.output + (1 << 18))
        handles = [end.fileno() for end in (box_end, box_network) if end is not None]
        with box_end, box_network or contextlib.nullcontext():
            self._popen = self._spawn(*handles)
        if network is not None:
            from openk2.sandbox.proxy import Proxy  # imports an HTTP client: only boxes with a network need it

            Proxy(network, policy.network or ()).start()  # it ends when the box's end of the socket is closed
        self._finalizer = weakref.finalize(self, _end_all, self._popen, self._host, self._group, self._user)
        try:
            if self._group is not None:
                self._group.add(self._popen.pid)
            self._host.sendall(encode(self._settings(*handles[1:])))
            reply = self._receive(time.monotonic() + START_SECONDS)
        except (OSError, ValueError, EOFError) as error:
            self.stop()
            raise Refused(self._said() or str(error) or "it ended at once") from error
        if reply is None or reply.get("ready") is not True:
            self.stop()
            raise Refused((reply or {}).get("error") or self._said() or "it did not answer")
        self._core = set(self.members())

    def _refuse_what_cannot_work(self) -> None:
        boundary = self._tier.partition("+")[0]
        if boundary == "seatbelt":
            if not seatbelt.available():
                raise Refused("sandbox-exec is part of macOS only")
        elif not LINUX:
            raise Refused("it needs Linux")
        elif not seccomp.supported():
            raise Refused(f"the system-call filter does not know {os.uname().machine}")
        if boundary == "bubblewrap" and bwrap.binary() is None:
            raise Refused("bwrap is not installed")
        if boundary == "landlock" and not landlock.version():
            raise Refused("the kernel has no Landlock, or it is switched off")
        if boundary == "landlock" and os.geteuid() == 0 and self._user is None:
            raise Refused("we are root, and this container has no other user id to run the code as")
        if boundary != "bubblewrap" and self._policy.network:
            raise Refused("it cannot open the network to some hosts only; bubblewrap can")

    def _make_group(self) -> Group | None:
        if not self._tier.endswith("cgroup"):
            return None
        group = Group.create(self._policy.memory + SLACK, self._policy.processes + 8)
        if group is None:
            raise Refused("no control group with limits of memory and processes can be made here")
        return group

    def _spawn(self, control: int, *network: int) -> subprocess.Popen[bytes]:
        # -s -S -P: no packages of a user, no site module, nothing imported from the workspace at start.
        python = [interpreter(), "-s", "-S", "-P", "-B", "-c", LAUNCH]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  what bwrap says when it refuses
        if not self._tier.startswith("bubblewrap"):
            command = [*python, PACKAGE, str(control)]
            if self._tier.startswith("seatbelt"):
                command = seatbelt.arguments([*self._readable, str(Path(__file__).parent)], self._workspace, command)
            return self._popen_alone(command, environment(str(self._workspace), self._policy), control, *network)
        command = [*python, bwrap.PACKAGE, str(control)]
        variables = environment(bwrap.WORKSPACE, self._policy)
        options = bwrap.arguments(self._readable, self._workspace, variables, command, drop_root=self._user is not None)
        packed, tail = bwrap.packed(options)
        with tempfile.TemporaryFile() as file:
            file.write(packed)
            file.seek(0)
            command = [bwrap.binary() or "bwrap", "--args", str(file.fileno()), *tail]
            # An empty environment for bwrap itself too: it would be readable in a /proc of the box.
            return self._popen_alone(command, {}, control, *network, file.fileno())

    def _popen_alone(self, command: list[str], variables: dict[str, str], *handles: int) -> subprocess.Popen[bytes]:
        """Start with nothing inherited but `handles`, in a session of its own, without a terminal."""
        return subprocess.Popen(
            command,
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=handles,
            start_new_session=True,
        )

    def _settings(self, network: int | None = None) -> dict[str, Any]:
        """What the supervisor is told first; see `confine.confine`."""
        policy, in_namespace = self._policy, self._tier.startswith("bubblewrap")
        confined = None
        if self._tier.startswith("landlock"):
            confined = {
                "read": [*self._readable, str(Path(__file__).parent)],
                "write": [str(self._workspace)],
                "devices": [d for d in DEVICES if Path(d).exists()],
            }
        scoped = LINUX and (in_namespace or self._user is not None or landlock.version() >= landlock.SIGNALS_SCOPED)
        supervisor = bwrap.SUPERVISOR_PID if in_namespace else self._popen.pid
        closed = [p for p in (interpreter(), str(self._workspace), __file__) if not reachable_by_others(p)]
        limits = {
            "RLIMIT_NPROC": policy.processes + self._already_running(),
            "RLIMIT_NOFILE": policy.open_files,
            "RLIMIT_FSIZE": policy.file_size,
            "RLIMIT_CORE": 0,
        }
        return {
            "user": self._user,
            "workspace": bwrap.WORKSPACE if in_namespace else str(self._workspace),
            "keep_reading": bool(closed) and not in_namespace,
            "landlock": confined,
            "filter": seccomp.box_filter(network=network is not None).hex() if LINUX else "",
            "signal_filter": seccomp.signal_filter(supervisor, scoped).hex() if LINUX else "",
            "kill_all": scoped,
            "limits": limits,
            "memory": policy.memory,
            "packages": site_packages(),
            "output": policy.output,
            "output_stop": policy.output_stop,
            "network": network,
            "proxy_port": PROXY_PORT,
        }

    def _already_running(self) -> int:
        """The kernel counts all processes of a user: what ours already runs must not count against the box."""
        if not LINUX or self._user is not None or self._tier.startswith("bubblewrap"):
            return 0
        count, uid = 0, os.geteuid()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if entry.stat().st_uid == uid:
                        count += len(list((entry / "task").iterdir()))
        return count

    def alive(self) -> bool:
        return self._popen.poll() is None

    def python(self, code: str, timeout: float) -> Answer:
        return self._call({"kind": "code", "code": code}, timeout)

    def replay(self, request: str, timeout: float) -> Answer:
        """Run earlier calls again, see `replay.replay`. The text says what is there."""
        return self._call({"kind": "replay", "code": request}, timeout)

    def shell(self, command: str, state: str, timeout: float) -> Answer:
        return self._call({"kind": "shell", "code": command, "state": state}, timeout)

    def _call(self, frame: dict[str, Any], timeout: float) -> Answer:
        nonce = secrets.token_hex(16)
        deadline = time.monotonic() + timeout + GRACE_SECONDS
        before, size = look(self._workspace)
        watched = (size, len(before))

        def broken(text: str) -> Answer:
            return Answer(Outcome(text, True, self._files(before)), gone=True)

        try:
            self._host.sendall(encode({"nonce": nonce, "timeout": timeout, **frame}))
            reply = self._receive(deadline, watched=watched)
        except _Exceeded as exceeded:
            return broken(str(exceeded))
        except (OSError, ValueError, EOFError):
            return broken("The Python process was ended.")
        if reply is None:
            return broken(f"TimeoutError: the code ran for {timeout:g} seconds and was stopped.")
        text, ended, is_error = reply.get("text"), reply.get("ended"), reply.get("is_error") is not False
        if reply.get("nonce") != nonce or not isinstance(text, str):
            return broken("The Python process answered what was not asked and was ended.")
        gone = reply.get("gone") is not False
        if reply.get("lost") is True:
            return Answer(Outcome("", True), gone=True, lost=True)
        if not gone:
            self._end_strays()
        files, shell = self._files(before), reply.get("state")
        if ended:
            return Answer(Outcome(f"{text.rstrip()}\n{ended}".lstrip(), True, files), gone)
        if frame["kind"] == "shell" and reply.get("code"):
            text = f"{text.rstrip()}\n(exit code {reply['code']})".lstrip()
        done = int(reply.get("done") or 0) if is_error else None
        return Answer(Outcome(finished(text), is_error, files), gone, done, shell if isinstance(shell, str) else None)

    def _files(self, before: Any) -> tuple[str, ...]:
        return changed(before, look(self._workspace)[0])

    def _receive(self, deadline: float, *, watched: tuple[int, int] | None = None) -> dict[str, Any] | None:
        """The next frame, or None after the deadline. Raises EOFError when the box hung up.

        `watched`: bytes and files in the workspace before a call that is to be held to its limits.
        """
        next_watch = time.monotonic() + WATCH_SECONDS
        poll = select.poll()  # not select.select: a server may have more than 1024 files open
        poll.register(self._host, select.POLLIN)
        while (remaining := deadline - time.monotonic()) > 0:
            ready = poll.poll(min(remaining, WATCH_SECONDS) * 1000)
            if watched is not None and time.monotonic() >= next_watch:
                self._check_use(*watched)
                next_watch = time.monotonic() + WATCH_SECONDS
            if ready:
                data = self._host.recv(1 << 16)
                if not data:
                    raise EOFError
                if frames := self._frames.feed(data):
                    return frames[0]
        return None

    def _check_use(self, size: int, number: int) -> None:
        """Limits that no rlimit holds: memory and processes of all together, disk."""
        policy, found = self._policy, self.members()
        if sum(process.resident for process in found.values()) > policy.memory + SLACK:
            raise _Exceeded(f"MemoryError: the code used over {policy.memory >> 20} MB and was stopped.")
        if len(found) > 2 * policy.processes:
            raise _Exceeded(f"ProcessError: the code started over {policy.processes} processes and was stopped.")
        files, now = look(self._workspace)
        if now - size + processes.nameless_files(found) > policy.disk:
            raise _Exceeded(f"DiskError: the code wrote over {policy.disk >> 20} MB and was stopped.")
        if len(files) - number > policy.files:
            raise _Exceeded(f"DiskError: the code made over {policy.files} files and was stopped.")

    def members(self) -> dict[int, processes.Process]:
        """The processes of the box now, the supervisor among them."""
        also = self._group.processes() if self._group else set()
        return processes.members(self._popen.pid, self._user, also)

    def _end_strays(self) -> None:
        """What a call left running in the background ends with the call."""
        for _ in range(50):
            strays = set(self.members()) - self._core
            if not strays:
                return
            processes.kill(strays)

    def stop(self) -> None:
        with self._stopping:
            self._finalizer()

    def _said(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read(4096).decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


class _Exceeded(Exception):
    pass


def _end_all(popen: subprocess.Popen[bytes], host: socket.socket, group: Group | None, user: int | None) -> None:
    """End every process of a box. A function of its own, so that it can run when the box is forgotten or we exit."""
    if popen.poll() is None:
        processes.end_all(popen.pid, user, group.processes() if group else set())
    else:  # the supervisor is gone: only a group or a user of its own tells what it left
        processes.kill(set(processes.members(-1, user, group.processes() if group else set())))
    with contextlib.suppress(OSError):
        host.shutdown(socket.SHUT_RDWR)  # wakes a call that waits in another thread
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(5.0)
    if group is not None:
        group.remove()
