"""Checkpoints of a run: OUT/step-00001234/, in the format of torch.distributed.checkpoint, so that ranks may change.

The state is copied and written by a thread into a hidden folder beside, synced, and renamed: a kill leaves the last one
whole. `state.json` says in plain words what the tensors belong to, and holds the checksums of the files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from openk2.errors import UserError
from openk2.model.checkpoint import load
from openk2.model.config import ModelConfig
from openk2.model.expected import weights
from openk2.model.transformer import Transformer
from openk2.train.parallel import World
from openk2.train.recipe import Stage

_STATE = "state.json"
_CHUNK = 1 << 24  # bytes of a file that are checked at once
_RUN_ON = "free some space and give the same command again"
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


class Damaged(Exception):
    """A checkpoint that does not hold what was written."""


class Checkpoints:
    """Those of one run. `keep` is how many stay."""

    def __init__(self, out: Path, world: World, keep: int = 2, say: Callable[[str], None] = print) -> None:
        self.out, self.world, self.keep, self.say = out, world, keep, say
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        if world.is_main:
            for left in out.glob(".step-*"):  # of a run that was killed while writing
                shutil.rmtree(left)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        except UserError:
            if kind is None:  # else another error is on its way, which says more
                raise
        finally:
            self._thread.shutdown()

    def save(self, model: Transformer, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Copy everything now, write it in the background. Raises UserError when the one before could not be written.

        `state` is JSON; its `position` has the step.
        """
        self.wait()
        tensors, numbers = _state_of(model, optimizer)
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        copies["rng"] = torch.get_rng_state()
        self._writing = self._thread.submit(self._write, copies, state | {"numbers": numbers})

    def wait(self) -> None:
        """Until what was saved is on the disk. Raises UserError when it could not be written."""
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        folder = self.out / f"step-{state['position']['step']:08d}"
        part = self.out / f".{folder.name}"
        try:
            dcp_save(
                tensors, storage_writer=FileSystemWriter(part), process_group=self.world.apart,
                no_dist=self.world.size == 1,
            )  # fmt: skip
            if self.world.is_main:
                state["checksums"] = {file.name: _checksum(file) for file in sorted(part.iterdir())}
                with (part / _STATE).open("w", encoding="utf-8") as file:
                    json.dump(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                shutil.rmtree(folder, ignore_errors=True)
                part.replace(folder)
                _sync(self.out)
                for old in folders(self.out)[self.keep :]:
                    shutil.rmtree(old)
        except (OSError, RuntimeError, CheckpointException) as error:
            shutil.rmtree(part, ignore_errors=True)
            last = next(iter(folders(self.out)), None)
            raise UserError(
                f"The checkpoint {folder} could not be written ({_reason(error)}); the last good one is "
                f"{last.name if last else 'none'}: {_RUN_ON}."
            ) from None

    def _read(self, folder: Path) -> dict[str, Any]:
        """As `read_state`; the main process looks at the files for all. Raises Damaged."""
        try:
            found = read_state(folder) if self.world.is_main else None
        except Damaged as error:
            found = str(error)
        found = self.world.share(found)
        if not isinstance(found, dict):
            raise Damaged(found)
        return found

    def restore(
        self, model: Transformer, optimizer: torch.optim.Optimizer, stages: Sequence[Stage]
    ) -> dict[str, Any] | None:
        """Load the newest whole checkpoint; returns its state, or None when there is none.

        A damaged one is put aside and the one before taken. Raises UserError when it is of another network or recipe.
        """
        found = self.world.share([folder.name for folder in folders(self.out)])
        for name in found:
            folder = self.out / name
            try:
                state = self._read(folder)
                _same_run(folder, state, model.config, stages)
                _make_room(model, optimizer, folder, state["numbers"])
                tensors, _ = _state_of(model, optimizer)
                tensors["rng"] = torch.get_rng_state()
                _load(folder, tensors, self.world.size == 1)
            except Damaged as error:
                self.say(f"{folder.name} is damaged ({error}); going back to the checkpoint before it")
                if self.world.is_main:
                    folder.replace(folder.with_name(f"damaged-{folder.name}"))
                continue
            torch.set_rng_state(tensors["rng"])
            return state
        if found:
            raise UserError(f"No checkpoint in {self.out} is whole; restore one, or start again with another --out.")
        return None


def folders(out: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted(out.glob("step-*"), reverse=True)


def read_state(folder: Path) -> dict[str, Any]:
    """What stands in state.json, once every file is what was written. Raises Damaged."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        for name, checksum in state["checksums"].items():
            if _checksum(folder / name) != checksum:
                raise Damaged(f"{name} is not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(_reason(error)) from None
    return state


def initial_weights(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and float32 weights of a run, of one of its checkpoints, or of a model's folder in any form.

    Raises UserError when there is nothing to be read.
    """
    found = [path] if (path / _STATE).exists() else folders(path)
    for folder in found:
        try:
            state = read_state(folder)
            base = ModelConfig.from_hf(state["config"])
            config = Stage(**state["stages"][state["position"]["stage"]]).config(base)
            model = Transformer(config)
            _load(folder, {f"model.{name}": tensor for name, tensor in _tensors(model)}, True)
        except Damaged:
            continue
        return config, model.tensors()
    if found:
        raise UserError(f"No checkpoint in {path} is whole; restore one, or name another run.")
    config = ModelConfig.from_folder(path)
    checkpoint = load(path, config)
    values = {name: torch.tensor(checkpoint.weight(name)) for name in weights(config)}
    return dataclasses.replace(config, quantization_config=None), values


def _tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _state_of(model: Transformer, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name of a network and its optimizer, and the optimizer's plain numbers by parameter."""
    tensors = {f"model.{name}": tensor.detach() for name, tensor in _tensors(model)}
    numbers: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    return tensors, numbers


def _make_room(model: Transformer, optimizer: torch.optim.Optimizer, folder: Path, numbers: dict[str, Any]) -> None:
    """Give the optimizer the state that `folder` holds, empty as yet; what has its parameter's shape is sharded so."""
    optimizer.state.clear()
    for key, meta in _Reader(folder).read_metadata().state_dict_metadata.items():
        kind, _, rest = key.partition(".")
        name, _, entry = rest.rpartition(".")
        if kind == "optimizer" and isinstance(meta, TensorStorageMetadata):
            parameter, dtype = model.get_parameter(name), meta.properties.dtype
            whole = meta.size == parameter.shape
            optimizer.state[parameter][entry] = (
                torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
                if whole
                else torch.zeros(meta.size, dtype=dtype)
            )
    for name, values in numbers.items():
        optimizer.state[model.get_parameter(name)].update(values)


def _load(folder: Path, tensors: dict[str, Tensor], alone: bool) -> None:
    """Fill the tensors in place. Raises Damaged."""
    try:
        dcp_load(tensors, storage_reader=_Reader(folder), no_dist=alone)
    except CheckpointException as error:
        raise Damaged(_reason(error)) from None


class _Reader(FileSystemReader):
    """Reads the metadata, which is a pickle, without running what a stranger may have put into it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        try:
            with (Path(self.path) / ".metadata").open("rb") as file:
                metadata = _Unpickler(file).load()
            metadata.storage_meta.load_id = self.load_id
        except Exception as error:
            raise Damaged(_reason(error)) from None
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _KNOWN.get(module)
        plain = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if plain or (found and name in found):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")


_KNOWN = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
}  # fmt: skip


def _same_run(folder: Path, state: dict[str, Any], config: ModelConfig, stages: Sequence[Stage]) -> None:
    """Raises UserError naming what differs of the network, or else of the stages begun."""
    differing = _differences("", asdict(ModelConfig.from_hf(state["config"])), asdict(config))
    for index, saved in enumerate(state["stages"][: state["position"]["stage"] + 1]):
        now = asdict(stages[index]) if index < len(stages) else {"name": None}
        differing = differing or _differences(f"{saved['name']}: ", saved, now)
    if differing:
        raise UserError(
            f"{folder} has {', '.join(differing)}; give the same values to go on with it, or start a new run with "
            f"--init {folder.parent} and another --out."
        )


def _differences(of: str, there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    names = [name for name in there | here if there.get(name) != here.get(name)]
    return [f"{of}{name} {_short(there.get(name))}, not {_short(here.get(name))}" for name in names]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _checksum(file: Path) -> list[int]:
    """Size in bytes and CRC-32."""
    checksum = 0
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return [file.stat().st_size, checksum]


def _sync(folder: Path) -> None:
    """Make a rename in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The last line of an error, which for DCP is the only one that says something."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
