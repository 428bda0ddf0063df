"""Several threads, each with its own part of a step's batch and one core: data parallelism inside a process.

Splitting every product over all cores makes them wait for each other thousands of times a step; here they meet once.
Gradients are added in the order of the parts, so that a run's losses depend on the number of parts and on nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

import torch

from openk2.model.attention import Packing
from openk2.model.transformer import Transformer
from openk2.train.packing import Batch

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Workers:
    """`count` threads that share torch's threads evenly; with one, the calling thread has them all."""

    def __init__(self, count: int) -> None:
        self.executor: Executor | None = None
        if count > 1:
            share = max(1, torch.get_num_threads() // count)
            self.executor = ThreadPoolExecutor(count, "part", initializer=torch.set_num_threads, initargs=(share,))

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
        """Apply `function` to the items on the threads; results in order."""
        return list((self.executor.map if self.executor else map)(function, items))

    def gradients(self, model: Transformer, batches: Sequence[Batch], own: int) -> tuple[float, float]:
        """Set the gradient of the loss summed over the `batches`' own tokens and divided by `own`.

        own: how many tokens are learned in the whole step, so that all ranks' results add up to the mean. Returns that
        loss, and the balance loss, which has its part in the gradient but not in the former.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]

        def part(batch: Batch) -> tuple[float, float, Sequence[torch.Tensor | None]]:
            if not len(batch.rows):
                return 0.0, 0.0, [None] * len(parameters)
            packing, weight = Packing(batch.lengths, batch.ids.device), len(batch.rows) / own
            loss = model.loss(batch.ids, packing, batch.rows) * weight
            balance = packing.balance.value.item() * weight if packing.balance else 0.0
            return loss.item() - balance, balance, torch.autograd.grad(loss, parameters, allow_unused=True)

        total, balances = 0.0, 0.0
        for loss, balance, gradients in self.map(part, batches):
            total, balances = total + loss, balances + balance
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return total, balances


def tune_allocator() -> None:
    """Keep freed memory instead of giving it back: a step frees and takes the same gigabyte again and again."""
    use_onednn(True)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-8, 1)  # M_ARENA_MAX: the arenas of further threads would still give memory back
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def give_back_memory() -> None:
    """What was freed goes back to the system after all, for other processes."""
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def use_onednn(on: bool) -> None:
    """Whether oneDNN multiplies float32 matrices (the logits), not MKL: on AMD it takes less than half the time.

    It sums in float32; the factors are rounded to bf16 only where the processor has a unit for that (AMX).
    """
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if on else "none"  # pyright: ignore[reportAttributeAccessIssue]
