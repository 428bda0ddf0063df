"""Token shards on disk (`chat/shards.py`) as an endless, seeded, resumable stream of documents.

Nothing grows with the data but 16 bytes for every 1,024 documents: shards are memory-mapped, and the order of an epoch
is computed, not stored. At 15T tokens in 15G documents that is 240 MB, where a shuffled list would take 120 GB. What is
read at the start of a run is the documents' lengths, 4 bytes each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openk2.errors import UserError

_ANCHOR = 1024  # texts between two known places in a shard
_AHEAD = 1024  # documents whose places are drawn at once
_CHECKED = 1 << 22  # tokens of each shard whose ids are checked before a run; each batch is checked again


@dataclass(frozen=True)
class Source:
    """A folder of shards, its share of the documents, and the stage it is for (None: each that has none of its own)."""

    folder: Path
    weight: float | None = None
    stage: str | None = None


class Key(NamedTuple):
    """A document of a stream: its folder, its number there, its tokens."""

    folder: int
    number: int
    length: int


@dataclass(frozen=True)
class Document:
    """One training document: ids [n] uint16 or uint32, and mask [n] uint8 (views of the shard)."""

    ids: np.ndarray
    mask: np.ndarray


class Shard:
    """One shard, as documents of at most `longest` tokens. Raises UserError when its files do not fit each other.

    A text, of which every token is learned, is cut into as many documents as it needs; a conversation is not, and is
    left out where it is too long. `anchors` says where every 1,024th text begins: its first token and first document.
    """

    def __init__(self, path: Path, longest: int) -> None:
        self.longest = longest
        self.lengths = _map(path.with_suffix(".idx"), np.int32)
        ids, mask = path.with_suffix(".bin"), path.with_suffix(".mask")
        masks = mask.stat().st_size if mask.exists() else 0
        self.cut = masks == 1
        self.usable, self.usable_tokens = 0, 0
        blocks = [(0, 0)]
        for start in range(0, len(self.lengths), _ANCHOR):
            lengths = self.lengths[start : start + _ANCHOR].astype(np.int64)
            pieces = self._pieces(lengths)
            blocks.append((int(lengths.sum()), int(pieces.sum())))
            last = lengths - (pieces - 1) * longest  # tokens of each text's last piece
            fit = (last > 1) & (last <= longest)
            self.usable += int((pieces - 1).sum()) + int(fit.sum())
            self.usable_tokens += int((lengths - last).sum()) + int(last[fit].sum())
        self.anchors = np.cumsum(blocks, axis=0)  # [blocks + 1, 2]
        tokens, self.size = (int(n) for n in self.anchors[-1])
        width, rest = divmod(ids.stat().st_size, tokens or 1) if ids.exists() else (0, 0)
        if rest or (tokens and (width not in (2, 4) or masks not in (1, tokens))):
            broken = ids if rest or width not in (2, 4) else mask
            raise UserError(f"{broken} does not fit {path.with_suffix('.idx')}; make the shard again.")
        self.ids = _map(ids, np.uint16 if width == 2 else np.uint32)
        self.mask = _map(mask, np.uint8)

    def _pieces(self, lengths: np.ndarray) -> np.ndarray:
        """Documents that texts of `lengths` [n] make -> [n]."""
        return np.maximum(-(-lengths // self.longest), 1) if self.cut else np.ones_like(lengths)

    def places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token and length of the documents `indices` [n] -> [n], [n]."""
        starts, sizes = np.empty(len(indices), np.int64), np.empty(len(indices), np.int64)
        blocks = np.searchsorted(self.anchors[:, 1], indices, "right") - 1
        order = np.argsort(blocks, kind="stable")
        for here in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            block = int(blocks[here[0]])
            lengths = self.lengths[block * _ANCHOR : (block + 1) * _ANCHOR].astype(np.int64)
            token, document = self.anchors[block]
            ends, pieces = token + lengths.cumsum(), document + self._pieces(lengths).cumsum()
            text = np.searchsorted(pieces, indices[here], "right")
            before = pieces[text] - self._pieces(lengths[text])  # documents before the text's own
            starts[here] = ends[text] - lengths[text] + (indices[here] - before) * self.longest
            sizes[here] = np.minimum(ends[text] - starts[here], self.longest if self.cut else lengths[text])
        return starts, sizes

    def document(self, index: int) -> Document:
        (start,), (length,) = self.places(np.array([index]))
        place = slice(int(start), int(start + length))
        return Document(self.ids[place], np.broadcast_to(self.mask, int(length)) if self.cut else self.mask[place])


class Folder:
    """All shards of one folder that exist now, as one list of documents of at most `longest` tokens."""

    def __init__(self, path: Path, longest: int) -> None:
        self.path, self.longest = path, longest
        self.names = sorted(file.with_suffix("") for file in path.glob("*.idx"))
        self.shards = [Shard(name, longest) for name in self.names]
        self.ends = np.cumsum([shard.size for shard in self.shards])
        self.size = int(self.ends[-1]) if self.shards else 0
        if not self.size:
            raise UserError(f"{path} holds no token shards (*.bin, *.mask, *.idx); make the training data first.")
        self.usable = sum(shard.usable for shard in self.shards)
        self.tokens = sum(shard.usable_tokens for shard in self.shards)
        if not self.usable:
            raise UserError(
                f"Every document in {path} is longer than {longest} tokens; raise --context and --batch, or lower "
                "--parts."
            )

    def fits(self, lengths: np.ndarray) -> np.ndarray:
        """Which documents can be learned from: of two tokens or more, and not too long."""
        return (lengths > 1) & (lengths <= self.longest)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of the documents `indices` [n] -> [n]."""
        shards = np.searchsorted(self.ends, indices, "right")
        found = np.empty(len(indices), np.int64)
        for number in np.unique(shards):
            here, shard = shards == number, self.shards[number]
            found[here] = shard.places(indices[here] - (self.ends[number] - shard.size))[1]
        return found

    def document(self, index: int) -> Document:
        number, place = self._place(index)
        return self.shards[number].document(place)

    def name(self, index: int) -> str:
        """Where a document lies, for a person."""
        number, place = self._place(index)
        return f"{self.names[number]}[{place}]"

    def _place(self, index: int) -> tuple[int, int]:
        """Its shard, and its number there."""
        number = int(np.searchsorted(self.ends, index, "right"))
        return number, index - (int(self.ends[number]) - self.shards[number].size)


class Stream:
    """Documents of several folders, each shuffled anew every epoch by the seed, mixed by weight.

    The next document comes from the folder that is furthest behind its share: no random state, so that a position is
    only how far each folder is. Without weights, folders are mixed by their numbers of documents.
    """

    def __init__(self, data: Sequence[Source], stage: str, seed: int, longest: int) -> None:
        sources = [s for s in data if s.stage == stage] or [s for s in data if s.stage is None]
        if not sources:
            raise UserError(f"The stage {stage} has no data; give a folder for it or one for all stages.")
        self.folders = [Folder(source.folder, longest) for source in sources]
        explicit = any(source.weight is not None for source in sources)
        self.weights = [
            (1.0 if source.weight is None else source.weight) if explicit else float(folder.usable)
            for source, folder in zip(sources, self.folders, strict=True)
        ]
        if min(self.weights) <= 0:
            raise UserError("The weight of a --data folder must be positive.")
        self.seed = seed
        self.taken = [0] * len(self.folders)  # documents given out
        self.passed = [0] * len(self.folders)  # places of the shuffled order passed: taken or left out
        self._ahead: list[deque[tuple[int, int, int]]] = [deque() for _ in self.folders]

    @property
    def tokens(self) -> int:
        return sum(folder.tokens for folder in self.folders)

    @property
    def skipped(self) -> int:
        """Documents that are left out: conversations that are too long, and single tokens."""
        return sum(folder.size - folder.usable for folder in self.folders)

    def next(self) -> Key:
        f = min(range(len(self.folders)), key=lambda i: (self.taken[i] + 1) / self.weights[i])
        if not self._ahead[f]:
            self._draw(f)
        place, index, length = self._ahead[f].popleft()
        self.passed[f] = place + 1
        self.taken[f] += 1
        return Key(f, index, length)

    def _draw(self, f: int) -> None:
        """Look up the next documents of folder `f` in the order of its epoch."""
        folder, start = self.folders[f], self.passed[f]
        while not self._ahead[f]:
            epoch, at = divmod(start, folder.size)
            places = np.arange(at, min(at + _AHEAD, folder.size))
            indices = shuffled(places, folder.size, (self.seed, f, epoch))
            lengths = folder.lengths(indices)
            keep = folder.fits(lengths)
            rows = (places[keep] + epoch * folder.size, indices[keep], lengths[keep])
            self._ahead[f].extend(zip(*(row.tolist() for row in rows), strict=True))
            start += len(places)

    def largest_id(self) -> int:
        """The largest token id at the start of each shard, which the vocabulary must hold."""
        shards = [shard for folder in self.folders for shard in folder.shards if len(shard.ids)]
        return max(int(shard.ids[:_CHECKED].max()) for shard in shards)

    def document(self, key: Key) -> Document:
        return self.folders[key.folder].document(key.number)

    def name(self, key: Key) -> str:
        return self.folders[key.folder].name(key.number)

    def epochs(self) -> float:
        """Passes made over the data, averaged over the documents."""
        return sum(self.passed) / sum(folder.size for folder in self.folders)

    def state(self) -> dict[str, Any]:
        sizes = [folder.size for folder in self.folders]
        return {"taken": [*self.taken], "passed": [*self.passed], "sizes": sizes, "seed": self.seed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UserError when the data is not what it was."""
        if any(state[name] != self.state()[name] for name in ("sizes", "seed")):
            raise UserError(
                "The training data or seed changed since the checkpoint, so the run cannot go on exactly; restore "
                "them, or start a new run with --init and another --out."
            )
        self.taken, self.passed = [*state["taken"]], [*state["passed"]]
        self._ahead = [deque() for _ in self.folders]


def shuffled(places: np.ndarray, size: int, key: tuple[int, int, int]) -> np.ndarray:
    """What stands at `places` [n] of the permutation of 0..size-1 that `key` names -> [n] int64.

    A Feistel network of four rounds over the next even number of bits, walked until the value is below `size` (Black
    and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). No table: any place of any order in constant memory.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    rounds = np.random.SeedSequence(key).generate_state(4, np.uint64)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & low
        for round_key in rounds:
            left, right = right, left ^ (_mixed(right ^ round_key) & low)
        values[outside] = left << half | right
        outside = values >= size
    return values.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _map(file: Path, dtype: type[np.generic]) -> np.ndarray:
    """A file as an array; an empty one cannot be mapped."""
    return np.memmap(file, dtype, "r") if file.exists() and file.stat().st_size else np.empty(0, dtype)
