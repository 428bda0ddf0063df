"""Warm-up, stable, cosine decay (WSD): the learning rate as a fraction of its peak, from the fraction of work done."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WSD:
    """Linear warm-up over the first `warmup` of the work, constant, then a cosine to `floor` over the last `decay`.

    Kimi K2 (arXiv 2507.20534 §2.5): constant for 10T tokens, cosine to a tenth over 5.5T. Progress is counted in
    tokens or seconds by the caller, so that batches of uneven size and wall-clock budgets use the same curve.
    """

    warmup: float = 0.02
    decay: float = 0.25
    floor: float = 0.1

    def __post_init__(self) -> None:
        if min(self.warmup, self.decay, self.floor) < 0 or self.warmup + self.decay > 1 or self.floor > 1:
            raise ValueError(f"warm-up {self.warmup} and decay {self.decay} must be fractions that fit into 1")

    def at(self, progress: float) -> float:
        """Fraction of the peak rate at `progress` in [0, 1] (values outside are clipped)."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return progress / self.warmup
        start = 1 - self.decay
        if progress <= start:
            return 1.0
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * (progress - start) / self.decay))
