"""What was computed for texts, kept in a file over a restart: ids, blocks and which model they belong to.

A safetensors file: `about` (JSON as bytes) lists the nodes of the prefix tree, parents first, with a checksum each;
`check` is its own; `block.N` holds the filled positions of node N, float32 [layers, positions, width].
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.engine.cache import BLOCK
from openk2.engine.prefix import Node
from openk2.engine.scheduler import Scheduler
from openk2.engine.weights import Layer, Matrix, Weights
from openk2.errors import UserError
from openk2.model import safetensors
from openk2.model.config import ModelConfig
from openk2.model.safetensors import Stored

FORMAT = 1
_SAMPLE = 4096  # bytes of each end of a weight that tell models apart


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model a cache belongs to: its name, for people, and a fingerprint of its config and weights."""

    name: str
    fingerprint: str

    @classmethod
    def of(cls, name: str, config: ModelConfig, weights: Weights) -> Identity:
        """Reads both ends of the weights outside the experts and of each layer's first and last expert."""
        digest = hashlib.sha256(json.dumps(config.to_hf(), sort_keys=True, default=str).encode())
        for array in _arrays(weights):
            flat = array.reshape(-1)
            count = max(1, _SAMPLE // array.itemsize)
            digest.update(f"{array.dtype} {array.shape}".encode())
            for part in (flat[:count], flat[-count:]):
                digest.update(np.ascontiguousarray(part).tobytes())
        return cls(name, digest.hexdigest())


def save(path: Path, scheduler: Scheduler, identity: Identity, texts: Sequence[Sequence[int]]) -> int:
    """Write the blocks of these texts, or every block without any. Returns the positions written."""
    tree, memory = scheduler.tree, scheduler.memory
    with scheduler.lock:
        nodes = list(tree.nodes())
        if texts:
            wanted: set[int] = set()
            for ids in texts:
                match = tree.find(ids, len(ids))
                wanted |= {id(node) for node in (*match.path, *([match.partial] if match.partial else []))}
            nodes = [node for node in nodes if id(node) in wanted]
        tree.take(nodes)
    try:
        place = {id(node): i for i, node in enumerate(nodes)}
        tensors, listed = {}, []
        for i, node in enumerate(nodes):
            values = np.ascontiguousarray(memory.to_host(node.block)[:, : len(node.ids)], np.float32)
            tensors[f"block.{i}"] = Stored.of(values)
            parent = place[id(node.parent)] if node.parent else -1
            listed.append({"parent": parent, "ids": list(node.ids), "crc": zlib.crc32(values.data)})
        about = {"format": FORMAT, "model": identity.name, "fingerprint": identity.fingerprint, "nodes": listed,
                 "texts": [list(ids) for ids in texts]}  # fmt: skip
        text = json.dumps(about).encode()
        tensors["about"] = Stored.of(np.frombuffer(text, np.uint8))
        tensors["check"] = Stored.of(np.array([zlib.crc32(text)], np.uint32))
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.write(path, tensors)
    except OSError as error:
        raise UserError(f"The session file {path} could not be written ({error}); check space and rights.") from None
    finally:
        with scheduler.lock:
            tree.release(nodes)
    return sum(len(node.ids) for node in nodes)


def restore(path: Path, scheduler: Scheduler, identity: Identity) -> list[list[int]]:
    """Put the blocks of a file into the tree, as far as memory is allowed; return the texts it was written for."""
    entries = _entries(path)
    with _damage(path), path.open("rb") as file:
        text = safetensors.read_rows(entries["about"], file).bits.tobytes()
        if zlib.crc32(text) != int(safetensors.read_rows(entries["check"], file).bits[0]):
            raise ValueError("the checksum of its list of nodes")
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise UserError(f"{path} is of another version of openk2 (format {about['format']}); read it again.")
        if about["fingerprint"] != identity.fingerprint:
            raise UserError(
                f"{path} was written by the model {about['model']!r} and this is {identity.name!r}, whose weights "
                "are others; load it with the model it belongs to."
            )
        read = []  # all of it, before the tree is touched
        shape = scheduler.block_shape
        for i, node in enumerate(about["nodes"]):
            ids, parent = tuple(map(int, node["ids"])), int(node["parent"])
            values = safetensors.read_rows(entries[f"block.{i}"], file).bits
            if not 0 < len(ids) <= BLOCK or not -1 <= parent < i or values.dtype != np.float32:
                raise ValueError(f"node {i}")
            if values.shape != (shape[0], len(ids), shape[2]) or (parent >= 0 and len(read[parent][1]) < BLOCK):
                raise ValueError(f"the shape of node {i}")
            if zlib.crc32(values.data) != node["crc"]:
                raise ValueError(f"the checksum of node {i}")
            read.append((parent, ids, values))
        texts = [list(map(int, ids)) for ids in about["texts"]]
    _plant(scheduler, read)
    return texts


def _plant(scheduler: Scheduler, read: list[tuple[int, tuple[int, ...], np.ndarray]]) -> None:
    tree, memory = scheduler.tree, scheduler.memory
    with scheduler.lock:
        planted: dict[int, Node] = {}
        for i, (parent, ids, values) in enumerate(read):
            if (parent >= 0 and parent not in planted) or not scheduler.room():
                continue
            whole = np.zeros(scheduler.block_shape, np.float32)
            whole[:, : len(ids)] = values
            block, above = memory.from_host(whole), planted.get(parent)
            if len(ids) == BLOCK:
                planted[i] = tree.add(above, ids, block)
            else:
                tree.add_tail(above, ids, block)
        tree.release(list(planted.values()))


def _entries(path: Path) -> dict[str, safetensors.Entry]:
    if not path.is_file():
        raise UserError(f"There is no session file {path}.")
    try:
        return {entry.name: entry for entry in safetensors.read_header(path)}
    except UserError:
        raise UserError(f"The session file {path} is damaged or cut short; the text has to be read again.") from None


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file causes into one sentence."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"The session file {path} is damaged ({error}); the text has to be read again.") from None


def _arrays(weights: Weights) -> Iterator[np.ndarray]:
    def of(value: Any) -> Iterator[np.ndarray]:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, Matrix):
            yield value.bits
            yield from of(value.scale)
        elif isinstance(value, tuple):
            for part in value:
                yield from of(part)
        elif isinstance(value, Layer):
            for name in Layer.__dataclass_fields__:
                if name != "experts":
                    yield from of(getattr(value, name))
            yield from of(tuple(value.experts[:1] + value.experts[-1:]))

    yield from of((weights.embedding, weights.norm, weights.head, *weights.layers))
