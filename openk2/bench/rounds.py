"""Interleaved rounds: A, B, C, A, B, C, ... so that whatever slows a machine for a while slows all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openk2.errors import UserError


class Failed(UserError):
    """A measurement that cannot go on; the message says why."""


def interleave(
    measures: Mapping[str, Callable[[], float]],
    rounds: int,
    failed: Callable[[str, Failed], None],
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, list[float]]:
    """Call each measure once a round; returns the figures of each.

    One that raises Failed is told to `failed` and takes no further part, its figures are dropped.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(found):
            progress(f"round {number + 1} of {rounds}, {name}")
            try:
                found[name].append(measures[name]())
            except Failed as error:
                del found[name]
                failed(name, error)
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median with what it comes from: {"median", "min", "max", "rounds": [...]}."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}
