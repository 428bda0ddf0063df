"""A box: one Python process inside the strongest boundary this machine offers, with its state kept between calls.

The tiers, strongest first: bubblewrap (namespaces, seccomp, limits), then Landlock (with seccomp and limits, nothing
installed). Where neither works, `Box.call` raises `NoBoundary`: model code never runs without a boundary.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import stat
import subprocess
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openk2.errors import UserError
from openk2.sandbox import bwrap, landlock, processes, seccomp
from openk2.sandbox.cgroup import Group
from openk2.sandbox.policy import (
    DEVICES,
    Policy,
    environment,
    interpreter,
    reachable_by_others,
    readable_paths,
    site_packages,
    spare_user,
)
from openk2.sandbox.worker import LAUNCH, NO_OUTPUT, Frames, encode, finished

Tier = Literal["bubblewrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bubblewrap", "landlock")
RESTARTED = "The Python process was restarted; earlier variables are gone."
START_SECONDS = 20.0
GRACE_SECONDS = 2.0  # after a call's own timeout, before the host stops waiting for the supervisor
WATCH_SECONDS = 0.25


class NoBoundary(UserError):
    """No tier works here; the message says why for each."""


class _Refused(Exception):
    """A tier could not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class TierReport:
    tier: Tier
    works: bool
    detail: str  # why not, or how long a start took


class Box:
    """Starts on the first call. One call runs at a time; `kill` may come from another thread. Use as a context manager,
    or let it go out of scope: the processes end with it."""

    def __init__(
        self, workspace: Path, policy: Policy | None = None, tier: Tier | None = None, *, resumed: bool = False
    ):
        """`workspace`: the one folder that code may write to. `tier`: only this one; by default the strongest.
        `resumed`: an earlier box had state that is gone, so the first call says that."""
        self.workspace = workspace
        self.policy = policy or Policy()
        self.tier: Tier | None = None  # the tier in use, once started
        self._wanted: tuple[Tier, ...] = (tier,) if tier else TIERS
        self._running: _Running | None = None
        self._lost = resumed  # a process with state was ended, and no call has said so yet
        self._kill_asked = False
        self._lock = threading.Lock()

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, code: str, timeout: float | None = None) -> Outcome:
        """Run `code` and return its text. Raises NoBoundary where no tier works; never for anything the code does."""
        with self._lock:
            self._kill_asked = False
            if self._running is None or not self._running.alive():
                self._lost = self._lost or self._running is not None
                self._end()
                self._running = self._start()
            if self._kill_asked:  # while it started
                self._running.stop()
            outcome, ended = self._running.call(code, timeout or self.policy.timeout)
            if self._lost:
                text = RESTARTED if outcome.text == NO_OUTPUT else f"{RESTARTED}\n{outcome.text}"
                outcome = Outcome(text, outcome.is_error)
            self._lost = ended
            if ended:
                self._end()
            return outcome

    def start(self) -> None:
        """Start now, so that the first call does not have to. Raises NoBoundary."""
        with self._lock:
            if self._running is None:
                self._running = self._start()

    def kill(self) -> None:
        """End a call in flight from another thread, with everything it started."""
        self._kill_asked = True
        if (running := self._running) is not None:
            running.stop()

    def close(self) -> None:
        """End the process and all it started. A later call starts anew."""
        self.kill()
        with self._lock:
            self._end()
            self._lost = False

    def _end(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _start(self) -> _Running:
        reasons = []
        for tier in self._wanted:
            try:
                running = _Running(self.workspace, self.policy, tier)
            except _Refused as refused:
                reasons.append(f"{tier}: {refused}")
                continue
            self.tier = tier
            return running
        raise NoBoundary(
            "Python code cannot run here, because no sandbox works on this machine "
            f"({'; '.join(reasons)}). Install bubblewrap, or use a Linux kernel from 5.13 on."
        )


def probe(tier: Tier) -> TierReport:
    """Try a tier by starting a box in it."""
    with tempfile.TemporaryDirectory(prefix="openk2-probe-") as folder, Box(Path(folder), tier=tier) as box:
        before = time.monotonic()
        try:
            outcome = box.call("6 * 7", 10.0)
        except NoBoundary as error:
            return TierReport(tier, False, str(error))
        spent = f"{(time.monotonic() - before) * 1000:.0f} ms"
        return TierReport(tier, outcome.text == "42", f"starts and answers in {spent}")


class _Running:
    """The processes of one box, from start to end. Raises _Refused where the tier does not work."""

    def __init__(self, workspace: Path, policy: Policy, tier: Tier):
        self._policy, self._workspace, self._tier = policy, workspace.resolve(), tier
        self._user = spare_user()
        if not seccomp.supported():
            raise _Refused(f"the system-call filter does not know {os.uname().machine}")
        if tier == "landlock" and not landlock.version():
            raise _Refused("the kernel has no Landlock, or it is switched off")
        if tier == "landlock" and os.geteuid() == 0 and self._user is None:
            raise _Refused("we are root, and this container has no other user id to run the code as")
        if tier == "bubblewrap" and bwrap.binary() is None:
            raise _Refused("bwrap is not installed")
        try:
            self._workspace.mkdir(parents=True, exist_ok=True)
            if self._user is not None:
                _own(self._workspace, self._user)
        except OSError as error:
            raise UserError(f"The workspace {workspace} cannot be used: {error.strerror}.") from error
        self._stopping = threading.Lock()
        self._host, box_end = socket.socketpair()
        self._frames = Frames(8 * policy.output + (1 << 16))
        self._group = Group.create(policy.memory + (64 << 20), policy.processes + 8)
        with box_end:
            self._popen = self._spawn(box_end)
        self._finalizer = weakref.finalize(self, _end_all, self._popen, self._host, self._group, self._user)
        try:
            if self._group is not None:
                self._group.add(self._popen.pid)
            self._host.sendall(encode(self._settings()))
            reply = self._receive(time.monotonic() + START_SECONDS)
        except (OSError, ValueError, EOFError) as error:
            self.stop()
            raise _Refused(self._said() or str(error) or "it ended at once") from error
        if reply is None or reply.get("ready") is not True:
            self.stop()
            raise _Refused((reply or {}).get("error") or self._said() or "it did not answer")
        self._core = set(self._members())

    def _spawn(self, box_end: socket.socket) -> subprocess.Popen[bytes]:
        # -s -S -P: no packages of a user, no site module, nothing imported from the workspace at start.
        flags = [interpreter(), "-s", "-S", "-P", "-B"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  what bwrap says when it refuses
        if self._tier == "landlock":
            command = [*flags, "-c", LAUNCH, str(Path(__file__).parent), str(box_end.fileno())]
            return self._popen_alone(command, environment(str(self._workspace)), box_end.fileno())
        command = [*flags, "-c", LAUNCH, bwrap.PACKAGE, str(box_end.fileno())]
        options = bwrap.arguments(
            readable_paths(), self._workspace, environment(bwrap.WORKSPACE), command, drop_root=self._user is not None
        )
        packed, tail = bwrap.packed(options)
        with tempfile.TemporaryFile() as file:
            file.write(packed)
            file.seek(0)
            command = [bwrap.binary() or "bwrap", "--args", str(file.fileno()), *tail]
            # An empty environment for bwrap itself too: it would be readable in a /proc of the box.
            return self._popen_alone(command, {}, box_end.fileno(), file.fileno())

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

    def _settings(self) -> dict[str, Any]:
        """What the supervisor is told first; see `worker.confine`."""
        policy, in_namespace = self._policy, self._tier == "bubblewrap"
        scoped = in_namespace or self._user is not None or landlock.version() >= landlock.SIGNALS_SCOPED
        supervisor = bwrap.SUPERVISOR_PID if in_namespace else self._popen.pid
        confined = None
        if not in_namespace:
            readable = [*readable_paths(), str(Path(__file__).parent)]
            confined = {
                "read": readable,
                "write": [str(self._workspace)],
                "devices": [d for d in DEVICES if Path(d).exists()],
            }
        closed = [p for p in (interpreter(), str(self._workspace), __file__) if not reachable_by_others(p)]
        return {
            "user": self._user,
            "workspace": bwrap.WORKSPACE if in_namespace else str(self._workspace),
            "keep_reading": bool(closed) and not in_namespace,
            "landlock": confined,
            "filter": seccomp.box_filter().hex(),
            "signal_filter": seccomp.signal_filter(supervisor, scoped).hex(),
            "kill_all": scoped,
            "limits": {
                "RLIMIT_NPROC": policy.processes + self._already_running(),
                "RLIMIT_NOFILE": policy.open_files,
                "RLIMIT_FSIZE": policy.file_size,
                "RLIMIT_CORE": 0,
            },
            "memory": policy.memory,
            "packages": site_packages(),
            "output": policy.output,
            "output_stop": policy.output_stop,
        }

    def _already_running(self) -> int:
        """The kernel counts all processes of a user: what ours already runs must not count against the box."""
        if self._user is not None or self._tier == "bubblewrap":
            return 0
        count, own = 0, os.geteuid()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if entry.stat().st_uid == own:
                        count += len(list((entry / "task").iterdir()))
        return count

    def alive(self) -> bool:
        return self._popen.poll() is None

    def call(self, code: str, timeout: float) -> tuple[Outcome, bool]:
        """One call; also whether the process, and with it the state, is gone."""
        nonce = secrets.token_hex(16)
        deadline = time.monotonic() + timeout + GRACE_SECONDS
        try:
            self._host.sendall(encode({"nonce": nonce, "code": code, "timeout": timeout}))
            reply = self._receive(deadline, watch=True)
        except _Exceeded as exceeded:
            return Outcome(str(exceeded), True), True
        except (OSError, ValueError, EOFError):
            return Outcome("The Python process was ended.", True), True
        if reply is None:
            return Outcome(f"TimeoutError: the code ran for {timeout:g} seconds and was stopped.", True), True
        text, is_error, ended = reply.get("text"), reply.get("is_error"), reply.get("ended")
        if reply.get("nonce") != nonce or not isinstance(text, str):
            return Outcome("The Python process answered what was not asked and was ended.", True), True
        if ended:
            return Outcome(f"{text.rstrip()}\n{ended}".lstrip(), True), True
        self._end_strays()
        return Outcome(finished(text), is_error is not False), False

    def _receive(self, deadline: float, *, watch: bool = False) -> dict[str, Any] | None:
        """The next frame, or None after the deadline. Raises EOFError when the box hung up."""
        baseline = _folder_size(self._workspace) if watch else 0
        next_watch = time.monotonic() + WATCH_SECONDS
        poll = select.poll()  # not select.select: a server may have more than 1024 files open
        poll.register(self._host, select.POLLIN)
        while (remaining := deadline - time.monotonic()) > 0:
            ready = poll.poll(min(remaining, WATCH_SECONDS) * 1000)
            if watch and time.monotonic() >= next_watch:
                self._check_use(baseline)
                next_watch = time.monotonic() + WATCH_SECONDS
            if ready:
                data = self._host.recv(1 << 16)
                if not data:
                    raise EOFError
                if frames := self._frames.feed(data):
                    return frames[0]
        return None

    def _check_use(self, baseline: int) -> None:
        """Limits that no rlimit holds: memory and processes of all together, disk."""
        policy, found = self._policy, self._members()
        if sum(process.resident for process in found.values()) > policy.memory + (64 << 20):
            raise _Exceeded(f"MemoryError: the code used over {policy.memory >> 20} MB and was stopped.")
        if len(found) > 2 * policy.processes:
            raise _Exceeded(f"ProcessError: the code started over {policy.processes} processes and was stopped.")
        if _folder_size(self._workspace) - baseline > policy.disk:
            raise _Exceeded(f"DiskError: the code wrote over {policy.disk >> 20} MB and was stopped.")

    def _members(self) -> dict[int, processes.Process]:
        also = self._group.processes() if self._group else set()
        return processes.members(self._popen.pid, self._user, also)

    def _end_strays(self) -> None:
        """What a call left running in the background ends with the call."""
        for _ in range(50):
            strays = set(self._members()) - self._core
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


def _own(workspace: Path, user: int) -> None:
    """Give the workspace to the box's user. Never through a link, and never a file that has a second name elsewhere."""
    os.chown(workspace, user, user)
    for _, folders, files, handle in os.fwalk(workspace):
        for name in (*folders, *files):
            about = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode) or about.st_nlink == 1:
                os.chown(name, user, user, dir_fd=handle, follow_symlinks=False)


def _folder_size(folder: Path, most: int = 20_000) -> int:
    """Bytes on disk below `folder`; of a folder with very many files, of the first `most`."""
    total, todo = 0, [str(folder)]
    while todo and most > 0:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    most -= 1
                    about = entry.stat(follow_symlinks=False)
                    total += about.st_blocks * 512
                    if stat.S_ISDIR(about.st_mode):
                        todo.append(entry.path)
        except OSError:
            continue  # it was deleted meanwhile
    return total
