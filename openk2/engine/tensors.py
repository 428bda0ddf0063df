"""Tensors of a checkpoint folder by Hugging Face name, memory-mapped: as they are stored, or in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openk2.model.checkpoint import load
from openk2.model.config import ModelConfig


class Tensors:
    """Opened strictly: a tensor that is missing, misshapen or unknown to config.json is a UserError at once.

    `stored`: the tensors by the very names they are stored under, as bits.
    """

    def __init__(self, folder: str | Path) -> None:
        self.stored = load(folder, ModelConfig.from_folder(folder))

    def __contains__(self, name: str) -> bool:
        """Whether there is a weight of this name, in whatever form."""
        return name in self.stored or f"{name}_packed" in self.stored

    def float32(self, name: str) -> np.ndarray:
        """A weight's values, also of INT4 and block-FP8. Raises UserError when it is missing."""
        return self.stored.weight(name)
