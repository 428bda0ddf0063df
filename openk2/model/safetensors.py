"""The safetensors format: read with suspicion, memory-mapped or in pieces; written with offsets known before. No torch.

A file is eight bytes (length of the header, little end first), the header (JSON: name -> type, shape, offsets) and the
tensors, end to end. numpy knows neither bfloat16 nor FP8, so that such tensors are held as their raw bits beside the
name of their type. The safetensors library is not used: its numpy side can read or write neither of the two.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from openk2.errors import UserError
from openk2.quant import fp8

MAX_HEADER = 100_000_000  # bytes; the format's own limit

# name of a type -> numpy's type of its bits
TYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}.items()}  # fmt: skip
_OWN = {kind: name for name, kind in TYPES.items() if name not in ("BF16", "F8_E4M3")}


class Entry(NamedTuple):
    """Where a tensor lies: `start` and `end` are bytes of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies on disk: `bits` has the tensor's shape; of BF16 (uint16) and FP8 (uint8) the raw bits."""

    dtype: str
    bits: np.ndarray

    def float32(self) -> np.ndarray:
        """The values in float32 (a copy, unless they are float32 already); of FP8 without its block factors."""
        if self.dtype == "BF16":
            return (self.bits.astype(np.uint32) << 16).view(np.float32)
        if self.dtype == "F8_E4M3":
            return fp8.VALUES[self.bits]
        return np.asarray(self.bits, np.float32)

    @classmethod
    def of(cls, array: np.ndarray) -> Stored:
        """A numpy array under its own type. Raises ValueError for types a checkpoint cannot hold."""
        if array.dtype not in _OWN:
            raise ValueError(f"safetensors cannot hold {array.dtype}")
        return cls(_OWN[array.dtype], array)

    @classmethod
    def bf16(cls, array: np.ndarray) -> Stored:
        """float32 values rounded to the nearest bfloat16 (ties to even; not for NaN)."""
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        return cls("BF16", (rounded >> np.uint32(16)).astype(np.uint16))


def read_header(path: Path) -> list[Entry]:
    """Every tensor of a file, in the order of the data.

    Raises UserError naming file and tensor when the file is cut short or too long, its header is no JSON object, too
    large or names a tensor twice, or a tensor has an unknown type, a size that is not its shape's, or offsets beyond
    the file, over another tensor or after a gap.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > MAX_HEADER:
                raise ValueError(f"its header would be {length} bytes long" if size >= 8 else "it has no header")
            if size < 8 + length:
                raise UserError(f"{path} is cut short within its header; copy or download it again.")
            header = json.loads(file.read(length), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it from the original checkpoint.") from None
    header.pop("__metadata__", None)
    entries = sorted((_entry(path, name, entry, 8 + length) for name, entry in header.items()), key=itemgetter(4, 5))
    end, before = 8 + length, ""
    for entry in entries:
        if entry.start != end:
            how = f"overlaps {before}" if entry.start < end else "lies after a gap"
            raise UserError(f"{path} is damaged: {entry.name} {how}; copy or download it again.")
        if entry.end > size:
            raise UserError(
                f"{path} is cut short: {entry.name} ends at byte {entry.end:,} of {size:,}; copy or download it again."
            )
        end, before = entry.end, entry.name
    if end != size:
        raise UserError(f"{path} is {size - end:,} bytes longer than its header says; copy or download it again.")
    return entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(n for n in names if names.count(n) > 1)} twice")
    return found


def _entry(path: Path, name: str, entry: Any, data: int) -> Entry:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        for n in (*shape, begin, end):
            if type(n) is not int or n < 0:
                raise ValueError
        if end < begin:
            raise ValueError
    except (TypeError, ValueError, LookupError):
        raise UserError(
            f"{path} cannot be read (what its header says of {name} is not a type, a shape and two offsets); "
            "restore it from the original checkpoint."
        ) from None
    if dtype not in TYPES:
        raise UserError(f"{path} stores {name} as {dtype}, which openk2 cannot read; convert it to bf16.")
    if end - begin != math.prod(shape) * TYPES[dtype].itemsize:
        raise UserError(
            f"{path} is damaged: {name} is {dtype} {list(shape)} but has {end - begin:,} bytes; "
            "restore it from the original checkpoint."
        )
    return Entry(path, name, dtype, shape, data + begin, data + end)


def mapped(entry: Entry, file: np.ndarray) -> Stored:
    """The tensor as a view of its memory-mapped file (uint8): nothing is read before it is used."""
    return Stored(entry.dtype, file[entry.start : entry.end].view(TYPES[entry.dtype]).reshape(entry.shape))


def read_rows(entry: Entry, file: BinaryIO, first: int = 0, last: int | None = None) -> Stored:
    """Rows [first, last) of a tensor, read into memory of their own (a mapped page counts as the process's memory)."""
    rows = entry.shape[0] if entry.shape else 1
    last = rows if last is None else min(last, rows)
    row = entry.bytes // rows if rows else 0
    file.seek(entry.start + first * row)
    data = file.read((last - first) * row)
    if len(data) != (last - first) * row:
        raise UserError(f"{entry.file} is cut short within {entry.name}; copy or download it again.")
    shape = (last - first, *entry.shape[1:]) if entry.shape else ()
    return Stored(entry.dtype, np.frombuffer(data, TYPES[entry.dtype]).reshape(shape))


def layout(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> tuple[bytes, dict[str, int], int]:
    """(name, type, shape) of each -> a file's first bytes, where each tensor's data starts, and the file's size."""
    # Wide types first keeps every tensor aligned to its own width, which memory-mapping readers rely on.
    order = sorted(tensors, key=lambda t: (-TYPES[t[1]].itemsize, t[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in order:
        size = math.prod(shape) * TYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    starts = {name: len(first) + header[name]["data_offsets"][0] for name, _, _ in order}
    return first, starts, len(first) + offset


def write(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write tensors to a file that appears whole or not at all."""
    first, starts, _ = layout((name, t.dtype, t.bits.shape) for name, t in tensors.items())
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(first)
        for name in starts:
            file.write(np.ascontiguousarray(tensors[name].bits).tobytes())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
