"""Checkpoint folders in Hugging Face layout: written whole or not at all, read memory-mapped. No torch.

numpy has no bfloat16, so that such tensors are held as their raw uint16 bits beside the name of their type.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.errors import UserError
from openk2.model.config import ModelConfig, read_object

TOKENIZER_FILES = ("tiktoken.model", "tokenizer_config.json")
PROFILE = "openk2.json"

# safetensors' name of a type -> numpy's type of its bits
_TYPES: dict[str, type[np.generic]] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies on disk: `bits` has the tensor's shape and, for BF16, type uint16."""

    dtype: str
    bits: np.ndarray

    def float32(self) -> np.ndarray:
        """The values in float32 (a copy, unless they are float32 already)."""
        if self.dtype == "BF16":
            return (self.bits.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(self.bits, np.float32)

    @classmethod
    def of(cls, array: np.ndarray) -> Stored:
        """A numpy array under its own type. Raises ValueError for types a checkpoint cannot hold."""
        for name, kind in _TYPES.items():
            if name != "BF16" and array.dtype == kind:
                return cls(name, array)
        raise ValueError(f"safetensors cannot hold {array.dtype}")

    @classmethod
    def bf16(cls, array: np.ndarray) -> Stored:
        """float32 values rounded to the nearest bfloat16 (ties to even; not for NaN)."""
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return cls("BF16", rounded.astype(np.uint16))


def headers(folder: str | Path) -> Iterator[tuple[Path, str, dict[str, Any], int]]:
    """(file, tensor name, {"dtype", "shape", "data_offsets"}, start of the data) of every tensor of a folder.

    Raises UserError when there is no checkpoint or a file is cut short.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file; give the folder of a checkpoint.")
    for path in files:
        try:
            with path.open("rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little")
                entries = dict(json.loads(file.read(start - 8)))
            entries.pop("__metadata__", None)
            needed = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            size = path.stat().st_size - start
        except (OSError, ValueError, OverflowError, MemoryError, TypeError, LookupError) as error:
            raise UserError(f"{path} cannot be read ({error}); restore it from the original checkpoint.") from None
        if size < needed:
            raise UserError(f"{path} is cut short; copy or download it again.")
        for name, entry in entries.items():
            yield path, name, entry, start


def load(folder: str | Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint folder by its Hugging Face name, memory-mapped. Raises UserError as `headers`."""
    maps: dict[Path, np.ndarray] = {}
    tensors = {}
    for path, name, entry, start in headers(folder):
        if path not in maps:
            maps[path] = np.memmap(path, np.uint8, "r")
        begin, end = (start + offset for offset in entry["data_offsets"])
        if entry["dtype"] not in _TYPES:
            raise UserError(f"{path} stores {name} as {entry['dtype']}, which openk2 cannot read; convert it to bf16.")
        bits = maps[path][begin:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = Stored(entry["dtype"], bits)
    return tensors


def profile_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of its own use (`openk2.json`); empty where it says nothing. Raises UserError."""
    return read_object(folder / PROFILE) if (folder / PROFILE).exists() else {}


def save(
    folder: str | Path,
    config: ModelConfig,
    tensors: Mapping[str, Stored],
    *,
    tokenizer: Path | None = None,
    profile: dict[str, Any] | None = None,
) -> None:
    """Write config.json, generation_config.json, model.safetensors and, where given, tokenizer files and openk2.json.

    Each file is written beside and renamed, the weights last. Raises UserError when the disk is full or closed.
    """
    folder = Path(folder)
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
                  "pad_token_id": config.pad_token_id}  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "config.json", config.to_hf())
        _write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})
        if profile is not None:
            _write_json(folder / PROFILE, profile)
        if tokenizer is not None:
            for name in TOKENIZER_FILES:
                shutil.copyfile(tokenizer / name, folder / name)
        _write_tensors(folder / "model.safetensors", tensors)
    except OSError as error:
        raise UserError(f"The checkpoint {folder} could not be written ({error}); check space and rights.") from None


def _write_tensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """The safetensors format, tensor by tensor: the library's numpy writer knows no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    # Wide types first keeps every tensor aligned to its own width, which memory-mapping readers rely on.
    order = sorted(tensors, key=lambda name: (-tensors[name].bits.itemsize, name))
    for name in order:
        bits = tensors[name].bits
        header[name] = {
            "dtype": tensors[name].dtype, "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes],
        }  # fmt: skip
        offset += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name].bits).tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
