"""Stops a run that goes wrong, and says where: a loss that is no number, or one that jumps."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from openk2.model.attention import Packing
from openk2.model.transformer import Transformer
from openk2.optim.distributed import local
from openk2.train.packing import Batch
from openk2.train.parallel import World, drop_gathered

WINDOW = 200  # steps whose losses a spike is judged by
_LEAST = 50  # steps before anything is judged
LASTING = 3  # steps in a row that must be high: one hard batch is no spike


class Spikes:
    """Judges each loss by those of the 200 steps before it."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = deque(losses, WINDOW + LASTING)

    def add(self, loss: float, limit: float) -> float | None:
        """Take in a step's loss; returns the usual loss when this one ends a spike of three steps, else None.

        High is what lies above the median of the 200 steps before by more than `limit` times their deviation (the half
        of losses nearest to the median lie within 0.67 of it; at least 1% of the median). 0: nothing is high.
        """
        self.losses.append(loss)
        before, last = list(self.losses)[:-LASTING], list(self.losses)[-LASTING:]
        if not limit or len(before) < _LEAST:
            return None
        median = statistics.median(before)
        deviation = max(1.4826 * statistics.median(abs(x - median) for x in before), 0.01 * median)
        return median if min(last) > median + limit * deviation else None


def explain(
    model: Transformer, batches: Sequence[Batch], names: Sequence[str], file: Path, row: dict[str, Any], world: World
) -> str:
    """Find what is first not finite in a step whose loss or gradient is not, and write all that is known to `file`.

    row: where it was (step, stage, loss, grad_norm); names: of the documents in the batches.
    """
    parameters = list(model.named_parameters())
    bad = [[p.grad is not None and not _finite(local(p.grad)), not _finite(local(p))] for _, p in parameters]
    bad = world.max(torch.tensor(bad, dtype=torch.int32)).tolist()
    gradients = [name for (name, _), (gradient, _) in zip(parameters, bad, strict=True) if gradient]
    broken = [name for (name, _), (_, weight) in zip(parameters, bad, strict=True) if weight]
    last = len(model.model.layers)
    layer = None if broken else first_layer(model, batches)
    layer = last - int(world.max(torch.tensor(last - (last if layer is None else layer))))  # of all ranks
    if broken:
        first = f"the weights {broken[0]}"
    elif layer < last:
        first = f"the output of layer {layer}"
    else:
        first = f"the gradient of {gradients[-1]}" if gradients else "the loss"
    names = [name for own in world.gather(list(names)) for name in own]
    known = row | {"first": first, "weights": broken, "gradients": gradients, "documents": names}
    known = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in known.items()}
    if world.is_main:
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return first


@torch.no_grad()
def first_layer(model: Transformer, batches: Sequence[Batch]) -> int | None:
    """The first layer whose output is not finite on any of the batches."""
    found: list[int] = []

    def look(number: int) -> Any:
        return lambda module, args, output: None if _finite(output) else found.append(number)

    hooks = [block.register_forward_hook(look(i)) for i, block in enumerate(model.model.layers)]
    try:
        for batch in batches:
            model.hidden(batch.ids, Packing(batch.lengths, batch.ids.device))
    finally:
        for hook in hooks:
            hook.remove()
    drop_gathered(model)
    return min(found, default=None)


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
