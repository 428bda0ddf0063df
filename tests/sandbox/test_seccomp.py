"""The hand-assembled filter, run by a small BPF interpreter, for both machines it is written for."""

import errno
import os
import struct

import pytest

from openk2.sandbox import seccomp

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def answer(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would do with this call: the program's return value."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, constant)[0]
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x06:
            return constant
        else:
            test = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
            at += if_true if test[operation] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter(machine: str):
    program, column, arch = seccomp.box_filter(machine), ["x86_64", "aarch64"].index(machine), AUDIT[machine]
    assert len(program) // 8 < 4096

    def ask(name: str, *arguments: int) -> int:
        number = seccomp.CALLS[name][column]
        assert number is not None
        return answer(program, arch, number, arguments)

    refused = seccomp.ERRNO | errno.EPERM
    for name in seccomp.DENIED:
        if seccomp.CALLS[name][column] is not None:
            assert ask(name) == refused, name
    assert ask("clone", 0x11) == seccomp.ALLOW and ask("clone", 0x10000011) == refused
    assert ask("socketpair", 1, 0x80001) == seccomp.ALLOW and ask("socketpair", 1, 2) == refused
    assert ask("openat", 0, 0, os.O_RDONLY) == seccomp.ALLOW
    assert ask("openat", 0, 0, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) == seccomp.ALLOW
    assert ask("openat", 0, 0, os.O_RDONLY | os.O_TRUNC) == refused
    assert ask("openat", 0, 0, os.O_WRONLY | os.O_CREAT, 0o4755) == refused
    assert ask("fchmod", 3, 0o755) == seccomp.ALLOW and ask("fchmod", 3, 0o2755) == refused
    assert ask("fchmodat", 0, 0, 0) == seccomp.ERRNO  # succeeds and does nothing
    assert ask("prlimit64", 0) == seccomp.ALLOW and ask("prlimit64", 77) == refused
    assert ask("ioctl", 0, 0x5412) == refused and ask("ioctl", 0, 0x5401) == seccomp.ALLOW
    assert ask("fcntl", 0, 8) == refused and ask("fcntl", 0, 2) == seccomp.ALLOW
    assert ask("setpriority", 0, 0) == seccomp.ALLOW and ask("setpriority", 0, 9) == ask("setpriority", 2, 0) == refused
    assert ask("sched_setaffinity", 0) == seccomp.ALLOW and ask("sched_setaffinity", 77) == refused
    for young, allowed in ((435, False), (425, False), (444, False), (9999, False), (436, True), (439, True)):
        assert (answer(program, arch, young) == seccomp.ALLOW) == allowed, young
    read = 0 if machine == "x86_64" else 63
    assert answer(program, arch, read) == seccomp.ALLOW
    assert answer(program, 0x40000003, read) == seccomp.KILL  # the 32-bit table
    if machine == "x86_64":
        assert answer(program, arch, 0x40000000) == seccomp.ERRNO | errno.ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_network_of_its_own_has_tcp_only(machine: str):
    program, column = seccomp.box_filter(machine, network=True), ["x86_64", "aarch64"].index(machine)

    def ask(name: str, *arguments: int) -> bool:
        number = seccomp.CALLS[name][column]
        assert number is not None
        return answer(program, AUDIT[machine], number, arguments) == seccomp.ALLOW

    assert ask("socket", 2, 1 | 0o2000000, 6) and ask("socket", 10, 1, 0) and ask("connect", 3)
    refused = [(1, 1, 0), (2, 2, 0), (2, 3, 1), (16, 3, 0), (17, 3, 0), (40, 1, 0), (2, 1, 262), (10, 2, 17)]
    assert not any(ask("socket", *kind) for kind in refused) and not ask("ptrace")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_signal_filter(machine: str):
    arch, kill = AUDIT[machine], seccomp.CALLS["kill"][["x86_64", "aarch64"].index(machine)]
    assert kill is not None
    scoped, alone = seccomp.signal_filter(50, True, machine), seccomp.signal_filter(50, False, machine)
    minus_one = 2**32 - 1
    asked = [(51, True), (0, True), (50, False), (minus_one, False)]
    assert [answer(scoped, arch, kill, (pid, 9)) == seccomp.ALLOW for pid, _ in asked] == [ok for _, ok in asked]
    assert [answer(alone, arch, kill, (pid, 9)) == seccomp.ALLOW for pid, _ in asked] == [False, True, False, False]
