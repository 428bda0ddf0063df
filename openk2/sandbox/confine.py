"""The program that a box starts: it gives up everything it does not need, then supervises.

The host starts it by `LAUNCH` and sends it one frame of settings; the answer says whether it is ready.
"""

from __future__ import annotations

import os
import sys

from openk2.sandbox import landlock, seccomp
from openk2.sandbox.frames import Frames, encode
from openk2.sandbox.supervisor import Supervisor, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# argv is the folder that holds our package and the number of the control socket. Imported, not run as a script,
# because Python keeps the compiled form of imported files only.
LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); from openk2.sandbox import confine; confine.main()"
_SIGKILL = 9
_SET_SECUREBITS, _CHILD_SUBREAPER, _AMBIENT, _AMBIENT_RAISE = 28, 36, 47, 2  # linux/prctl.h
_NO_SETUID_FIXUP_LOCKED = 0b1100  # linux/securebits.h
_DAC_READ_SEARCH, _CAPABILITY_VERSION_3 = 2, 0x20080522  # linux/capability.h
LINUX = os.uname().sysname == "Linux"


def main() -> None:
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
        confine(settings)
        if settings["network"] is not None:
            from openk2.sandbox import forward

            forward.start(settings["network"], settings["proxy_port"])
        supervisor = Supervisor(control, settings, seccomp.install)
    except Exception as error:
        write(control, encode({"ready": False, "error": f"{type(error).__name__}: {error}"}))
        return
    write(control, encode({"ready": True}))
    try:
        supervisor.serve()
    except Exception as error:  # to the host's record of what the box said
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        end_the_rest(settings["kill_all"], children)
        os._exit(0)


def confine(settings: dict[str, Any]) -> None:
    """Give up everything, in the order that still allows the next step. Raises OSError: then nothing may run."""
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
        landlock.restrict(**settings["landlock"])
    if LINUX:
        import ctypes

        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
        seccomp.install(bytes.fromhex(settings["filter"]))


def _become(user: int, keep_reading: bool) -> None:
    """Drop root for `user`. `keep_reading`: walk through folders closed to others (Landlock still says which)."""
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)

    def done(result: int, what: str) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what} was refused")

    mask = 1 << _DAC_READ_SEARCH if keep_reading else 0
    if keep_reading:  # or else access(2) answers as if we could not
        done(libc.prctl(_SET_SECUREBITS, _NO_SETUID_FIXUP_LOCKED, 0, 0, 0), "keeping a capability")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header, data = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), struct.pack("=6I", mask, mask, mask, 0, 0, 0)
    done(libc.capset(header, data), "giving up capabilities")
    if keep_reading:  # for the programs that the code starts
        done(libc.prctl(_AMBIENT, _AMBIENT_RAISE, _DAC_READ_SEARCH, 0, 0), "keeping a capability")
    if os.getuid() != user or os.geteuid() != user:
        raise OSError("the box could not drop root")


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
