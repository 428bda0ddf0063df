"""Tensors of a checkpoint folder by Hugging Face name, memory-mapped: as they are stored, or in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openk2.model.checkpoint import load
from openk2.model.config import ModelConfig
from openk2.model.safetensors import Stored


class Tensors:
    """Opened strictly: a tensor that is missing, misshapen or unknown to config.json is a UserError at once."""

    def __init__(self, folder: str | Path) -> None:
        self._checkpoint = load(folder, ModelConfig.from_folder(folder))

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def stored(self, name: str) -> Stored | None:
        """The bits of a tensor by the very name it is stored under; None where there is none."""
        return self._checkpoint.get(name)

    def float32(self, name: str) -> np.ndarray:
        """A weight's values, also of INT4 and block-FP8. Raises UserError when it is missing."""
        return self._checkpoint.weight(name)
