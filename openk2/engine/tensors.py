"""Tensors of a checkpoint folder by Hugging Face name, memory-mapped, given out in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openk2.errors import UserError
from openk2.model import checkpoint
from openk2.quant import packing


class Tensors:
    def __init__(self, folder: str | Path) -> None:
        self._stored = checkpoint.load(folder)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def float32(self, name: str) -> np.ndarray:
        """A tensor's values; `X.weight` may be stored as INT4 (`X.weight_packed`). Raises UserError when missing."""
        if name in self._stored:
            return self._stored[name].float32()
        if f"{name}_packed" in self._stored:
            return packing.read_packed(self._stored, name)
        raise UserError(f"The checkpoint lacks {name}; it is incomplete, copy or download it again.")
