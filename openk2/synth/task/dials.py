"""How hard tasks are: what can be turned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dials:
    """Spans are (from, to). `goals`: wishes of a user. `depth`: calls that one may need before it.

    `tools`: tools that an agent sees at least. `crowd`: records of a wish that is for each of some: the length of a
    dialogue comes from it (a call a record), as from the goals. `beside`: other services whose tools the agent has.
    Chances: `private`, that a value is kept back until asked; `impossible`, `ask`, `each`, that a wish must be refused,
    is a question, is for each of some records; `corrected`, that a user says something wrong first.
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


ALONE = Dials(private=0.0, corrected=0.0, impossible=0.0, ask=0.0)  # what an agent can do whose user says nothing more
