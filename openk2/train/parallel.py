"""Who takes part in a training run: one process, or one of many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among `size` that train one network. Alone, every collective is the identity."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> World:
        return cls(device=torch.device(device))

    @property
    def is_main(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The largest over all processes, element by element, in place."""
        return tensor

    def barrier(self) -> None:
        """Wait for all."""
