"""Checkpoint folders in Hugging Face layout, as released: one file or shards with an index; bf16, fp16, fp32, block-FP8
or INT4. Opening one reads the headers alone; tensors are memory-mapped, or read row by row. No torch.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from openk2.errors import UserError
from openk2.model import safetensors
from openk2.model.config import ModelConfig, read_object
from openk2.model.expected import PLAIN, block, check
from openk2.model.safetensors import Entry, Stored
from openk2.quant import fp8, packing

TOKENIZER_FILES = ("tiktoken.model", "tokenizer_config.json")
PROFILE = "openk2.json"
INDEX = "model.safetensors.index.json"
WRAPPER = "language_model."  # in front of every name of the language model in the multimodal releases

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors$")
_PIECE = 1 << 22  # values of a tensor that are worked on at once


class Checkpoint(Mapping[str, Stored]):
    """Every tensor of a folder by its Hugging Face name, memory-mapped when asked for."""

    def __init__(self, folder: Path, entries: dict[str, Entry], block: tuple[int, int] = fp8.BLOCK) -> None:
        self.folder = folder
        self.entries = entries
        self.block = block  # rows and columns of one factor of block-FP8
        self._maps: dict[Path, np.ndarray] = {}
        self._files: dict[Path, BinaryIO] = {}

    def __getitem__(self, name: str) -> Stored:
        entry = self.entries[name]
        if entry.start == entry.end:  # nothing to map
            return Stored(entry.dtype, np.empty(entry.shape, safetensors.TYPES[entry.dtype]))
        if entry.file not in self._maps:
            self._maps[entry.file] = np.memmap(entry.file, np.uint8, "r")
        return safetensors.mapped(entry, self._maps[entry.file])

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight's values, in whatever form it is stored; KeyError when it is not there."""
        if name in self.entries or f"{name}_packed" not in self.entries:
            return self.entries[name].shape
        rows, columns = self.read(f"{name}_shape").bits
        return int(rows), int(columns)

    def read(self, name: str, first: int = 0, last: int | None = None) -> Stored:
        """Rows [first, last) of a tensor, read and not mapped: their memory is free again when they are dropped."""
        entry = self.entries[name]
        if entry.file not in self._files:
            self._files[entry.file] = entry.file.open("rb")
        return safetensors.read_rows(entry, self._files[entry.file], first, last)

    def rows(self, name: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """float32 values of rows [first, last) of a weight, whatever its form; of FP8 one product with its factor."""
        return self._float32(name, lambda part: self.read(part, first, last), first)

    def weight(self, name: str) -> np.ndarray:
        """float32 values of a whole weight, from the memory map. Raises UserError when it is missing."""
        if not self.has_weight(name):
            raise UserError(f"The checkpoint lacks {name}; it is incomplete, copy or download it again.")
        return self._float32(name, self.__getitem__)

    def has_weight(self, name: str) -> bool:
        """Whether there is a weight of this name, in whatever form."""
        return name in self.entries or f"{name}_packed" in self.entries

    def _float32(self, name: str, get: Callable[[str], Stored], first: int = 0) -> np.ndarray:
        """Values of what `get` gives of a weight's parts: rows from `first` on."""
        if name not in self.entries and f"{name}_packed" in self.entries:
            scale = get(f"{name}_scale").float32()
            return packing.dequantize(get(f"{name}_packed").bits, scale, self.shape(name)[1])
        stored = get(name)
        if stored.dtype != "F8_E4M3":
            return stored.float32()
        return fp8.dequantize(stored.bits, self.read(f"{name}_scale_inv").float32(), self.block, first)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def close(self) -> None:
        """Close what `read` has opened; it opens again when needed."""
        while self._files:
            self._files.popitem()[1].close()


def load(folder: str | Path, config: ModelConfig | None = None) -> Checkpoint:
    """Open a checkpoint folder. With `config`, every tensor is held against it (`expected.check`).

    Raises UserError, naming file and tensor, when there is no checkpoint, a shard is missing, a file is damaged or cut
    short, the index does not fit the files, or two files hold the same tensor.
    """
    folder = Path(folder)
    entries: dict[str, Entry] = {}
    promised = _index(folder)
    files = [folder / file for file in sorted(set(promised.values()))] if promised else _files(folder)
    paths = {path.name: path for path in files}
    for path in files:
        for entry in safetensors.read_header(path):
            name = entry.name.removeprefix(WRAPPER)
            if name in entries:
                raise UserError(f"{name} lies in both {entries[name].file} and {path}; remove one of the two files.")
            entries[name] = entry
    for name, file in promised.items():
        found = entries.get(name.removeprefix(WRAPPER))
        if found is None or found.file is not paths[file]:
            raise UserError(f"{folder / file} lacks {name}, which {INDEX} says it holds; copy or download both again.")
    if config is None:
        return Checkpoint(folder, entries)
    check(entries, config)
    return Checkpoint(folder, entries, block(config))


def _index(folder: Path) -> dict[str, str]:
    """Tensor -> file of a sharded checkpoint; empty where there is no index."""
    path = folder / INDEX
    if not path.exists():
        return {}
    promised = read_object(path).get("weight_map")
    if not isinstance(promised, dict) or not all(isinstance(file, str) for file in promised.values()):
        raise UserError(f"{path} has no weight_map of tensors to files; restore it from the original.")
    for file in sorted(set(promised.values())):
        if Path(file).name != file:
            raise UserError(f"{path} names {file!r}, which is not a file of its folder; restore it from the original.")
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}, which {INDEX} names; copy or download it.")
    return promised


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file; give the folder of a checkpoint.")
    for path in files:
        if part := _SHARD.match(path.name):
            for number in range(1, int(part[3]) + 1):
                other = path.with_name(f"{part[1]}-{number:05}-of-{part[3]}.safetensors")
                if not other.exists():
                    raise UserError(f"{folder} lacks {other.name}; copy or download it.")
    return files


def pieces(shape: tuple[int, ...], multiple: int = 1) -> Iterator[tuple[int, int]]:
    """Rows [first, last) that cut a tensor into pieces of some 4M values, their starts multiples of `multiple`."""
    rows, width = (shape[0] if shape else 1), math.prod(shape[1:])
    step = max(1, _PIECE // max(1, width) // multiple) * multiple
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def check_values(folder: str | Path) -> int:
    """Read a whole checkpoint, piece by piece, and return its number of tensors.

    Raises UserError naming file and tensor for NaN or infinity, a weight_shape that is not its weight's, and for all
    that `load` finds with the folder's config.json.
    """
    config = ModelConfig.from_folder(folder)
    with closing(load(folder, config)) as checkpoint:
        for name, entry in checkpoint.entries.items():
            if name.endswith("weight_shape"):
                packed = checkpoint.entries[name.removesuffix("shape") + "packed"]
                rows, columns = checkpoint.read(name).bits
                if packed.shape != (rows, -(-columns // 8)):
                    raise UserError(f"{entry.file} is damaged: {name} says {rows} x {columns}, its weight is not.")
            elif entry.dtype in (*PLAIN, "F8_E4M3"):
                for first, last in pieces(entry.shape):
                    if not np.isfinite(checkpoint.read(name, first, last).float32()).all():
                        raise UserError(f"{entry.file}: {name} holds NaN or infinity; restore it from the original.")
        return len(checkpoint)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, config)
        if profile is not None:
            write_json(folder / PROFILE, profile)
        if tokenizer is not None:
            copy_tokenizer(tokenizer, folder)
        safetensors.write(folder / "model.safetensors", tensors)
    except OSError as error:
        raise UserError(f"The checkpoint {folder} could not be written ({error}); check space and rights.") from None


def write_config(folder: Path, config: ModelConfig, dtype: str = "bfloat16") -> None:
    """config.json and generation_config.json; `dtype` is torch's name of what plain weights are stored in."""
    write_json(folder / "config.json", {**config.to_hf(), "torch_dtype": dtype})
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {name: value for name, value in ids.items() if value is not None})


def copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / name)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """A JSON file that appears whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
