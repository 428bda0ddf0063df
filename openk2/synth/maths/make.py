"""Word problems by the thousand; the program and the numbers of problem n follow from the seed and n alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from openk2.synth import shards
from openk2.synth.maths.lift import load
from openk2.synth.maths.problems import gsm8k_programs, mawps_programs, problem, record
from openk2.synth.maths.program import Program, trained_on
from openk2.synth.trajectory import Record


@dataclass(frozen=True)
class Order(shards.Order):
    """Problems of the programs that are for training. Raises UserError for source files missing or damaged."""

    data: str  # folder
    count: int
    seed: int
    size: int = 1000  # of a shard

    def about(self) -> dict[str, Any]:
        """How many problems the sources have, how many are lifted, may have other numbers, and are for training."""
        return {"problems": _programs(self.data)[1]}

    def sources(self) -> dict[str, str]:
        return {"gsm8k_train.jsonl": "MIT", "mawps.jsonl.gz": "MIT"}

    def records(self, numbers: range, dropped: Counter[str]) -> Iterator[Record]:
        programs = _programs(self.data)[0]
        yield from ({"n": number} | record(problem(programs, self.seed, number)) for number in numbers)


@lru_cache(maxsize=1)
def _programs(data: str) -> tuple[list[Program], dict[str, int]]:
    """Those for training, and the counts."""
    rows = [program for _, program in load(Path(data) / "gsm8k_train.jsonl")]
    gsm8k, mawps = gsm8k_programs(Path(data), rows), mawps_programs(Path(data))
    training = [program for program in [*gsm8k, *mawps] if trained_on(program)]
    return training, {
        "gsm8k": len(rows), "gsm8k_lifted": sum(isinstance(row, Program) for row in rows),
        "gsm8k_other_numbers": len(gsm8k), "mawps_other_numbers": len(mawps), "for_training": len(training),
    }  # fmt: skip
