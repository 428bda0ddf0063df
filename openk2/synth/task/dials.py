"""How hard tasks are: what can be turned."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from openk2.errors import UserError

LONGEST = 12  # times as long


@dataclass(frozen=True)
class Dials:
    """Spans are (from, to). `goals`: wishes of a user. `depth`: calls that one may need before it.

    `tools`: tools that an agent sees at least. `crowd`: records of a wish that is for each of some: the length of a
    dialogue comes from it (a call a record), as from the goals. `beside`: other services whose tools the agent has.
    Chances: `private`, that a value is kept back until asked; `impossible`, `ask`, `each`, that a wish must be refused,
    is a question, is for each of some records; `corrected`, that a user says something wrong first; `faults`, that a
    service is busy when it is called; `long`, that a task is several times as long as the spans say.
    """

    goals: tuple[int, int] = (1, 3)
    depth: int = 2
    tools: int = 12
    crowd: tuple[int, int] = (2, 5)
    beside: tuple[int, int] = (0, 0)
    private: float = 0.15
    impossible: float = 0.08
    ask: float = 0.12
    each: float = 0.08
    corrected: float = 0.08
    faults: float = 0.08
    long: float = 0.01

    def stretched(self, rng: random.Random) -> Dials:
        """For one task: with a small chance, with several times as many goals, and records to each."""
        if rng.random() >= self.long:
            return self
        times = rng.randint(2, LONGEST)
        (least, most), (few, many) = self.goals, self.crowd
        return replace(self, goals=(least * times, most * times), crowd=(few, many * times))

    def turned(self, settings: Iterable[str]) -> Dials:
        """With `NAME=VALUE` settings: a number, or FROM,TO for a span. Raises UserError for what is no dial's value."""
        dials = self
        for setting in settings:
            name, _, text = setting.partition("=")
            try:
                value = _read(name, text, asdict(self)[name])
            except (KeyError, ValueError):
                raise UserError(f"--dial {setting!r} is no dial; write for example {self.told()}.") from None
            dials = replace(dials, **{name: value})
        return dials

    def told(self) -> str:
        """All dials as settings."""
        values = asdict(self).items()
        return " ".join(f"{n}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for n, v in values)


def _read(name: str, text: str, like: object) -> tuple[int, int] | int | float:
    if not isinstance(like, tuple):
        value = int(text) if isinstance(like, int) else float(text)
        if value >= 0 and (isinstance(like, int) or value <= 1):
            return value
        raise ValueError(value)
    low, _, high = text.partition(",")
    span = int(low), int(high or low)
    if not (0 if name == "beside" else 1) <= span[0] <= span[1]:
        raise ValueError(span)
    return span


ALONE = Dials(private=0.0, corrected=0.0, impossible=0.0, ask=0.0)  # what an agent can do whose user says nothing more
