"""The state of a training run on disk: written beside, synced, renamed: a kill leaves one whole."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from openk2.errors import UserError
from openk2.model.checkpoint import load
from openk2.model.config import ModelConfig
from openk2.model.expected import weights
from openk2.model.transformer import Transformer
from openk2.optim.muon import MuonAdamW
from openk2.train.packing import Packer


def save_state(path: Path, model: Transformer, optimizer: MuonAdamW, packer: Packer, progress: dict[str, Any]) -> None:
    """Weights, optimizer, random state and data position, atomically. Raises UserError when the disk is full."""
    data = {
        "config": model.config.to_hf(), "model": model.tensors(), "optimizer": optimizer.state_dict(),
        "data": packer.state(), "rng": torch.get_rng_state(), "progress": progress,
    }  # fmt: skip
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"The checkpoint {path} could not be written ({error}); free some space and resume.") from None


def read_state(path: Path) -> dict[str, Any]:
    """A saved state as a dict of plain values and tensors. Raises UserError when it cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a readable training state ({error}); restore it or name another.") from None


def load_state(path: Path, model: Transformer, optimizer: MuonAdamW) -> dict[str, Any]:
    """Put weights, optimizer and random state back; returns the `progress` saved and the packer's state as `data`."""
    data = read_state(path)
    stretch = {  # what YaRN changes is no other shape
        "rope_scaling": model.config.rope_scaling, "max_position_embeddings": model.config.max_position_embeddings,
    }  # fmt: skip
    if dataclasses.replace(ModelConfig.from_hf(data["config"]), **stretch) != model.config:
        raise UserError(f"{path} is of a network of another shape; use another --out or the same shape.")
    model.load_tensors(data["model"])
    optimizer.load_state_dict(data["optimizer"])
    torch.set_rng_state(data["rng"])
    return data["progress"] | {"data": data["data"]}


def initial_weights(path: Path) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Configuration and float32 weights of a run (folder or state.pt) or of a checkpoint in any form."""
    file = path / "state.pt" if path.is_dir() else path
    if file.exists():
        data = read_state(file)
        return ModelConfig.from_hf(data["config"]), data["model"]
    config = ModelConfig.from_folder(path)
    checkpoint = load(path, config)
    values = {name: torch.tensor(checkpoint.weight(name)) for name in weights(config)}
    return dataclasses.replace(config, quantization_config=None), values
