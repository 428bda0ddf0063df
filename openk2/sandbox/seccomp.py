"""The system-call filter, assembled by hand as classic BPF for x86_64 and aarch64: nothing has to be installed.

Refused are: every socket but a connected pair (and TCP in a box that has a network of its own), new namespaces, mounts,
tracing, kernel keys, io_uring, bpf, performance counters, handles, shared memory outside the memory limit, signals sent
by handle, changing how another process is scheduled, and every call younger than the list.
Calls that Landlock does not govern (chmod, utime, truncate by path) are refused or do nothing.

Structure and constants: linux/seccomp.h, linux/filter.h, linux/audit.h; `man 2 seccomp`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# name: number on x86_64, on aarch64 (None where the machine does not have the call)
CALLS: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "creat": (85, None), "ioctl": (16, 29), "fcntl": (72, 25),
    "clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "connect": (42, 203), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45),
    "mknod": (133, None), "mknodat": (259, 33), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "acct": (163, 89), "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None), "syslog": (103, 116),
    "vhangup": (153, 58), "lookup_dcookie": (212, 18), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "personality": (135, 92), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27), "memfd_create": (319, 279), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "semget": (64, 190), "semctl": (66, 191), "msgget": (68, 186), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "seccomp": (317, 277), "nfsservctl": (180, 42),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
}  # fmt: skip

DENIED = (
    "socket", "bind", "listen", "accept", "accept4", "connect", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tkill",
    "chown", "fchown", "lchown", "fchownat", "truncate", "mknod", "mknodat", "ptrace", "process_vm_readv",
    "process_vm_writev", "kcmp", "add_key", "request_key", "keyctl", "userfaultfd", "bpf", "perf_event_open", "mount",
    "umount2", "pivot_root", "chroot", "unshare", "setns", "swapon", "swapoff", "reboot", "kexec_load",
    "kexec_file_load", "init_module", "finit_module", "delete_module", "acct", "quotactl", "settimeofday",
    "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt",
    "uselib", "syslog", "vhangup", "lookup_dcookie", "name_to_handle_at", "open_by_handle_at", "personality",
    "move_pages", "migrate_pages", "fanotify_init", "fanotify_mark", "inotify_init", "inotify_init1",
    "inotify_add_watch", "memfd_create", "shmget", "shmat", "shmctl", "semget", "semctl", "msgget", "msgctl",
    "mq_open", "mq_unlink", "seccomp", "nfsservctl",
)  # fmt: skip
# What a box with a network of its own may do beside: TCP, which there leads to its own loopback and no further.
OF_A_NETWORK = ("socket", "bind", "listen", "accept", "accept4", "connect")
AF_INET, AF_INET6, SOCK_STREAM = 2, 10, 1
# Libraries copy modes and times after copying a file and fail if they cannot: these succeed and change nothing.
IGNORED = ("chmod", "fchmodat", "utime", "utimes", "futimesat", "utimensat")
UNSUPPORTED = ("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr")

# From 424 on the numbers are the same everywhere. Younger calls are unknown to the program (ENOSYS), but for these:
# close_range, faccessat2, epoll_pwait2, futex_waitv, cachestat, map_shadow_stack, futex_wake/wait/requeue, mseal.
FIRST_YOUNG = 424
YOUNG_ALLOWED = (436, 439, 441, 449, 451, 453, 454, 455, 456, 462)

NAMESPACES = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
TERMINAL_AND_OWNER = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
F_SETOWN, F_SETOWN_EX = 8, 15
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
SET_ID_BITS = 0o6000
X32_BIT = 0x40000000

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _RET, _JEQ, _JGE, _JSET, _AND = 0x20, 0x06, 0x15, 0x35, 0x45, 0x54
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def supported(machine: str | None = None) -> bool:
    return (machine or os.uname().machine) in _MACHINES


def box_filter(machine: str | None = None, *, network: bool = False) -> bytes:
    """The filter of the whole box. Raises KeyError for a machine it is not written for."""
    audit, column = _MACHINES[machine or os.uname().machine]
    code = _preamble(audit)
    if column == 0:
        code += [(_JGE, 0, 1, X32_BIT), _deny(errno.ENOSYS)]
    for number in YOUNG_ALLOWED:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, ALLOW)]
    code += [(_JGE, 0, 1, FIRST_YOUNG), _deny(errno.ENOSYS)]
    for names, answer in ((DENIED, errno.EPERM), (IGNORED, 0), (UNSUPPORTED, errno.EOPNOTSUPP)):
        for name in names:
            if (number := CALLS[name][column]) is not None and not (network and name in OF_A_NETWORK):
                code += [(_JEQ, 0, 1, number), _deny(answer)]
    blocks: dict[str, list[Instruction]] = {
        "clone": [_argument(0), *_if_bits(NAMESPACES)],
        # A datagram pair could still be pointed at a named socket of the host; a stream pair is connected for good.
        "socketpair": [_argument(1), (_AND, 0, 0, 0xF), (_JEQ, 1, 0, 1), _deny(errno.EPERM)],
        "ioctl": [_argument(1), *(i for c in TERMINAL_AND_OWNER for i in _if_equal(c))],
        "fcntl": [_argument(1), *_if_equal(F_SETOWN), *_if_equal(F_SETOWN_EX)],
        "fchmod": [_argument(1), *_if_bits(SET_ID_BITS)],
        "creat": [_argument(1), *_if_bits(SET_ID_BITS)],
        "open": [*_truncating(1), _argument(2), *_if_bits(SET_ID_BITS)],
        "openat": [*_truncating(2), _argument(3), *_if_bits(SET_ID_BITS)],
        "prlimit64": [_argument(0), *_only(0)],
        # Of itself alone: the kernel lets a process reschedule all others of its user.
        "setpriority": [_argument(0), *_only(PRIO_PROCESS), _argument(1), *_only(0)],
        "ioprio_set": [_argument(0), *_only(IOPRIO_WHO_PROCESS), _argument(1), *_only(0)],
        **{name: [_argument(0), *_only(0)] for name in CALLS if name.startswith("sched_set")},
    }
    if network:
        family = [_argument(0), (_JEQ, 2, 0, AF_INET), (_JEQ, 1, 0, AF_INET6), _deny(errno.EPERM)]
        kind = [_argument(1), (_AND, 0, 0, 0xF), (_JEQ, 1, 0, SOCK_STREAM), _deny(errno.EPERM)]
        protocol = [_argument(2), (_JEQ, 2, 0, 0), (_JEQ, 1, 0, 6), _deny(errno.EPERM)]
        blocks["socket"] = [*family, *kind, *protocol]
    return _assemble(code + _blocks(blocks, column))


def signal_filter(supervisor: int, scoped: bool, machine: str | None = None) -> bytes:
    """The second filter, of the process that runs model code: it cannot signal the supervisor, nor everybody at once.

    `scoped`: the kernel already keeps signals inside the box. Where it does not, no other process can be signalled.
    """
    audit, column = _MACHINES[machine or os.uname().machine]
    if scoped:
        rules = [(_JGE, 0, 1, X32_BIT << 1), _deny(errno.EPERM), *_if_equal(supervisor)]  # negative: a whole group
    else:
        rules = [(_JEQ, 1, 0, 0), _deny(errno.EPERM)]
    blocks = {name: [_argument(0), *rules] for name in ("kill", "tgkill")}
    return _assemble(_preamble(audit) + _blocks(blocks, column))


def install(program: bytes) -> None:
    """Put the filter on this process and all it starts, for good. Raises OSError when the kernel refuses."""

    class SockFprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    fprog = SockFprog(len(program) // 8, program)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    for call in ((no_new_privileges, 1, 0, 0, 0), (set_seccomp, mode_filter, ctypes.byref(fprog), 0, 0)):
        if libc.prctl(*call) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp: {os.strerror(code)}")


def _preamble(audit: int) -> list[Instruction]:
    """End a program that switches to another machine's call table, then load the number of the call."""
    return [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, audit), (_RET, 0, 0, KILL), (_LOAD, 0, 0, _NUMBER)]


def _deny(code: int) -> Instruction:
    return (_RET, 0, 0, ERRNO | code)


def _argument(index: int) -> Instruction:
    """Load the low half of an argument: every one checked here is 32 bits wide for the kernel too."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def _if_equal(value: int) -> list[Instruction]:
    return [(_JEQ, 0, 1, value), _deny(errno.EPERM)]


def _only(value: int) -> list[Instruction]:
    return [(_JEQ, 1, 0, value), _deny(errno.EPERM)]


def _if_bits(mask: int) -> list[Instruction]:
    return [(_JSET, 0, 1, mask), _deny(errno.EPERM)]


def _truncating(flags: int) -> list[Instruction]:
    """Refuse O_TRUNC with O_RDONLY, which Landlock before version 3 lets through as a mere reading."""
    return [_argument(flags), (_JSET, 0, 2, os.O_TRUNC), (_JSET, 1, 0, os.O_ACCMODE), _deny(errno.EPERM)]


def _blocks(blocks: dict[str, list[Instruction]], column: int) -> list[Instruction]:
    """`if the call is NAME: run its block, then allow` for each, then allow."""
    code: list[Instruction] = []
    for name, block in blocks.items():
        if (number := CALLS[name][column]) is not None:
            code += [(_JEQ, 0, len(block) + 1, number), *block, (_RET, 0, 0, ALLOW)]
    return [*code, (_RET, 0, 0, ALLOW)]


def _assemble(code: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
