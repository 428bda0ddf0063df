"""Attempts 17-22: at secrets of the host."""



from __future__ import annotations

import os
import socket

from arena import SECRET, Arena, attempt


@attempt(17, "Secrets", "the host's environment variables")
def _(arena: Arena) -> str:
    return arena.got("attempt('environ', lambda: [k for k, v in os.environ.items() if SECRET in v])")


@attempt(18, "Secrets", "/proc/*/environ")
def _(arena: Arena) -> str:
    code = """
import glob
for path in [f"/proc/{pid}/environ" for pid in (1, "self", os.getppid(), *PIDS)] + glob.glob("/proc/[0-9]*/environ"):
    attempt(path, lambda: SECRET.encode() in open(path, "rb").read())
"""
    return arena.got(code, PIDS=[os.getpid(), arena.sentinel.pid])[:200]


@attempt(19, "Secrets", "/proc/*/cmdline")
def _(arena: Arena) -> str:
    pid = arena.sleeper(f"--password={SECRET}").pid
    code = """
import glob, subprocess
for path in [f"/proc/{PID}/cmdline"] + glob.glob("/proc/[0-9]*/cmdline"):
    attempt(path, lambda: b"--password=" + SECRET.encode() in open(path, "rb").read() and path)
"""
    return arena.got(code, PID=pid)[:200]


@attempt(20, "Secrets", "inherited file descriptors")
def _(arena: Arena) -> str:
    code = """
for fd in range(3, 1024):
    attempt(f"fd {fd}", lambda: SECRET.encode() in os.pread(fd, 100, 0) and fd)
"""
    return arena.got(code)


@attempt(21, "Secrets", "a core dump in the workspace")
def _(arena: Arena) -> str:
    code = """
import resource
attempt("limit", lambda: resource.setrlimit(resource.RLIMIT_CORE, (64 << 20, 64 << 20)))
os.abort()
"""
    arena.run(code)
    return ", ".join(path.name for path in arena.workspace.glob("core*"))


@attempt(22, "Secrets", "host name, machine-id, boot id, DMI")
def _(arena: Arena) -> str:
    code = """
attempt("host name", lambda: os.uname().nodename == HOST and HOST)
for path in ("/etc/machine-id", "/etc/hostname", "/proc/sys/kernel/random/boot_id", "/sys/class/dmi/id/product_name"):
    attempt(path, lambda: open(path).read())
"""
    return arena.got(code, HOST=socket.gethostname())


