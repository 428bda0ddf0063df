"""The GGUF format, version 3, and the block types of ggml that are written here. (ggml repository, docs/gguf.md)

A file is a magic number, typed key-value pairs, the tensors' names, shapes and offsets, and the tensors, each aligned
to 32 bytes. Every size is known before, so that it is written in one pass. Blocks are 32 values of a row:

    q8_0  fp16 d, 32 int8       value = d * q,        d = absmax / 127
    q4_0  fp16 d, 16 bytes      value = d * (n - 8),  byte i holds value i (low half) and value i + 16 (high half)
"""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openk2.errors import UserError
from openk2.model.safetensors import Stored
from openk2.quant import packing

BLOCK = 32
_ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9


class Kind(NamedTuple):
    """A type of ggml: its number, and bytes for so many values of a row."""

    number: int
    bytes: int
    values: int


KINDS = {
    "f32": Kind(0, 4, 1), "bf16": Kind(30, 2, 1), "q8_0": Kind(8, 34, BLOCK), "q4_0": Kind(2, 18, BLOCK),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: shape in numpy's order, rows last; `data` gives its encoded bytes, piece by piece."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: Callable[[], Iterator[np.ndarray]]

    @property
    def bytes(self) -> int:
        kind = KINDS[self.kind]
        return math.prod(self.shape) // kind.values * kind.bytes


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """float32 [..., in] -> the bytes of a type; `in` a multiple of 32 for q8_0 and q4_0."""
    if kind == "f32":
        return np.ascontiguousarray(values, "<f4")
    if kind == "bf16":
        return Stored.bf16(values).bits
    if kind == "q4_0":
        q, scale = packing.quantize(values)
        return q4_0(packing.pack(q), scale)
    groups = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK)
    scale = np.abs(groups).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    scaled = groups * inverse
    q = np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))  # halves away from zero, as C's roundf
    return np.concatenate((_fp16(scale).view(np.uint8), q.astype(np.int8).view(np.uint8)), 1)


def q4_0(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """INT4 as `packing` has it, int32 [..., in/8] and float32 [..., in/32], as q4_0: the same integers and scales.

    Raises UserError when a scale is too large for fp16; one too small loses bits (`fp16_error`).
    """
    nibbles = packing.nibbles(packed).reshape(-1, 2, BLOCK // 2)
    halves = nibbles[:, 0] | (nibbles[:, 1] << np.uint8(4))
    return np.concatenate((_fp16(scale.reshape(-1, 1)).view(np.uint8), halves), 1)


def fp16_error(scale: np.ndarray) -> float:
    """The largest change of any weight that scales float32 suffer as fp16: 8 times that of a scale."""
    return float(np.abs(scale - scale.astype(np.float16).astype(np.float32)).max(initial=0) * 8)


def _fp16(scale: np.ndarray) -> np.ndarray:
    if np.abs(scale).max(initial=0) > 65504:
        raise UserError("A weight is too large for GGUF's fp16 scales; export with --experts bf16 --dense bf16.")
    return np.ascontiguousarray(scale, np.float16)


def write(path: Path, metadata: dict[str, Any], tensors: Sequence[Tensor], progress: Callable[[int, int], None]) -> int:
    """Write a file that appears whole or not at all; returns its size. bool, int, float, str and lists are the values.

    Raises UserError when it exists or the disk has no room.
    """
    if path.exists():
        raise UserError(f"{path} exists already; name another file or remove it.")
    infos, offset = [], 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        infos.append(_string(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims,
                                                        KINDS[tensor.kind].number, offset))  # fmt: skip
        offset += tensor.bytes + -tensor.bytes % _ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items()) + b"".join(infos)
    head += bytes(-len(head) % _ALIGNMENT)
    size, done = len(head) + offset, len(head)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(f"{path} needs {size / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB; free some space.")
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(head)
            for tensor in tensors:
                start = done
                for piece in tensor.data():
                    file.write(np.ascontiguousarray(piece).data)
                    done += piece.nbytes
                    progress(done, size)
                if done - start != tensor.bytes:
                    raise AssertionError(f"{tensor.name} has {done - start} bytes, not {tensor.bytes}")
                done += file.write(bytes(-done % _ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    kind, data = _typed(value)
    return struct.pack("<I", kind) + data


def _typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return _BOOL, struct.pack("<?", value)
    if isinstance(value, int):
        return _UINT32, struct.pack("<I", value)
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _string(value)
    typed = [_typed(one) for one in value]
    kind = typed[0][0] if typed else _STRING
    if kind == _UINT32:
        kind = 5  # llama.cpp reads arrays of token types as int32
    return _ARRAY, struct.pack("<IQ", kind, len(typed)) + b"".join(data for _, data in typed)
