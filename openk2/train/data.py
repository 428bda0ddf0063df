"""Token shards on disk, and an endless, seeded, resumable stream of documents from them.

A shard is three flat files: NAME.bin (uint16 token ids), NAME.mask (uint8, 1 where the model is to learn the token),
NAME.idx (int32 document lengths). They are memory-mapped; a run uses the shards that exist when it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.errors import UserError


@dataclass(frozen=True)
class Source:
    """A folder of shards, its share of the documents, and the stage it is for (None: each that has none of its own)."""

    folder: Path
    weight: float | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Document:
    """One training document: ids [n] uint16 and mask [n] uint8 (views of the shard)."""

    ids: np.ndarray
    mask: np.ndarray


class Folder:
    """All shards of one folder, as a list of documents no longer than `longest`. `skipped` counts the longer ones."""

    def __init__(self, path: Path, longest: int) -> None:
        self.path = path
        names = sorted(file.with_suffix("") for file in path.glob("*.idx"))
        self.ids: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []
        table = []
        for name in names:
            lengths = np.fromfile(name.with_suffix(".idx"), np.int32).astype(np.int64)
            total = int(lengths.sum())
            for suffix, width in ((".bin", 2), (".mask", 1)):
                file = name.with_suffix(suffix)
                if not file.exists() or file.stat().st_size != total * width:
                    raise UserError(f"{file} does not fit {name.with_suffix('.idx')}; make the shard again.")
            if not total:
                continue
            self.ids.append(np.memmap(name.with_suffix(".bin"), np.uint16, "r"))
            self.masks.append(np.memmap(name.with_suffix(".mask"), np.uint8, "r"))
            starts = np.cumsum(lengths) - lengths
            table.append(np.stack((np.full_like(lengths, len(self.ids) - 1), starts, lengths), 1))
        if not table:
            raise UserError(f"{path} holds no token shards (*.bin, *.mask, *.idx); make the training data first.")
        rows = np.concatenate(table)
        keep = (rows[:, 2] <= longest) & (rows[:, 2] > 1)
        self.skipped = int((~keep).sum())
        self.table = rows[keep]
        if not len(self.table):
            raise UserError(f"Every document in {path} is longer than the batch of {longest} tokens; raise --batch.")
        self.tokens = int(self.table[:, 2].sum())

    def document(self, index: int) -> Document:
        shard, start, length = self.table[index]
        return Document(self.ids[shard][start : start + length], self.masks[shard][start : start + length])


class Stream:
    """Documents of several folders, each shuffled anew every epoch by the seed, mixed by weight.

    The next document comes from the folder that is furthest behind its share: no random state, so that a position is
    only the number drawn from each folder. Without weights, folders are mixed by their numbers of documents.
    """

    def __init__(self, data: Sequence[Source], stage: str, seed: int, longest: int) -> None:
        sources = [s for s in data if s.stage == stage] or [s for s in data if s.stage is None]
        if not sources:
            raise UserError(f"The stage {stage} has no data; give a folder for it or one for all stages.")
        self.folders = [Folder(source.folder, longest) for source in sources]
        explicit = any(source.weight is not None for source in sources)
        self.weights = [
            (1.0 if source.weight is None else source.weight) if explicit else float(len(folder.table))
            for source, folder in zip(sources, self.folders, strict=True)
        ]
        if min(self.weights) <= 0:
            raise UserError("The weight of a --data folder must be positive.")
        self.seed = seed
        self.drawn = [0] * len(self.folders)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def tokens(self) -> int:
        return sum(folder.tokens for folder in self.folders)

    @property
    def skipped(self) -> int:
        return sum(folder.skipped for folder in self.folders)

    def next(self) -> tuple[int, int]:
        """(folder, document index) of the next document."""
        f = min(range(len(self.folders)), key=lambda i: (self.drawn[i] + 1) / self.weights[i])
        size = len(self.folders[f].table)
        epoch, at = divmod(self.drawn[f], size)
        if self._orders.get(f, (-1,))[0] != epoch:
            self._orders[f] = (epoch, np.random.default_rng((self.seed, f, epoch)).permutation(size))
        self.drawn[f] += 1
        return f, int(self._orders[f][1][at])

    def largest_id(self) -> int:
        """The largest token id of all shards, which the vocabulary must hold."""
        return max(int(ids.max()) for folder in self.folders for ids in folder.ids)

    def length(self, key: tuple[int, int]) -> int:
        return int(self.folders[key[0]].table[key[1], 2])

    def document(self, key: tuple[int, int]) -> Document:
        return self.folders[key[0]].document(key[1])

    def epochs(self) -> float:
        """Passes made over the data, averaged over the documents drawn."""
        return sum(self.drawn) / sum(len(folder.table) for folder in self.folders)

    def state(self) -> dict[str, Any]:
        return {"drawn": list(self.drawn), "sizes": [len(f.table) for f in self.folders], "seed": self.seed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UserError when the data is not what it was."""
        if state["sizes"] != self.state()["sizes"] or state["seed"] != self.seed:
            raise UserError(
                "The training data or seed changed since the checkpoint, so the run cannot go on exactly; restore "
                "them, or start a new run with --init and another --out."
            )
        self.drawn = list(state["drawn"])
