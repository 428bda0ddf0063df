"""Tensors of a checkpoint folder by Hugging Face name, memory-mapped, given out in float32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from openk2.errors import UserError

_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "I64": np.int64, "U8": np.uint8}


class Tensors:
    def __init__(self, folder: str | Path) -> None:
        self._entries: dict[str, tuple[np.memmap, str, tuple[int, ...], int, int]] = {}
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise UserError(f"{folder} holds no .safetensors file; give the folder of a checkpoint.")
        for file in files:
            try:
                self._index(file)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(f"{file} cannot be read ({error}); restore it from the original checkpoint.") from None

    def _index(self, file: Path) -> None:
        data = np.memmap(file, np.uint8, mode="r")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        for name, entry in json.loads(data[8:start].tobytes()).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                if start + end > len(data):
                    raise ValueError("it ends too early")
                self._entries[name] = (data, entry["dtype"], tuple(entry["shape"]), start + begin, start + end)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def raw(self, name: str) -> np.ndarray:
        if name not in self._entries:
            raise UserError(f"The checkpoint lacks {name}; it is incomplete.")
        data, dtype, shape, start, end = self._entries[name]
        return data[start:end].view(_TYPES[dtype]).reshape(shape)

    def float32(self, name: str) -> np.ndarray:
        """A tensor in float32, or a `.weight` that is stored as INT4. Raises UserError when it is missing."""
        if name not in self._entries and name.endswith(".weight") and f"{name}_packed" in self._entries:
            return self._int4(name)
        raw = self.raw(name)
        if self._entries[name][1] == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(raw, np.float32)

    def _int4(self, name: str) -> np.ndarray:
        packed, scale = self.raw(f"{name}_packed"), self.float32(f"{name}_scale")
        rows, columns = (int(n) for n in self.raw(f"{name}_shape"))
        nibbles = packed.view(np.uint8)
        weight = np.empty((rows, columns), np.float32)
        weight[:, 0::2] = (nibbles & 15)[:, : (columns + 1) // 2]
        weight[:, 1::2] = (nibbles >> 4)[:, : columns // 2]
        weight -= 8
        weight.reshape(rows, scale.shape[1], -1)[...] *= scale[..., None]
        return weight
