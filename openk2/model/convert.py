"""Checkpoints written piece by piece, from another one or drawn at random: in memory for a piece, not for the model.

What comes out is a folder in Hugging Face layout, plain (bf16 or fp32) or with routed experts in INT4. It grows beside
as OUT.partial and is renamed when all of it is on the disk, so that OUT is whole or not there. A conversion that was
stopped, killed or out of space goes on with the first shard that is not done when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openk2.errors import UserError
from openk2.model import checkpoint, safetensors
from openk2.model.checkpoint import INDEX, PROFILE, TOKENIZER_FILES, Checkpoint, pieces
from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.expected import BIAS, EXPERT, int4_settings, weights
from openk2.model.safetensors import TYPES, Stored
from openk2.paths import sync_folder
from openk2.quant import packing

FORMS = ("bf16", "int4", "fp32")
SHARD_BYTES = 5 * 10**9
_PLAIN = {"bf16": "BF16", "int4": "BF16", "fp32": "F32"}  # form -> type of what is not INT4
_FP8_ROWS = 128  # pieces of block-FP8 start at a whole block
_PLAN = "plan.json"

Progress = Callable[[int, int], None]  # bytes written, bytes in all
Output = tuple[str, str, tuple[int, ...]]  # name, type, shape of a stored tensor


class Source(Protocol):
    """Where weights come from."""

    config: ModelConfig

    @property
    def identity(self) -> dict[str, Any]:
        """What says, between two starts, whether it is still the same source."""
        ...

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Values float32 of rows [first, last) of a weight."""
        ...

    def int4(self, name: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
        """packed int32 and bf16 scale bits of rows of a weight that is INT4 already, in groups of 32; else None."""
        ...


class FolderSource:
    """A checkpoint folder, opened strictly. Raises UserError as `checkpoint.load` does."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = ModelConfig.from_folder(folder)
        self._checkpoint: Checkpoint = checkpoint.load(folder, self.config)
        self._copies = (int4_settings(self.config) or {}).get("group_size") == packing.GROUP

    @property
    def identity(self) -> dict[str, Any]:
        files = sorted({entry.file for entry in self._checkpoint.entries.values()})
        return {"files": [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]}

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        values = self._checkpoint.rows(name, first, last)
        if not np.isfinite(values).all():
            entry = self._checkpoint.entries.get(name) or self._checkpoint.entries[f"{name}_scale"]
            raise UserError(f"{entry.file}: {name} holds NaN or infinity; restore it from the original.")
        return values

    def int4(self, name: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
        scale = self._checkpoint.entries.get(f"{name}_scale")
        if not self._copies or scale is None or scale.dtype != "BF16":
            return None
        packed = self._checkpoint.read(f"{name}_packed", first, last)
        return packed.bits, self._checkpoint.read(scale.name, first, last).bits


class RandomSource:
    """Weights drawn from a seed: matrices normal with the configuration's initializer_range, norms 1, biases 0.

    A weight depends on the seed and its name alone, not on shards or order. INT4 is drawn as INT4: even integers times
    scales of either sign, with the same standard deviation.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self.config = dataclasses.replace(config, quantization_config=None)
        self.seed = seed

    @property
    def identity(self) -> dict[str, Any]:
        return {"random": self.seed, "config": self.config.to_hf()}

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        shape = self._shapes[name]
        if "norm" in name or name.endswith(BIAS):
            return np.full((last - first, *shape[1:]), 0.0 if name.endswith(BIAS) else 1.0, np.float32)
        values = self._generator(name, first).standard_normal((last - first, *shape[1:]), np.float32)
        values *= np.float32(self.config.initializer_range)
        return values

    def int4(self, name: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
        if not EXPERT.search(name):
            return None
        generator, columns = self._generator(name, first), self._shapes[name][1]
        if columns % packing.GROUP:
            return None
        words = generator.integers(-(2**31), 2**31, (last - first, columns // 8), np.int32)
        size = self.config.initializer_range / math.sqrt(21.5)  # the root mean square of -8 .. 7 is sqrt(21.5)
        scale = generator.uniform(0.75, 1.25, (last - first, columns // packing.GROUP)).astype(np.float32)
        scale *= np.float32(size) * np.sign(generator.random(scale.shape, np.float32) - np.float32(0.5))
        return words, packing.scale_bits(scale)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        if not hasattr(self, "_found"):
            self._found = weights(self.config)
        return self._found

    def _generator(self, name: str, first: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), first])


class Untied:
    """Another source whose head is a matrix of its own, the same as its embedding: what some trainers insist on."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.config = dataclasses.replace(source.config, tie_word_embeddings=False)

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.source.identity, "untied": True}

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        tied = name == "lm_head.weight" and self.source.config.tie_word_embeddings
        return self.source.rows("model.embed_tokens.weight" if tied else name, first, last)

    def int4(self, name: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
        return self.source.int4(name, first, last)


def convert(
    source: Source,
    out: str | Path,
    form: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    extras: Callable[[Path], None] = lambda folder: None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write `source` to the folder `out` in `form` (bf16, int4, fp32); returns the bytes of its tensors.

    `extras` adds further files before the folder appears. INT4 that is there already is copied bit for bit; other
    experts are quantised by `packing.quantize`. Raises UserError when `out` exists, the disk is full, two conversions
    write the same folder, a width does not divide into groups of 32, or the source holds NaN.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists already; name another folder or remove it.")
    config = target(source.config, form)
    shards = _shards(config, form, shard_bytes)
    partial = out.with_name(out.name + ".partial")
    with _writing(partial, {"version": 1, "form": form, "shard_bytes": shard_bytes, **source.identity}):
        sizes = {file: sum(map(_bytes, outputs)) for file, outputs in shards.items()}
        size, done = sum(sizes.values()), 0
        left = [file for file in shards if not (partial / file).exists()]  # a shard gets its name when it is whole
        _check_space(partial, sum(sizes[file] for file in left))
        for file, outputs in shards.items():
            if file in left:
                for more in _write_shard(partial / file, outputs, source):
                    progress(done + more, size)
            done += sizes[file]
            progress(done, size)
        if len(shards) > 1:
            placed = {name: file for file, outputs in shards.items() for name, _, _ in outputs}
            checkpoint.write_json(partial / INDEX, {"metadata": {"total_size": size}, "weight_map": placed})
        checkpoint.write_config(partial, config, "float32" if form == "fp32" else "bfloat16")
        extras(partial)
    (partial / _PLAN).unlink()
    sync_folder(partial)
    partial.rename(out)
    sync_folder(out.parent)
    return size


def copy_extras(source: Path) -> Callable[[Path], None]:
    """The tokenizer, its template and the profile of a checkpoint folder, where it has them, for `convert`."""

    def copy(folder: Path) -> None:
        for name in (*TOKENIZER_FILES, PROFILE, "chat_template.jinja"):
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)

    return copy


def target(config: ModelConfig, form: str) -> ModelConfig:
    """The configuration of what is written in a form. Raises UserError when its widths cannot be INT4."""
    if form != "int4":
        return dataclasses.replace(config, quantization_config=None)
    if config.hidden_size % packing.GROUP or config.moe_intermediate_size % packing.GROUP:
        raise UserError(f"INT4 needs widths that are multiples of {packing.GROUP}; this network has others. Use bf16.")
    return dataclasses.replace(config, quantization_config=INT4_CONFIG)


def _outputs(name: str, shape: tuple[int, ...], form: str) -> list[Output]:
    if form == "int4" and EXPERT.search(name):
        rows, columns = shape
        return [(f"{name}_packed", "I32", (rows, columns // 8)), (f"{name}_shape", "I64", (2,)),
                (f"{name}_scale", "BF16", (rows, columns // packing.GROUP))]  # fmt: skip
    return [(name, "F32" if name.endswith(BIAS) else _PLAIN[form], shape)]


def _bytes(output: Output) -> int:
    return math.prod(output[2]) * TYPES[output[1]].itemsize


def _shards(config: ModelConfig, form: str, limit: int) -> dict[str, list[Output]]:
    """File name -> its tensors, in order, each file within `limit` bytes where a single weight allows it."""
    shards: list[list[Output]] = [[]]
    size = 0
    for name, shape in weights(config).items():
        outputs = _outputs(name, shape, form)
        more = sum(map(_bytes, outputs))
        if size + more > limit and shards[-1]:
            shards.append([])
            size = 0
        shards[-1] += outputs
        size += more
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i + 1:05}-of-{len(shards):05}.safetensors": outputs for i, outputs in enumerate(shards)}


def _write_shard(path: Path, outputs: list[Output], source: Source) -> Iterator[int]:
    """Write a file; yields the bytes done. The file has its name only when it is whole and on the disk."""
    first, starts, size = safetensors.layout(outputs)
    temporary = path.with_name(path.name + ".tmp")
    done = 0
    with temporary.open("wb") as file:
        file.write(first)
        for name, dtype, shape in outputs:
            if name.endswith(("weight_shape", "weight_scale")):
                continue  # come with weight_packed
            packed = name.endswith("weight_packed")
            weight = name.removesuffix("_packed") if packed else name
            if packed:
                shape = (shape[0], shape[1] * 8)
                _put(file, starts[f"{weight}_shape"], np.array(shape, np.int64))
            for begin, end in pieces(shape, _FP8_ROWS):
                if packed:
                    words, scale = source.int4(weight, begin, end) or _quantize(source.rows(weight, begin, end))
                    _put(file, starts[name] + begin * words[0].nbytes, words)
                    _put(file, starts[f"{weight}_scale"] + begin * scale[0].nbytes, scale)
                    done += words.nbytes + scale.nbytes
                else:
                    values = source.rows(name, begin, end)
                    bits = Stored.bf16(values).bits if dtype == "BF16" else values
                    _put(file, starts[name] + begin * bits[0].nbytes, bits)
                    done += bits.nbytes
                yield done
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q, scale = packing.quantize(values)
    return packing.pack(q), Stored.bf16(scale).bits


def _put(file: Any, start: int, bits: np.ndarray) -> None:
    file.seek(start)
    file.write(np.ascontiguousarray(bits).data)


@contextmanager
def _writing(partial: Path, plan: dict[str, Any]) -> Iterator[None]:
    """The folder beside, for this plan and this process alone; what another plan left there is removed."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / _PLAN).open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"Another process writes {partial}; wait for it or name another folder.") from None
            file.seek(0)
            text = json.dumps(plan)
            if file.read() != text:
                for path in partial.iterdir():
                    if path.name != _PLAN:
                        path.unlink()
                file.truncate(0)
                file.write(text)
                file.flush()
            yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full at {partial}; free some space and give the same command again, it goes on."
            ) from None
        raise UserError(f"{partial} could not be written ({error}); check the disk and rights.") from None


def _check_space(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise UserError(f"{partial} needs {needed / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB; free some space.")
