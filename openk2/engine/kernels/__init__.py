"""CPU kernels: one small C++ source, compiled for this processor on first use and kept in the cache folder.

Nothing waits for a compiler: the first process that needs kernels starts a build beside itself and computes with numpy;
texts that begin when it is done, and all later processes, run on the kernels. No compiler, a failed build or a closed
cache folder leave numpy in charge, and `k2 doctor` says so. `OPENK2_KERNELS` sets `off`, an instruction set
(`avx512`, `avx2`, `portable`) or the path of a library built before. `OPENK2_EXACT=1` lets INT4 weights meet fp32
activations instead of 16-bit ones.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from openk2.engine.kernels.native import declare, exact
from openk2.paths import cache_dir

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC",
         "-pthread")  # fmt: skip
TARGETS = {
    "auto": ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
LOOK_AGAIN = 1.0  # seconds between two looks for a build that runs beside

_SHOWN = {16: "AVX-512", 8: "AVX2", 4: "128-bit vectors"}


@dataclass(frozen=True)
class Plan:
    """What would be built, and where it lies: `path` when it worked, `failure` (a text) when it did not."""

    compiler: str
    target: str
    path: Path

    @property
    def failure(self) -> Path:
        return self.path.with_suffix(".failed")


class _State:
    setting: str | None = None
    library: ctypes.CDLL | None = None
    looked = 0.0
    build: subprocess.Popen[bytes] | None = None


def library() -> ctypes.CDLL | None:
    """The kernels, when they are built; starts building them beside this process when they are not. Never raises."""
    setting, now = _setting(), time.monotonic()
    if setting != _State.setting:
        _State.setting, _State.library, _State.looked = setting, None, -LOOK_AGAIN
    if _State.library is None and now - _State.looked >= LOOK_AGAIN:
        _State.looked = now
        found = _find(setting)
        if isinstance(found, ctypes.CDLL):
            _State.library = found
        elif isinstance(found, Plan) and (_State.build is None or _State.build.poll() is not None):
            _State.build = _start(found)
    return _State.library


def status() -> tuple[bool, str]:
    """Whether the kernels run, and which, or why not and what runs instead."""
    loaded = library()
    if loaded is not None:
        activations = "fp32 (OPENK2_EXACT)" if exact() else "16-bit"
        return True, f"{_SHOWN[loaded.k2_lanes()]}, built for this processor; INT4 meets {activations} activations"
    found = _find(_setting())
    if isinstance(found, Plan):
        return False, "numpy serves; they are being built beside this and serve from the next start"
    return False, f"numpy serves; {found}"


def plan(setting: str = "auto") -> Plan | str:
    """What to build for a setting, or the reason why nothing can be built."""
    if setting not in TARGETS:
        return f"OPENK2_KERNELS is {setting!r}; use off, {', '.join(TARGETS)} or the path of a built library"
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    compiler = next((path for path in map(shutil.which, names) if path), None)
    if compiler is None:
        return f"no C++ compiler was found ({', '.join(names)})"
    key = hashlib.sha256(repr((FLAGS, TARGETS[setting], _processor())).encode())
    try:
        about = Path(compiler).resolve().stat()
        key.update(f"{compiler} {about.st_size} {about.st_mtime_ns}".encode())
        for source in sorted(SOURCES.glob("*.[hc]*")):
            key.update(source.read_bytes() if source.suffix in (".h", ".cpp") else b"")
    except OSError as error:
        return f"the sources or the compiler cannot be read ({error})"
    return Plan(compiler, setting, cache_dir() / "kernels" / f"{setting}-{key.hexdigest()[:16]}.so")


def _setting() -> str:
    return os.environ.get("OPENK2_KERNELS") or "auto"


def _find(setting: str) -> ctypes.CDLL | Plan | str:
    """The loaded library, what is still to be built, or the reason why there is none."""
    if setting == "off":
        return "OPENK2_KERNELS is off"
    if os.sep in setting:
        return _load(Path(setting))
    found = plan(setting)
    if isinstance(found, str):
        return found
    if found.path.exists():
        return _load(found.path) if _own(found.path) else f"others than you may write {found.path}; remove it"
    try:
        said = found.failure.read_text(encoding="utf-8", errors="replace").strip()
        return f"building them failed ({said[:300]}); remove {found.failure} to try again"
    except FileNotFoundError:
        return found
    except OSError as error:
        return f"the cache folder cannot be read ({error})"


def _load(path: Path) -> ctypes.CDLL | str:
    try:
        return declare(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded ({error})"


def _own(path: Path) -> bool:
    """Whether only this person can have written a file: a library from a folder open to all must not be run."""
    if not hasattr(os, "getuid"):
        return True
    about = (path.stat(), path.parent.stat())
    return all(a.st_uid in (os.getuid(), 0) and not a.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for a in about)


def _start(found: Plan) -> subprocess.Popen[bytes] | None:
    """Build in a process of its own, at low priority, that outlives this one."""
    if not sys.executable:  # Python within another program
        return None
    command = [sys.executable, "-P", "-m", "openk2.engine.kernels.build", found.target]
    root = str(SOURCES.parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    try:
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None


def _processor() -> str:
    """What `native` stands for here. A home folder may be shared by different machines."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 14).splitlines()
        names = ("model name", "flags", "Features", "CPU part")
        first = {line.split(":")[0].strip(): line for line in reversed(lines)}
        found = [first[name] for name in names if name in first]
    except OSError:
        found = []
    return " ".join((platform.system(), platform.machine(), *(found or [platform.processor()])))
