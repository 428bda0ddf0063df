"""The experts as an INT4 export stores them, for the forward and backward passes of a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from openk2.model.moe import Experts
from openk2.optim.distributed import local
from openk2.quant.int4 import fake_quantize


@contextlib.contextmanager
def rounded(experts: Iterable[Experts], each: Callable[..., Iterable[Any]] = map) -> Iterator[None]:
    """Within it the stacks hold the numbers that an INT4 export would store; after it they hold their own again.

    A gradient taken within is added to the masters after it: straight-through. Each rank rounds what lies with
    it of a stack. `each` is `map`, or several threads' version of it.
    """
    stacks = [local(p) for e in experts for p in e.parameters(recurse=False)]
    stacks = [stack.detach() for stack in stacks if stack.numel()]  # a rank may hold no rows of a small stack
    masters = [stack.clone() for stack in stacks]

    def swap(stack: Tensor) -> None:
        stack.copy_(fake_quantize(stack))

    list(each(swap, stacks))
    try:
        yield
    finally:
        for stack, master in zip(stacks, masters, strict=True):
            stack.copy_(master)
