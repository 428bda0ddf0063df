"""Where attempts to get out of the box are made: one tier, or none for the control, with the same things to reach.

Only the standard library and `openk2.sandbox`, because it also runs as an ordinary user with the system's Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openk2.sandbox import processes
from openk2.sandbox.box import Box, Outcome, Tier
from openk2.sandbox.policy import Policy

MiB = 1 << 20
SECRET = "canary-5f0c2b9e"
LIMITS = Policy(
    timeout=10.0, memory=128 * MiB, processes=24, file_size=8 * MiB, disk=32 * MiB, files=1000, output=10_000,
    output_stop=4 * MiB, rebuild=1.0,
)  # fmt: skip

# What the code of every attempt begins with: a line that starts with GOT is a success.
HEADER = """
import ctypes, os, signal, socket, stat, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try:
        value = act()
    except (OSError, ValueError, MemoryError, OverflowError, AttributeError, EOFError, RuntimeError) as error:
        return
    if value:
        print("GOT", name, repr(value)[:100], flush=True)
def called(result):
    return result != -1
"""


@dataclass(frozen=True)
class Attempt:
    number: int
    part: str
    title: str
    run: Callable[[Arena], str]


ATTEMPTS: dict[int, Attempt] = {}


def attempt(number: int, part: str, title: str) -> Callable[[Callable[[Arena], str]], Callable[[Arena], str]]:
    """Enter an attempt in the table. It returns what got through, '' if it was held."""

    def enter(function: Callable[[Arena], str]) -> Callable[[Arena], str]:
        ATTEMPTS[number] = Attempt(number, part, title, function)
        return function

    return enter


class Listener:
    """Sockets of the host that remember what reached them."""

    def __init__(self, folder: Path):
        self.heard: list[bytes] = []
        tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        self.tcp, self.udp = tcp.getsockname(), udp.getsockname()
        self.path, self.datagrams = str(folder / "host.sock"), str(folder / "host.dgram")
        self.abstract = f"\0openk2-test-{folder}"
        stream, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for unix, where in ((stream, self.path), (abstract, self.abstract), (datagram, self.datagrams)):
            unix.bind(where)
        for path in (self.path, self.datagrams):
            Path(path).chmod(0o777)
        for listening in (tcp, stream, abstract):
            listening.listen()
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        for receiving in (udp, datagram):
            threading.Thread(target=self._receive, args=(receiving,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            connection.settimeout(2)
            with connection, contextlib.suppress(OSError):
                self.heard.append(b"connected " + connection.recv(200))

    def _receive(self, receiving: socket.socket) -> None:
        while True:
            self.heard.append(receiving.recv(200))

    def since(self, number: int, seconds: float = 0.3) -> str:
        """What reached us after the first `number`, after a moment for what is on its way."""
        deadline = time.monotonic() + seconds
        while len(self.heard) == number and time.monotonic() < deadline:
            time.sleep(0.02)
        return repr(self.heard[number:]) if len(self.heard) > number else ""


class Arena:
    """`tier` None: the control, the same code as a plain process of the same user."""

    def __init__(self, tier: Tier | None):
        self.tier: Tier | None = tier
        self.boxed, self.root = tier is not None, os.geteuid() == 0
        self.landlock = bool(tier) and str(tier).startswith("landlock")
        self._stack = contextlib.ExitStack()
        self.base = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="openk2-arena-")))
        self.base.chmod(0o755)
        self.outside = self.base / "outside"
        self.workspace = self.base / "run" / "workspace"
        for folder in (self.outside, self.workspace):
            folder.mkdir(parents=True)
        self.secret = self.outside / "secret.txt"
        self.secret.write_text(SECRET)
        self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=".openk2-", dir=Path.home())))
        (self.home / "id_ed25519").write_text(SECRET)
        self.listener = Listener(self.outside)
        self._sleepers: list[subprocess.Popen[bytes]] = []
        self.sentinel = self.sleeper("sentinel")
        os.environ["OPENK2_SECRET"] = SECRET
        self._handle = os.open(self.secret, os.O_RDONLY)
        os.set_inheritable(self._handle, True)
        self.box = Box(self.workspace, LIMITS, tier)

    def close(self) -> None:
        self.box.close()
        for sleeper in self._sleepers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(sleeper.pid, signal.SIGKILL)
            sleeper.wait()
        self._sleepers.clear()
        os.close(self._handle)
        self._stack.close()

    def sleeper(self, *words: str) -> subprocess.Popen[bytes]:
        """A process of the host with `words` on its command line."""
        command = ["sh", "-c", "sleep 300 & wait", *words]
        self._sleepers.append(subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL))
        return self._sleepers[-1]

    def run(self, code: str, timeout: float = 8.0, wrapper: tuple[str, ...] = (), **values: object) -> str:
        """What `code` printed. `values` are its variables. `wrapper`: a command before it, for the control only."""
        return self.outcome(code, timeout, wrapper, **values).text

    def outcome(self, code: str, timeout: float = 8.0, wrapper: tuple[str, ...] = (), **values: object) -> Outcome:
        values = {"BOXED": self.boxed, "SECRET": SECRET, "PATH": str(self.secret), **values}
        code = HEADER + "".join(f"{name} = {value!r}\n" for name, value in values.items()) + code
        if self.boxed:
            return self.box.call(code, timeout)
        command = [*wrapper, sys.executable, "-c", code]
        with subprocess.Popen(
            command, cwd=self.workspace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=False,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                printed, _ = process.communicate()
            return Outcome(printed.decode("utf-8", "replace"), process.returncode != 0)

    def got(self, code: str, timeout: float = 8.0, wrapper: tuple[str, ...] = (), **values: object) -> str:
        """The successes that `code` reports."""
        lines = self.run(code, timeout, wrapper, **values).splitlines()
        return "; ".join(line for line in lines if line.startswith("GOT"))

    def alive(self, process: subprocess.Popen[bytes]) -> bool:
        found = processes.table().get(process.pid)
        return process.poll() is None and found is not None and not found.dead

    @contextlib.contextmanager
    def second_box(self) -> Iterator[Box]:
        """Another box, of another run."""
        with Box(self.base / "other" / "workspace", LIMITS, self.tier) as box:
            yield box
