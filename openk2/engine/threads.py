"""How many threads numpy's BLAS uses. Small products lose more by waiting for a second thread than it gains them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

# Below this many active parameters a token's products are too short to share: two threads were 1.5 to 10 times
# slower than one on a busy two-core machine.
SMALL = 100_000_000


def limit_blas(active_parameters: int) -> bool:
    """Run BLAS on one thread when the model is small, unless the environment asks for a number. True if it was set.

    It knows the OpenBLAS that numpy's wheels carry; another BLAS keeps its own setting.
    """
    if active_parameters >= SMALL or {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys():
        return False
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for library in folder.glob("*openblas*"):
            blas = ctypes.CDLL(str(library))
            for name in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads"):
                if hasattr(blas, name):
                    getattr(blas, name)(1)
                    return True
    return False
