"""`python -m openk2.engine.kernels.build [TARGET]`: compile the kernels, try them, keep them.

They are tried in a process of their own. The library appears whole or not at all, also when several processes build at
once. What goes wrong is written beside it, so that it is not tried again by every later process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from openk2.engine.kernels import FLAGS, SOURCES, TARGETS, Plan, plan
from openk2.errors import UserError

SECONDS = 600  # more than a slow machine under load needs


def build(target: str = "auto") -> Path:
    """Build the kernels for a target unless they are there. Raises UserError with the reason when that fails."""
    found = plan(target)
    if isinstance(found, str):
        raise UserError(f"The kernels cannot be built: {found}.")
    if found.path.exists():
        return found.path
    try:
        found.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=found.path.parent, prefix="build-") as folder:
            made = Path(folder) / found.path.name
            if problem := _compile(found, made) or _try(made):
                found.failure.write_text(problem + "\n", encoding="utf-8")
                raise UserError(f"The kernels cannot be built: {problem}; numpy serves instead.")
            made.chmod(0o700)
            made.replace(found.path)
    except OSError as error:
        raise UserError(
            f"The kernels cannot be built in {found.path.parent} ({error}); numpy serves instead."
        ) from None
    return found.path


def _compile(found: Plan, made: Path) -> str:
    """Empty, or what the compiler said."""
    command = [found.compiler, *FLAGS, *TARGETS[found.target], "-o", str(made), str(SOURCES / "network.cpp")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{found.compiler} did not run ({error})"
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return f"{found.compiler} failed: {errors[0].strip() if errors else f'exit code {done.returncode}'}"


def _try(made: Path) -> str:
    """Empty, or what went wrong with a product of each format: a wrong instruction ends only the process that tries."""
    command = [sys.executable, "-m", "openk2.engine.kernels.build", "--try", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else f"they do not run here (exit code {done.returncode}) {said[-1:] or ''}"


def _check(path: Path) -> None:
    from openk2.engine.kernels import _load
    from openk2.engine.kernels.native import multiply
    from openk2.engine.weights import Matrix
    from openk2.quant import packing

    library = _load(path)
    if isinstance(library, str):
        raise SystemExit(library)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(37, 96)).astype(np.float32)
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    words = packing.pack(rng.integers(-8, 8, values.shape).astype(np.int8))
    for matrix in (
        Matrix(values, None, values.shape),
        Matrix(halves, None, values.shape),
        Matrix(words, np.ascontiguousarray(halves[:, :3]), values.shape),
    ):
        for tokens in (1, 2, 40):
            x = rng.normal(size=(tokens, 96)).astype(np.float32)
            right = x @ matrix.float32().T
            error = np.abs(multiply(library, matrix, x) - right).max() / np.abs(right).max()
            if not error < 1e-4:
                raise SystemExit(f"a product is off by {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--try"]:
        _check(Path(sys.argv[2]))
    else:
        if hasattr(os, "nice"):
            os.nice(10)
        try:
            print(build(*sys.argv[1:2]))
        except UserError as failed:
            raise SystemExit(str(failed)) from None
