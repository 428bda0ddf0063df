"""Word problems by the thousand; the program and the numbers of problem n follow from the seed and n alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from openk2.synth import shards
from openk2.synth.maths.lift import Program, load
from openk2.synth.maths.problems import problem, record, trained_on
from openk2.synth.trajectory import Record


@dataclass(frozen=True)
class Order(shards.Order):
    """Problems of the programs that are for training. Raises UserError for source files missing or damaged."""

    data: str  # folder
    count: int
    seed: int
    size: int = 1000  # of a shard

    def about(self) -> dict[str, Any]:
        programs, read = _programs(self.data)
        return {"problems_read": read, "lifted": len(programs), "for_training": len(_training(self.data))}

    def sources(self) -> dict[str, str]:
        return {"gsm8k_train.jsonl": "MIT"}

    def records(self, numbers: range, dropped: Counter[str]) -> Iterator[Record]:
        programs = _training(self.data)
        yield from ({"n": number} | record(problem(programs, self.seed, number)) for number in numbers)


@lru_cache(maxsize=1)
def _programs(data: str) -> tuple[list[Program], int]:
    found = [program for _, program in load(Path(data) / "gsm8k_train.jsonl")]
    return [program for program in found if isinstance(program, Program)], len(found)


@lru_cache(maxsize=1)
def _training(data: str) -> list[Program]:
    return [program for program in _programs(data)[0] if trained_on(program)]
