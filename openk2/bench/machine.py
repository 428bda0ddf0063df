"""What the machine can do at most, measured beside everything else: reading memory, and multiplying matrices."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes import CDLL
from pathlib import Path

import numpy as np

from openk2.engine import kernels
from openk2.engine.kernels import native
from openk2.engine.kernels.build import build
from openk2.engine.session import free_memory
from openk2.errors import UserError

READ_BYTES = 256 << 20  # of an array that is read from memory, at least
PEAK_SIZE = 1024  # rows and columns of the matrices of `peak`
_CPU = Path("/sys/devices/system/cpu")


def describe() -> dict[str, object]:
    """The processor and the memory, for the report."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cache_bytes": cache_bytes(),
        "free_memory_bytes": free_memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_before": load_average(),
    }


def processor() -> str:
    """The name the processor gives itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """Processes that wanted to run in the last minute: beyond 0.5 others are at work and times mean little."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None


def cache_bytes() -> int:
    """Bytes of the last-level cache; 0 where the system does not say."""
    sizes = [0]
    for file in _CPU.glob("cpu0/cache/index*/size"):
        try:
            text = file.read_text().strip()
            sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
        except (OSError, ValueError):
            continue
    return max(sizes)


def library() -> tuple[CDLL | None, str]:
    """The kernels, built if need be: nothing is measured while they are being built. Else None and the reason."""
    setting = os.environ.get("OPENK2_KERNELS") or "auto"
    if setting in kernels.TARGETS:
        with suppress(UserError):  # the reason is in the status
            build(setting)
    loaded = kernels.library()
    return loaded, kernels.status()[1]


def read_speed(array: np.ndarray, threads: int, repeats: int = 3) -> tuple[float, str]:
    """Bytes a second of summing a float32 array on so many threads, the best of `repeats`; and what summed it."""
    loaded, summed = kernels.library(), getattr(native, "read_speed", None)
    if loaded is not None and summed is not None:
        return summed(loaded, array, threads, repeats), "the kernels"
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        parts = np.array_split(array, threads)
        for _ in range(repeats):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, array.nbytes / (time.perf_counter() - start))
    return best, "numpy"


def peak(size: int = PEAK_SIZE, repeats: int = 3) -> float:
    """Floating-point operations a second of a float32 matrix product in numpy's BLAS, the best of `repeats`."""
    a = np.ones((size, size), np.float32)
    np.dot(a, a)
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        np.dot(a, a)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
