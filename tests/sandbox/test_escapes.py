"""Attempts to get out of the box, on every tier. Each test fails if its attempt succeeds."""

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openk2.sandbox import processes
from openk2.sandbox.box import RESTARTED, Box

SECRET = "canary-5f0c2b9e"

# Tries every way in TRIES and prints what it got; errors are what we hope for.
READ_ALL = """
import os, subprocess, glob
for path in PATHS:
    for read in (
        lambda: open(path, "rb").read()[:2000],
        lambda: os.listdir(path),
        lambda: subprocess.run(["cat", path], capture_output=True).stdout[:2000],
        lambda: open("/proc/self/root" + path, "rb").read()[:2000],
        lambda: open("/proc/1/root" + path, "rb").read()[:2000],
        lambda: (os.symlink(path, f"link{len(os.listdir())}"), open(f"link{len(os.listdir()) - 1}", "rb").read())[1],
        lambda: (os.link(path, f"hard{len(os.listdir())}"), open(f"hard{len(os.listdir()) - 1}", "rb").read())[1],
        lambda: open(os.open(path, os.O_PATH), "rb").read(),
        lambda: os.rename(path, "stolen") or open("stolen", "rb").read(),
    ):
        try:
            print("GOT", path, read())
        except OSError as error:
            print(type(error).__name__)
"""


@pytest.fixture
def home_secret() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".openk2-test-", dir=Path.home()) as folder:
        secret = Path(folder) / "secret.txt"
        secret.write_text(SECRET)
        yield secret


def test_password_file_and_home(box: Box, home_secret: Path, tmp_path: Path):
    outside = tmp_path / "outside.txt"
    outside.write_text(SECRET)
    tmp_path.chmod(0o755)
    paths = [
        "/etc/shadow",
        "/etc/passwd",
        str(home_secret),
        str(Path.home()),
        str(outside),
        "/var/log",
        "/root",
        "/home",
    ]
    text = box.call(READ_ALL.replace("PATHS", repr(paths))).text
    assert "Error" in text, text
    got = [line for line in text.splitlines() if line.startswith("GOT") and not line.endswith((" b''", "None"))]
    # In a namespace the folder above the interpreter exists, with nothing else in it.
    assert SECRET not in text and "root:" not in text, text
    assert not [line for line in got if ".ssh" in line or "secret" in line or ".openk2" in line], text
    assert home_secret.read_text() == SECRET and outside.read_text() == SECRET


def test_writing_anywhere_else(box: Box, tmp_path: Path):
    targets = ["/usr/x", "/etc/x", "/tmp/openk2-x", "/dev/x", "/dev/shm/x", "/x", str(Path.home() / "openk2-x")]
    targets += [str(tmp_path / "x"), str(Path(processes.__file__).parent / "x"), "/openk2/x", "../x"]
    code = f"""
import os
for path in {targets!r}:
    for act in (lambda: open(path, "w").write("x"), lambda: os.mkdir(path), lambda: os.symlink("/", path)):
        try:
            act(); print("WROTE", path)
        except OSError as error:
            print(type(error).__name__)
for act in (lambda: os.truncate("{tmp_path}/kept", 0), lambda: os.open("{tmp_path}/kept", os.O_TRUNC | os.O_RDONLY),
            lambda: os.unlink("{tmp_path}/kept")):
    try:
        act(); print("WROTE")
    except OSError as error:
        print(type(error).__name__)
os.chmod("{tmp_path}/kept", 0) if os.path.exists("{tmp_path}/kept") else None
"""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    kept.chmod(0o644)
    outcome = box.call(code)
    assert "WROTE" not in outcome.text and "Error" in outcome.text, outcome
    assert kept.read_text() == "kept" and kept.stat().st_mode & 0o777 == 0o644
    assert not [path for path in targets if Path(path).is_absolute() and Path(path).exists()]


def test_set_user_id_and_devices(box: Box):
    code = """
import os, stat
open("f", "w").write("x")
for act in (lambda: os.fchmod(os.open("f", os.O_RDONLY), 0o4755), lambda: os.chmod("f", 0o4755),
            lambda: os.open("g", os.O_CREAT | os.O_WRONLY, 0o6755), lambda: os.mknod("d", stat.S_IFCHR | 0o666, 0x101),
            lambda: os.mkfifo("p"), lambda: os.setuid(0), lambda: os.setgroups([0])):
    try:
        act(); print("DID")
    except OSError as error:
        print(type(error).__name__)
"""
    outcome = box.call(code)
    assert outcome.text.count("DID") <= 1, outcome  # chmod may pretend
    files = list(box.workspace.iterdir())
    assert files and not [f for f in files if f.stat().st_mode & 0o6000 or not f.is_file()]


class Listener:
    """Counts who connects or writes to sockets of the host."""

    def __init__(self, folder: Path):
        self.heard: list[str] = []
        self.path = folder / "host.sock"
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.bind(str(self.path))
        self.path.chmod(0o777)
        abstract = socket.socket(socket.AF_UNIX)
        self.abstract = f"\0openk2-test-{folder}"
        abstract.bind(self.abstract)
        self.sockets = [tcp, udp, named, abstract]
        for listening in (tcp, abstract):
            listening.listen()
            threading.Thread(target=self._hear, args=(listening.accept,), daemon=True).start()
        for receiving in (udp, named):
            threading.Thread(target=self._hear, args=(lambda r=receiving: r.recv(100),), daemon=True).start()
        self.tcp, self.udp = tcp.getsockname(), udp.getsockname()

    def _hear(self, wait: Callable[[], object]) -> None:
        try:
            self.heard.append(str(wait()))
        except OSError:
            return


def test_loopback_and_outside_network(box: Box, tmp_path: Path):
    listener = Listener(tmp_path)
    code = f"""
import socket
def tcp(where): s = socket.socket(); s.settimeout(1); s.connect(where); s.send(b"x")
def udp(where): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", where)
def pair(): a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"x", "{listener.path}")
def stream(): a, b = socket.socketpair(); a.connect({listener.abstract!r})
def unix(): s = socket.socket(socket.AF_UNIX); s.connect({listener.abstract!r})
def named(): s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b"x", "{listener.path}")
for act in (lambda: tcp({listener.tcp!r}), lambda: udp({listener.udp!r}), pair, stream, unix, named,
            lambda: tcp(("1.1.1.1", 80)), lambda: udp(("8.8.8.8", 53)), lambda: tcp(("169.254.169.254", 80)),
            lambda: socket.getaddrinfo("example.com", 80), lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            lambda: socket.socket(40, socket.SOCK_STREAM), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)):
    try:
        act(); print("CONNECTED")
    except OSError as error:
        print(type(error).__name__)
a, b = socket.socketpair(); a.send(b"x"); print("pair", b.recv(1))
"""
    outcome = box.call(code)
    assert "CONNECTED" not in outcome.text and "pair b'x'" in outcome.text, outcome
    time.sleep(0.2)
    assert listener.heard == []
    socket.create_connection(listener.tcp).close()  # the listener does hear whom it can
    deadline = time.monotonic() + 10
    while not listener.heard and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(listener.heard) == 1


def alive(box: Box) -> int:
    running = box._running
    return len(running._members()) if running else 0


def test_fork_bomb(box: Box):
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, alive(box))

    threading.Thread(target=watch, daemon=True).start()
    box.call("1")
    outcome = box.call("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", 1.5)
    done.set()
    assert outcome.is_error and 2 < most <= box.policy.processes + 16, (outcome, most)
    assert box.call("40 + 2").text == f"{RESTARTED}\n42"
    assert alive(box) <= 3


def test_memory_bomb(box: Box):
    outcome = box.call("held = []\nwhile True: held.append(bytearray(1 << 20))")
    assert outcome.is_error and ("MemoryError" in outcome.text or "SIGKILL" in outcome.text), outcome
    box.call("held = None")
    code = """
import os, time
for _ in range(8):  # each below its own limit; step by step, so that a busy machine has time to look
    if os.fork() == 0:
        held = []
        for _ in range(30):
            held.append(b"x" * (5 << 20)); time.sleep(0.05)
        time.sleep(60)
time.sleep(60)
"""
    most, start = 0, time.monotonic()

    def watch() -> None:
        nonlocal most
        while time.monotonic() - start < 6 and (running := box._running):
            most = max(most, sum(p.resident for p in running._members().values()))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    outcome = box.call(code, 6.0)
    watcher.join()
    assert outcome.is_error and "MemoryError" in outcome.text and most < 4 * box.policy.memory, (outcome, most)
    assert box.call("1").text.endswith("1")


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1_000_000)",
        "import os\nwhile True: os.write(2, b'x' * 1_000_000)",
        "import os, subprocess\nsubprocess.run(['cat', '/dev/zero'])",
        "print('x' * 50_000_000)",
    ],
)
def test_ten_gigabytes_of_output(box: Box, code: str):
    before, start = processes.table()[os.getpid()].resident, time.monotonic()
    outcome = box.call(code)
    assert outcome.is_error and "printed over 16 MB" in outcome.text, outcome.text[-200:]
    assert len(outcome.text) < 2 * box.policy.output and "left out" in outcome.text
    assert time.monotonic() - start < 15  # before its timeout
    assert processes.table()[os.getpid()].resident - before < 64 << 20
    assert box.call("1").text.startswith(RESTARTED)


def test_endless_loop(box: Box):
    code = """
import signal, threading
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def spin():
    while True: pass
for _ in range(3): threading.Thread(target=spin).start()
print("before")
spin()
"""
    start = time.monotonic()
    outcome = box.call(code, 2.0)
    assert outcome.text == "before\nTimeoutError: the code ran for 2 seconds and was stopped." and outcome.is_error
    assert time.monotonic() - start < 15
    assert box.call("before = 1; before").text == f"{RESTARTED}\n1"
    assert box.call("before").text == "1"  # said once


DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            open("heartbeat", "w").write(str(time.time()))
            time.sleep(0.01)
    os._exit(0)
os.wait()
while not os.path.exists("heartbeat"): time.sleep(0.01)
"""


@pytest.mark.parametrize("ending", ["", "\nwhile True: pass", "\nos._exit(0)", "\nos.kill(os.getpid(), 11)"])
def test_a_daemon_does_not_outlive_its_call(box: Box, ending: str):
    box.call(DAEMON + ending, 3.0)
    heartbeat = box.workspace / "heartbeat"
    time.sleep(0.1)
    last = heartbeat.read_text()
    time.sleep(0.15)
    assert heartbeat.read_text() == last


def test_killing_the_parent(box: Box):
    canary = subprocess.Popen(["sleep", "60"])
    code = f"""
import os, signal
tried = 0
for pid in [os.getppid(), {os.getpid()}, {canary.pid}, *range(1, 3000)]:
    if pid not in (os.getpid(),):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            try:
                os.kill(pid, number); tried += 1
            except OSError: pass
print("survived", os.getppid())
"""
    outcome = box.call(code)
    assert outcome.text.startswith("survived"), outcome
    assert box.call("os.getppid() > 0").text == "True"  # same supervisor, same state
    for group in ("-1", "-os.getpgid(os.getppid())", "0"):
        box.call(f"os.kill({group}, 9)")
        assert box.call("import os; 1").text.endswith("1")
    assert canary.poll() is None
    canary.kill()
    canary.wait()


def test_environment_of_the_host(box: Box, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENK2_SECRET", SECRET)
    sleeper = subprocess.Popen(["sleep", "60"])  # has it in its environment
    code = f"""
import os, glob
print(dict(os.environ))
for path in ["/proc/self/environ", "/proc/1/environ", "/proc/{os.getpid()}/environ", "/proc/{sleeper.pid}/environ",
             "/proc/1/cmdline", "/proc/{os.getppid()}/environ", *glob.glob("/proc/*/environ")]:
    try: print(open(path, "rb").read())
    except OSError as error: print(type(error).__name__)
"""
    outcome = box.call(code)
    sleeper.kill()
    sleeper.wait()
    assert (
        "OMP_NUM_THREADS" in outcome.text and SECRET not in outcome.text and str(Path.home()) + "'" not in outcome.text
    )


def test_inherited_file_descriptors(make_box: Callable[..., Box], home_secret: Path):
    handle = os.open(home_secret, os.O_RDONLY)
    os.set_inheritable(handle, True)
    box = make_box()
    code = """
import os
for fd in range(3, 1024):
    try: print(fd, os.fstat(fd).st_mode & 0o170000 == 0o010000, os.pread(fd, 100, 0))
    except OSError as error: pass
"""
    outcome = box.call(code)
    os.close(handle)
    assert SECRET not in outcome.text and outcome.text == "(no output)", outcome


def test_forged_frames(box: Box):
    code = """
import os, json
frame = json.dumps({"nonce": "0" * 32, "token": "0" * 32, "text": "forged", "is_error": False, "ended": ""}).encode()
for fd in range(3, 256):
    try: os.write(fd, len(frame).to_bytes(4, "big") + frame)
    except OSError: pass
"""
    box.call(code)
    assert box.call("'real'").text.endswith("'real'")
    assert box.call("import sys, json, builtins\njson.dumps = lambda *a, **k: '{}'\nsys.stdout = None").text != "forged"
    assert box.call("sys.stdout.close()").text == "(no output)"
    assert box.call("print('still')").text.endswith("still")
    box.call("import os; [os.close(fd) for fd in range(3) ]")
    assert "forged" not in box.call("1").text
    garbage = "for fd in range(3, 256):\n try: os.write(fd, b'\\xff' * 5000)\n except OSError: pass"
    box.call("import os\n" + garbage)
    assert box.call("2").text.endswith("2")


def test_forbidden_system_calls(box: Box):
    numbers = {
        "x86_64": {
            "ptrace": 101, "unshare": 272, "mount": 165, "setns": 308, "keyctl": 250, "bpf": 321, "perf": 298,
            "io_uring": 425, "userfaultfd": 323, "clone3": 435, "process_vm_readv": 310, "open_by_handle": 304,
            "memfd_create": 319, "pidfd_open": 434, "chroot": 161, "personality": 135, "x32 read": 0x40000000,
            "shmget": 29, "future": 999,
        },
        "aarch64": {"ptrace": 117, "unshare": 97, "mount": 40, "setns": 268, "keyctl": 219, "bpf": 280, "clone3": 435},
    }[os.uname().machine]  # fmt: skip
    code = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {numbers!r}.items():
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    print(name, result, ctypes.get_errno())
CLONE_NEWUSER = 0x10000000
print("clone", libc.syscall(56, CLONE_NEWUSER | 17, 0, 0, 0, 0) if {os.uname().machine == "x86_64"} else -1, 1)
"""
    lines = [line.rsplit(" ", 2) for line in box.call(code).text.splitlines()]
    assert len(lines) == len(numbers) + 1
    assert not [line for line in lines if line[1] != "-1" or line[2] not in ("1", "38")], lines


def test_full_disk(box: Box):
    outcome = box.call("open('big', 'wb').write(bytes(1 << 23))")
    assert "File too large" in outcome.text, outcome
    code = "for i in range(10**6): open(f'f{i}', 'wb').write(b'x' * (3 << 20))"
    outcome = box.call(code)
    assert outcome.is_error and ("DiskError" in outcome.text or "TimeoutError" in outcome.text), outcome


def test_another_run(make_box: Callable[..., Box]):
    first, second = make_box("first"), make_box("second")
    first.call(f"open('note', 'w').write({SECRET!r})")
    second.start()
    paths = [str(first.workspace), str(first.workspace / "note"), "../first/note"]
    assert SECRET not in second.call(READ_ALL.replace("PATHS", repr(paths))).text
