"""Attempts 31-35 and 46-47: at other processes and at the kernel's wider doors."""

# ruff: noqa: E501  (the attempts are data)

from __future__ import annotations

import os
import pty
import signal
import time

from arena import HEADER, SECRET, Arena, attempt


@attempt(31, "Processes, kernel", "ptrace, process_vm_readv, /proc/*/mem of pid 1, the supervisor, the host")
def _(arena: Arena) -> str:
    code = """
ATTACH, buffer = 16, ctypes.create_string_buffer(8)
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
local, remote = Vector(ctypes.addressof(buffer), 8), Vector(id(None), 8)
child = os.fork()
if child == 0: time.sleep(5); os._exit(0)
for pid in (*([1, os.getppid()] if BOXED else []), *PIDS, child):
    attempt(f"ptrace {pid}", lambda: called(libc.ptrace(ATTACH, pid, 0, 0)) and (libc.ptrace(17, pid, 0, 0), True)[1])
    attempt(f"read {pid}", lambda: libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == 8)
    attempt(f"mem {pid}", lambda: pid != child and os.open(f"/proc/{pid}/mem", os.O_RDWR))
os.kill(child, 9)
"""
    got = arena.got(code, PIDS=[arena.sentinel.pid, os.getpid()] if arena.boxed else [arena.sentinel.pid])
    if not arena.boxed:
        arena.sentinel.send_signal(signal.SIGCONT)
    return got


@attempt(32, "Processes, kernel", "kill(-1), signals to the supervisor and to processes of the host")
def _(arena: Arena) -> str:
    victim = arena.sleeper("victim")
    everything = "[PID, os.getppid(), HOST, -PID, -1, -os.getpgid(os.getppid()), *range(1, 3000)]" if arena.boxed else "[PID]"
    code = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for pid in {everything}:
    if pid != os.getpid():
        for number in (signal.SIGSTOP, signal.SIGKILL):
            try: os.kill(pid, number)
            except OSError: pass
"""
    arena.run(code, PID=victim.pid, HOST=os.getpid())
    time.sleep(0.05)
    got = "" if arena.alive(victim) else "a process of the host was killed"
    if arena.boxed:
        arena.run("kept = os.getppid()")
        arena.run("os.kill(0, 9)")
        if not arena.run("1 + 1").endswith("2"):
            got += "the box answers no more"
    return got


@attempt(33, "Processes, kernel", "a user namespace inside, clone and clone3 with namespaces")
def _(arena: Arena) -> str:
    code = """
NEWUSER, NEWNS = 0x10000000, 0x20000
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def clone(number, *arguments):
    pid = libc.syscall(number, *arguments)
    if pid == 0: os._exit(0)
    return pid > 0
attempt("clone", lambda: clone(CLONE, NEWUSER | NEWNS | signal.SIGCHLD, 0, 0, 0, 0))
call = ctypes.create_string_buffer(struct.pack("=11Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0))
attempt("clone3", lambda: clone(435, call, 88))
if os.fork() == 0:
    attempt("unshare", lambda: called(libc.unshare(NEWUSER)))
    sys.stdout.flush(); os._exit(0)
os.wait()
"""
    return arena.got(code)


@attempt(34, "Processes, kernel", "io_uring, bpf, userfaultfd, keyctl, perf, memfd, pidfd, shm, landlock off, future calls")
def _(arena: Arena) -> str:
    code = """
X86 = {"bpf": 321, "userfaultfd": 323, "keyctl": 250, "perf": 298, "memfd": 319, "shmget": 29, "personality": 135,
       "kcmp": 312, "inotify": 253, "mq_open": 240, "lookup_dcookie": 212, "syslog": 103, "modify_ldt": 154}
ARM = {"bpf": 280, "userfaultfd": 282, "keyctl": 219, "perf": 241, "memfd": 279, "shmget": 194, "personality": 92}
numbers = {**(X86 if os.uname().machine == "x86_64" else ARM), "io_uring": 425, "pidfd_open": 434, "quotactl_fd": 443}
buffer = ctypes.create_string_buffer(512)
arguments = {"io_uring": (4, buffer), "userfaultfd": (1,), "keyctl": (0, -3, 1), "memfd": (b"x", 0), "shmget": (0, 4096, 0o1600),
             "personality": (0xFFFFFFFF,), "pidfd_open": (os.getpid(), 0), "modify_ldt": (0, buffer, 16), "syslog": (10, 0, 0)}
for name, number in numbers.items():
    attempt(name, lambda: called(libc.syscall(number, *arguments.get(name, (0, buffer, 0, 0, 0)))))
if os.uname().machine == "x86_64":
    attempt("x32 table", lambda: called(libc.syscall(0x40000000 | 39)))
"""
    return arena.got(code)


@attempt(35, "Processes, kernel", "type into the terminal of the host (TIOCSTI), open /dev/tty")
def _(arena: Arena) -> str:
    code = """
import fcntl
attempt("tty", lambda: os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
for fd in range(0, 64):
    attempt(f"TIOCSTI {fd}", lambda: fcntl.ioctl(fd, 0x5412, b"x") == 0)
    attempt(f"isatty {fd}", lambda: os.isatty(fd))
"""
    pid, master = pty.fork()  # a host process with a controlling terminal, from which the attempt starts
    if pid == 0:
        if arena.boxed:
            from arena import LIMITS

            from openk2.sandbox.box import Box

            with Box(arena.base / "tty" / "workspace", LIMITS, arena.tier) as box:
                os.write(1, box.call(HEADER + code).text.encode())
        else:
            exec(HEADER + code, {})
        os._exit(0)
    printed, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            data = os.read(master, 1 << 16)
        except OSError:
            break
        if not data:
            break
        printed += data
    os.waitpid(pid, 0)
    os.close(master)
    return "; ".join(line for line in printed.decode().split("\r\n") if line.startswith("GOT"))


@attempt(46, "Resources, protocol", "set the clock, rise in priority, reschedule processes of the host")
def _(arena: Arena) -> str:
    code = """
attempt("clock", lambda: BOXED and (time.clock_settime(time.CLOCK_REALTIME, time.time()) or True))
attempt("nice", lambda: os.nice(-5) < 0)
attempt("setpriority", lambda: os.setpriority(os.PRIO_PROCESS, PID, 7) or True)
attempt("setpriority of all", lambda: BOXED and (os.setpriority(os.PRIO_USER, 0, 7) or True))
attempt("affinity", lambda: os.sched_setaffinity(PID, os.sched_getaffinity(0)) or True)
attempt("scheduler", lambda: os.sched_setscheduler(PID, os.SCHED_BATCH, os.sched_param(0)) or True)
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or True)
"""
    return arena.got(code, PID=arena.sentinel.pid)


@attempt(47, "Resources, protocol", "two boxes at once: see, signal or read the other")
def _(arena: Arena) -> str:
    code = """
attempt("kill", lambda: os.kill(PID, 0) or True)
attempt("proc", lambda: open(f"/proc/{PID}/cmdline").read())
attempt("shm", lambda: os.listdir("/dev/shm") or True)
attempt("workspace", lambda: open(OTHER).read())
attempt("getpriority", lambda: BOXED and os.getpriority(os.PRIO_PROCESS, PID) is None)
"""
    with arena.second_box() as other:
        other.call(f"open('note', 'w').write({SECRET!r})") if arena.boxed else None
        note = arena.base / "other" / "workspace" / "note"
        if not arena.boxed:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(SECRET)
        running = other._running
        pid = max(running.members()) if running else arena.sentinel.pid
        return arena.got(code, PID=pid, OTHER=str(note))
