"""Landlock: the kernel's own file boundary for any process, with no privilege and nothing installed (Linux 5.13+).

Numbers and structures: linux/landlock.h; `man 7 landlock`.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every machine
_VERSION_FLAG, _PATH_BENEATH, _O_PATH = 1, 1, 0o10000000

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
_READ = EXECUTE | READ_FILE | READ_DIR
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
# How many rights each version knows: 1 files, 2 + REFER, 3 + TRUNCATE, 5 + IOCTL_DEV.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NET = 0b11  # bind and connect over TCP, version 4
_SCOPES = 0b11  # abstract sockets and signals stay inside, version 6
SIGNALS_SCOPED = 6


def version() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, ctypes.CDLL(None).syscall(_CREATE, None, 0, _VERSION_FLAG))


def restrict(read: Iterable[str], write: Iterable[str], devices: Iterable[str]) -> int:
    """Confine this process, and all it will start, to these paths. The version used. Raises OSError when it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: object) -> int:
        result = libc.syscall(*arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"landlock: {os.strerror(code)}")
        return result

    known = version()
    if not known:
        raise OSError("landlock: this kernel has none, or it is switched off")
    rights = (1 << _RIGHTS.get(known, 16)) - 1
    ruleset = struct.pack("=QQQ", rights, _NET if known >= 4 else 0, _SCOPES if known >= SIGNALS_SCOPED else 0)
    ruleset = ruleset[: 8 if known < 4 else 16 if known < SIGNALS_SCOPED else 24]
    handle = call(_CREATE, ruleset, len(ruleset), 0)
    try:
        writing = rights & ~(MAKE_CHAR | MAKE_SOCK | MAKE_BLOCK)
        using = READ_FILE | WRITE_FILE | IOCTL_DEV
        for paths, allowed in ((read, _READ), (write, writing), (devices, using)):
            for path in paths:
                target = os.open(path, _O_PATH | os.O_CLOEXEC)
                try:
                    limited = allowed if stat.S_ISDIR(os.fstat(target).st_mode) else allowed & _OF_FILES
                    call(_ADD, handle, _PATH_BENEATH, struct.pack("=Qi", limited & rights, target), 0)
                finally:
                    os.close(target)
        no_new_privileges = 38
        if libc.prctl(no_new_privileges, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock: no_new_privs was refused")
        call(_RESTRICT, handle, 0)
    finally:
        os.close(handle)
    return known
