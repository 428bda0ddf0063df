"""What the loop does of itself, beside asking and calling. A checkpoint that was trained without them has few."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

SPILL = 12_000  # characters of an output that the model sees at once; the rest opens by its handle


@dataclass(frozen=True, slots=True)
class Habits:
    """`steer`: the model understands messages that the loop writes (nudges, checks, notes, a last call for the answer).
    Without it each question of a chat is read alone.

    `revisions`: how often an answer may be sent back. `doubt`: the model is asked what would disprove its answer.
    `spill`: characters of one output that are shown at once.
    """

    steer: bool = True
    revisions: int = 0
    doubt: bool = False
    spill: int = SPILL

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Habits:
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})
