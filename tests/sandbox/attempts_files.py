"""Attempts 1-16: at files."""

# ruff: noqa: E501  (the attempts are data)

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from arena import SECRET, Arena, attempt

from openk2.errors import UserError
from openk2.sandbox import workspace

READ = """
import subprocess
def reads(path):
    number = len(os.listdir())
    yield "open", lambda: open(path, "rb").read(2000)
    yield "cat", lambda: subprocess.run(["cat", path], capture_output=True).stdout[:2000]
    yield "a symbolic link", lambda: (os.symlink(path, f"s{number}"), open(f"s{number}", "rb").read(2000))[1]
    yield "a hard link", lambda: (os.link(path, f"h{number}"), open(f"h{number}", "rb").read(2000))[1]
    yield "O_PATH", lambda: open(f"/proc/self/fd/{os.open(path, os.O_PATH)}", "rb").read(2000)
    yield "O_PATH itself", lambda: os.read(os.open(path, os.O_PATH), 2000)
    yield "rename", lambda: BOXED and (os.rename(path, "stolen"), open("stolen", "rb").read(2000))[1]
for path in PATHS:
    for how, act in reads(path):
        attempt(f"{how} {path}", lambda: (data := act()) and any(mark in data for mark in MARKS) and data)
"""


def _read(arena: Arena, *paths: object, marks: tuple[bytes, ...] = (SECRET.encode(),)) -> str:
    return arena.got(READ, PATHS=[str(path) for path in paths], MARKS=marks)


@attempt(1, "Files", "read /etc/shadow and /etc/passwd")
def _(arena: Arena) -> str:
    return _read(arena, "/etc/shadow", "/etc/passwd", "/etc/group-", marks=(b"root:",))


@attempt(2, "Files", "read the home folder, keys in it")
def _(arena: Arena) -> str:
    listed = "attempt('list', lambda: [name for name in os.listdir(HOME) if name.startswith('.openk2')])"
    return _read(arena, arena.home / "id_ed25519") + arena.got(listed, HOME=str(Path.home()))


@attempt(3, "Files", "read the workspace of another run")
def _(arena: Arena) -> str:
    other = arena.base / "another" / "workspace"
    other.mkdir(parents=True, exist_ok=True)
    (other / "note").write_text(SECRET)
    return _read(arena, other / "note", "../../another/workspace/note")


def _host_reads(arena: Arena, name: str) -> str:
    """How the host reads what the box wrote; in the control, how a careless one would."""
    if not arena.boxed:
        path = arena.workspace / name
        return path.read_text() if not path.is_symlink() or name == "link.txt" else ""
    try:
        return workspace.read(arena.workspace, name).decode()
    except UserError:
        return ""


@attempt(4, "Files", "a symbolic link for the host to follow")
def _(arena: Arena) -> str:
    arena.run("os.symlink(PATH, 'link.txt'); os.symlink(os.path.dirname(PATH), 'folder')")
    assert (arena.workspace / "link.txt").is_symlink()
    return SECRET if SECRET in _host_reads(arena, "link.txt") + _host_reads(arena, "folder/secret.txt") else ""


@attempt(5, "Files", "a link swapped in between check and use")
def _(arena: Arena) -> str:
    code = """
os.mkdir("swap"); open("swap/plain", "w").write("plain"); os.symlink(PATH, "swap/link")
deadline = time.time() + SECONDS
while time.time() < deadline and not os.path.exists("seen"):
    for name in ("plain", "link"):
        try: os.link(f"swap/{name}", "swap/new", follow_symlinks=False); os.rename("swap/new", "swapped.txt")
        except OSError: pass
"""
    seconds = 0.6 if arena.boxed else 6.0  # a careless host loses the race soon, but not at once
    swapping = threading.Thread(target=arena.run, args=(code,), kwargs={"SECONDS": seconds})
    swapping.start()
    got, deadline = "", time.monotonic() + seconds + 0.3
    while not got and time.monotonic() < deadline:
        try:
            got = SECRET if SECRET in _host_reads(arena, "swapped.txt") else ""
        except OSError:
            continue
    (arena.workspace / "seen").touch()
    swapping.join()
    return got


@attempt(6, "Files", "a hard link to a file outside")
def _(arena: Arena) -> str:
    return arena.got("attempt('link', lambda: (os.link(PATH, 'hard.txt'), os.path.exists('hard.txt'))[1])")


@attempt(7, "Files", "unpack an archive with .. and absolute names")
def _(arena: Arena) -> str:
    code = """
import io, tarfile
with tarfile.open("bad.tar", "w") as tar:
    for name in NAMES:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
with tarfile.open("bad.tar") as tar:
    tar.extraction_filter = lambda member, path: member
    for member in tar:
        attempt(member.name, lambda: tar.extract(member))
"""
    names = ["../../outside/unpacked", str(arena.outside / "unpacked-absolute")]
    arena.run(code, NAMES=names)
    return ", ".join(path.name for path in arena.outside.glob("unpacked*"))


@attempt(8, "Files", "pivot through /proc: self/root, 1/root, 1/cwd, fd of another")
def _(arena: Arena) -> str:
    roots = ["/proc/self/root", "/proc/1/root", "/proc/1/cwd/" + "../" * 9, f"/proc/{os.getpid()}/root", "/proc/self/cwd/../.."]
    paths = [root + str(arena.secret) for root in roots] + [f"/proc/{os.getpid()}/fd/{arena._handle}"]
    return _read(arena, *paths)


@attempt(9, "Files", "write outside: /usr, /etc, /tmp, /dev/shm, our own code")
def _(arena: Arena) -> str:
    names = [str(arena.outside / "x")]
    if arena.boxed:  # the control stays harmless
        import openk2.sandbox

        package = Path(openk2.sandbox.__file__).parent
        names += ["/usr/x", "/etc/x", "/tmp/openk2-x", "/dev/x", "/dev/shm/x", "/x", str(Path.home() / "openk2-x")]
        names += [str(package / "x"), "/openk2/x", "/openk2/openk2/sandbox/x", "../x"]
    code = """
for path in NAMES:
    attempt("write " + path, lambda: open(path, "w").write("x"))
    attempt("mkdir " + path, lambda: os.mkdir(path + "d") or True)
    attempt("symlink " + path, lambda: os.symlink("/", path + "s") or True)
for name, act in (("truncate", lambda: os.truncate(KEPT, 0) or True), ("unlink", lambda: os.unlink(KEPT) or True),
                  ("O_TRUNC", lambda: os.open(KEPT, os.O_TRUNC | os.O_RDONLY)), ("rename", lambda: os.rename(KEPT, "k") or True)):
    attempt(name, act)
"""
    kept = arena.outside / "kept"
    kept.write_text("kept")
    got = arena.got(code, NAMES=names, KEPT=str(kept))
    changed = "" if kept.exists() and kept.read_text() == "kept" else "; the host's file changed"
    return got + changed


@attempt(10, "Files", "mount, remount, pivot_root, chroot")
def _(arena: Arena) -> str:
    code = """
os.makedirs("m", exist_ok=True)
attempt("tmpfs", lambda: called(libc.mount(b"none", b"m", b"tmpfs", 0, None)))
attempt("bind", lambda: called(libc.mount(b"/", b"m", None, 4096 | 16384, None)))
attempt("remount", lambda: called(libc.mount(None, b"/", None, 32 | 4096, None)))
attempt("umount", lambda: BOXED and called(libc.umount2(b"/usr", 2)))
attempt("chroot", lambda: called(libc.chroot(b"m")))
"""
    return arena.got(code, wrapper=("unshare", "--mount") if arena.root else ("unshare", "-Urm"))


@attempt(11, "Files", "device nodes: make one, open /dev/kvm, disks, terminals")
def _(arena: Arena) -> str:
    code = """
attempt("mknod", lambda: os.mknod("d", stat.S_IFCHR | 0o666, os.makedev(1, 3)) or True)
for path in ("/dev/kvm", "/dev/mem", "/dev/vda", "/dev/sda", "/dev/ptmx", "/dev/fuse", "/dev/net/tun", "/dev/kmsg"):
    attempt(path, lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK))
"""
    return arena.got(code)


@attempt(12, "Files", "a set-user-id program in the workspace")
def _(arena: Arena) -> str:
    code = """
open("f", "w").write("x")
attempt("chmod", lambda: os.chmod("f", 0o4755)); attempt("fchmod", lambda: os.fchmod(os.open("f", 0), 0o6755))
attempt("open", lambda: os.open("g", os.O_CREAT | os.O_WRONLY, 0o6755) and None)
attempt("mkdir", lambda: os.mkdir("sgid", 0o2755) or os.chmod("sgid", 0o2755))
"""
    arena.run(code)
    found = [path.name for path in arena.workspace.iterdir() if path.lstat().st_mode & 0o6000]
    return ", ".join(found)


@attempt(13, "Files", "name_to_handle_at, open_by_handle_at")
def _(arena: Arena) -> str:
    code = """
handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128)); mount = ctypes.c_int()
for path in (PATH, "/", "."):
    attempt(f"handle of {path}", lambda: called(libc.name_to_handle_at(-100, path.encode(), handle, ctypes.byref(mount), 0)))
attempt("open by handle", lambda: called(libc.open_by_handle_at(os.open(".", 0), handle, 0)))
"""
    return arena.got(code)


@attempt(14, "Files", "a FIFO in the place of an output file")
def _(arena: Arena) -> str:
    arena.run("attempt('fifo', lambda: os.mkfifo('out.txt'))")
    path = arena.workspace / "out.txt"
    if not path.exists():
        return ""
    reading = threading.Thread(target=_host_reads, args=(arena, "out.txt"), daemon=True)
    reading.start()
    reading.join(0.5)
    if not reading.is_alive():
        return ""
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # lets the reader go
    return "the host's read hangs"


@attempt(15, "Files", "file names with newlines, escapes, invalid UTF-8")
def _(arena: Arena) -> str:
    code = r"for name in (b'a\nb', b'\x1b[31mred', b'\xff\xfe', 'x\u202ey'.encode()): open(name, 'w').write('x')"
    outcome = arena.outcome(code)
    names = outcome.files if arena.boxed else tuple(path.name for path in arena.workspace.iterdir())
    assert names
    return ", ".join(ascii(name) for name in names if not name.isprintable())


@attempt(16, "Files", "plant a git hook, usercustomize or module for a later unsandboxed run")
def _(arena: Arena) -> str:
    code = """
for path in PLACES:
    attempt(path, lambda: (os.makedirs(os.path.dirname(path), exist_ok=True), open(path, "w").write("print('GOT in')"))[1])
"""
    places = [str(arena.outside / ".git" / "hooks" / "pre-commit"), str(arena.home / "usercustomize.py")]
    arena.got(code, PLACES=places)
    planted = [path for path in places if Path(path).exists()]
    # And for the next start of this very box: what lies in the workspace must not be imported by the supervisor.
    arena.run("[open(f'{n}.py', 'w').write('open(\"ran\", \"w\")') for n in ('sitecustomize', 'json', 'select', 'resource')]")
    if arena.boxed:
        arena.box.close()
        arena.run("1")
    ran = arena.boxed and (arena.workspace / "ran").exists()
    for name in ("sitecustomize", "json", "select", "resource"):
        (arena.workspace / f"{name}.py").unlink(missing_ok=True)
    return ", ".join([*planted, *(["a module of the workspace ran at start"] if ran else [])])


