"""Attempts 36-45 and 48: at the limits, and at what the host is told.

The codes are bounded: each goes a little beyond the limits of `arena.LIMITS` and says so, which harms no machine.
"""

# ruff: noqa: E501  (the attempts are data)

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

from arena import LIMITS, Arena, attempt

from openk2.sandbox import bwrap, landlock, seatbelt
from openk2.sandbox.box import Box, NoBoundary, Outcome
from openk2.sandbox.worker import execute


def _peak(arena: Arena, code: str, timeout: float) -> tuple[int, Outcome]:
    """The most processes that were there while `code` ran."""
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.03):
            if (running := arena.box._running) is not None:
                most = max(most, len(running.members()))

    if arena.boxed:
        arena.run("1")
    watcher = threading.Thread(target=watch)
    watcher.start()
    outcome = arena.outcome(code, timeout)
    done.set()
    watcher.join()
    return most, outcome


@attempt(36, "Resources, protocol", "a fork bomb, a thread bomb")
def _(arena: Arena) -> str:
    code = """
children = []
for _ in range(120):
    try: pid = os.fork()
    except OSError: break
    if pid == 0: time.sleep(3); os._exit(0)
    children.append(pid)
time.sleep(0.5)
for pid in children: os.kill(pid, 9)
if len(children) > 60: print("GOT", len(children), "processes")
import threading
try:
    threads = [threading.Thread(target=time.sleep, args=(1,), daemon=True) for _ in range(120)]
    for thread in threads: thread.start()
    print("GOT threads")
except RuntimeError: pass
"""
    most, outcome = _peak(arena, code, 6.0)
    bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
    if arena.boxed:
        bombed, ended = _peak(arena, bomb, 0.7)
        most = max(most, bombed)
        if not ended.is_error:
            return "the bomb was not ended"
        after = ""
        for _ in range(6):  # on a busy machine its processes take a moment to go
            if (after := arena.run("40 + 2")).endswith("42"):
                break
            time.sleep(0.5)
        else:
            return f"nothing ran after the bomb: {after}"
    got = "; ".join(line for line in outcome.text.splitlines() if line.startswith("GOT"))
    return got + (f"{most} processes" if most > 2 * LIMITS.processes else "")


@attempt(37, "Resources, protocol", "a memory bomb: heap, mmap, /dev/shm, memfd, many processes")
def _(arena: Arena) -> str:
    bombs = {
        "heap": "held = [bytearray(b'x' * (1 << 20)) for _ in range(300)]",
        "mmap": "import mmap\nheld = mmap.mmap(-1, 300 << 20)\nfor at in range(0, len(held), 4096): held[at] = 1",
        "shm": "held = open('/dev/shm/openk2-bomb', 'wb'); os.unlink(held.name); held.write(bytes(300 << 20))",
        "memfd": "held = open(os.memfd_create('x'), 'wb'); held.write(bytes(300 << 20))",
        "children": "for _ in range(6):\n    if os.fork() == 0: held = b'x' * (60 << 20); time.sleep(1.5); os._exit(0)",
    }
    got = []
    for name, bomb in bombs.items():
        code = f"try:\n    exec({bomb!r})\n    time.sleep(1.0); print('GOT {name}')\nexcept (MemoryError, OSError): pass"
        got.append(arena.got(code))
    return "; ".join(filter(None, got))


@attempt(38, "Resources, protocol", "a full disk: one file, many, sparse, inodes, files without a name")
def _(arena: Arena) -> str:
    bombs = {
        "one file": "open('big', 'wb').write(bytes(16 << 20))",
        "sparse": "open('sparse', 'wb').truncate(1 << 40)",
        "many": "for i in range(12): open(f'm{i}', 'wb').write(bytes(7 << 20))",
        "inodes": "for i in range(3000): open(f'i{i}', 'w')",
        "nameless": "held = []\nfor i in range(12):\n    held.append(open('n', 'wb')); os.unlink('n'); held[-1].write(bytes(7 << 20))",
    }
    got = []
    for name, bomb in bombs.items():
        code = f"try:\n    exec({bomb!r})\n    time.sleep(0.7); print('GOT {name}')\nexcept OSError: pass"
        got.append(arena.got(code))
        for path in arena.workspace.iterdir():
            if path.is_file():
                path.unlink()
    return "; ".join(filter(None, got))


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        open("daemon", "w").write(str(os.getpid())); os.close(1); os.close(2)
        deadline = time.time() + 20
        while time.time() < deadline:
            open("heartbeat", "w").write(str(time.time()))
            time.sleep(0.01)
    os._exit(0)
os.wait()
while not os.path.exists("heartbeat"): time.sleep(0.01)
"""
ENDLESS = """
import threading
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def spin():
    while True: pass
for _ in range(3): threading.Thread(target=spin).start()
spin()
"""


@attempt(39, "Resources, protocol", "an endless loop that ignores signals; a daemon that outlives its call")
def _(arena: Arena) -> str:
    got = ""
    for ending in ("", ENDLESS, "os._exit(0)", "os.kill(os.getpid(), 11)") if arena.boxed else ("",):
        for name in ("heartbeat", "daemon"):
            (arena.workspace / name).unlink(missing_ok=True)
        begin = time.monotonic()
        arena.run(DAEMON + ending, 1.0 if arena.boxed else 8.0)
        if time.monotonic() - begin > 9.0:
            got += "the call went on; "
        heartbeat = arena.workspace / "heartbeat"
        time.sleep(0.05)
        last, until = heartbeat.read_text(), time.monotonic() + (0.2 if arena.boxed else 5.0)
        while heartbeat.read_text() == last and time.monotonic() < until:
            time.sleep(0.02)
        if heartbeat.read_text() != last:
            got += "the daemon lives; "
            os.kill(int((arena.workspace / "daemon").read_text()), signal.SIGKILL)
    return got


@attempt(40, "Resources, protocol", "endless output on stdout and stderr, without a newline; stdout closed but alive")
def _(arena: Arena) -> str:
    floods = ["os.write(1, b'x' * 1_000_000)", "os.write(2, b'x' * 1_000_000)", "print('y' * 1_000_000, end='')"]
    for flood in floods:
        begin = time.monotonic()
        text = arena.run(f"for _ in range(30): {flood}", 8.0)
        if len(text) > 2 * LIMITS.output or time.monotonic() - begin > 11:
            return f"{len(text)} characters"
    closed = arena.run("os.close(1); os.close(2); sys.stdout.close()", 8.0)
    return "" if arena.run("print('heard')").endswith("heard") else closed or "no more output"


@attempt(41, "Resources, protocol", "output that is no text: invalid UTF-8, NUL")
def _(arena: Arena) -> str:
    code = r"os.write(1, b'\xff\xfe\x00\x1b[2J\xed\xa0\x80 end'); print('\u202e\ud800')"
    if not arena.boxed:  # a host that believes in text
        try:
            subprocess.run([sys.executable, "-c", "import os\n" + code], capture_output=True, text=True, encoding="utf-8")
        except UnicodeDecodeError as error:
            return str(error)
        return ""
    text = arena.run(code)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return str(error)
    return "" if "end" in text and arena.run("1").endswith("1") else text


@attempt(42, "Resources, protocol", "recursion, segfault, abort, out of memory: the host goes on")
def _(arena: Arena) -> str:
    deaths = {
        "segfault": "import ctypes; ctypes.string_at(0)",
        "abort": "import os; os.abort()",
        "exit": "import os; os._exit(9)",
        "recursion": "import sys; sys.setrecursionlimit(10**6)\ndef f(x): return max([x], key=f)\nf(1)",
        "parser": "compile('(' * 10**6 + ')' * 10**6, 'x', 'eval')",
    }
    got = []
    for name, death in deaths.items():
        if arena.boxed:
            arena.run(death)
            if not arena.run("6 * 7").endswith("42"):
                got.append(name)
        elif (pid := os.fork()) == 0:  # a host that runs the code in its own process
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.chdir(arena.workspace)
            execute(death, {})
            os._exit(0)
        elif os.waitpid(pid, 0)[1] != 0:
            got.append(name)
    return ", ".join(got)


@attempt(43, "Resources, protocol", "archive and compression bombs")
def _(arena: Arena) -> str:
    code = """
import zlib, zipfile
bomb = zlib.compressobj(1, zlib.DEFLATED, -15)
block = bomb.compress(bytes(1 << 20)) + bomb.flush(zlib.Z_FULL_FLUSH)
attempt("zlib", lambda: len(zlib.decompress(block * 300 + bytes([3, 0]), -15)))
with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    with archive.open("big", "w") as file:
        for _ in range(64): file.write(bytes(1 << 20))
attempt("zip", lambda: zipfile.ZipFile("bomb.zip").extract("big"))
"""
    return arena.got(code, 9.0)


NAIVE = """
import json, sys
for line in sys.stdin:
    exec(json.loads(line)["code"], globals())
    print(json.dumps({"text": "real"}), flush=True)
"""
FORGE = """
import os, json, sys, builtins
frame = json.dumps({"nonce": "0" * 32, "token": "0" * 32, "text": "forged", "is_error": False, "ended": "", "gone": False}).encode()
for fd in range(1 if NAIVE else 3, 256):
    for data in (len(frame).to_bytes(4, "big") + frame, b"1" * 21, frame + b"\\n"):
        try: os.write(fd, data)
        except OSError: pass
"""
GARBAGE = """
import os, sys, json, io
for fd in range(3, 256):
    try: os.write(fd, b"\\xff" * 5000)
    except OSError: pass
class Evil:
    def __repr__(self): os.write(1, b"forged"); raise SystemExit
    def __reduce__(self): return os.system, ("true",)
    def __del__(self): print("deleted")
json.dumps = json.loads = lambda *a, **k: {"text": "forged"}
os.read = os.write = os.getpid = os._exit = compile = lambda *a, **k: b""
io.TextIOWrapper = None
sys.stdout = None
"""


@attempt(44, "Resources, protocol", "forge the result: frames on every fd, patched json, os and sys.stdout, __del__")
def _(arena: Arena) -> str:
    if not arena.boxed:  # a worker that answers on standard output
        calls = "".join(json.dumps({"code": f"NAIVE = True\n{FORGE}" if i == 0 else "1"}) + "\n" for i in range(2))
        answered = subprocess.run([sys.executable, "-c", NAIVE], input=calls, capture_output=True, text=True, errors="replace")
        return "forged" if "forged" in answered.stdout else ""
    got = ""
    for code in (f"NAIVE = False\n{FORGE}", GARBAGE, "Evil()", "[os.close(fd) for fd in range(3)]", "import sys; sys.stdout.close()"):
        arena.run(code)
        if (text := arena.box.call("'real'").text).splitlines()[-1:] != ["'real'"] or "forged" in text:
            got += f"after {code.strip().splitlines()[0]!r}: {text!r}; "
        if code is GARBAGE:
            arena.box.close()
    return got


@attempt(45, "Resources, protocol", "state of one session seen in another")
def _(arena: Arena) -> str:
    code = "import builtins, os; builtins.left = 1; open(os.path.expanduser('~/left-behind'), 'w').write('x')"
    look = "import builtins, os; print(hasattr(builtins, 'left') or os.path.exists(os.path.expanduser('~/left-behind')))"
    if not arena.boxed:  # sessions that share a process
        with mock.patch.dict(os.environ, HOME=str(arena.home)):
            execute(code, {})
            return execute(look, {})[0].replace("False", "")
    arena.run(code)
    with arena.second_box() as other:
        return other.call(look).text.replace("False", "")


@attempt(48, "Resources, protocol", "run although no boundary works")
def _(arena: Arena) -> str:
    ran = arena.workspace / "ran"
    if not arena.boxed:
        arena.run("open('ran', 'w')")
        return "it ran" if ran.exists() else ""
    ran.unlink(missing_ok=True)
    nothing = mock.patch.object(bwrap, "binary", lambda: None), mock.patch.object(landlock, "version", lambda: 0)
    with nothing[0], nothing[1], mock.patch.object(seatbelt, "available", lambda: False):
        for tier in (arena.tier, None):
            try:
                Box(arena.workspace, LIMITS, tier).call("open('ran', 'w')")
            except NoBoundary:
                continue
            return "it ran"
    return "it ran" if ran.exists() else ""
