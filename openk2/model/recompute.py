"""Activation checkpointing: a block keeps only its input and is computed a second time in the backward pass."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

_second = threading.local()


def recomputing() -> bool:
    """Whether this is the second computation of something: what is counted in a forward pass is counted already."""
    return getattr(_second, "active", False)


@contextlib.contextmanager
def _mark() -> Iterator[None]:
    _second.active = True
    try:
        yield
    finally:
        _second.active = False


def recompute(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """function(*args), whose intermediate values are made again when its gradient is wanted."""
    contexts = lambda: (contextlib.nullcontext(), _mark())  # noqa: E731
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)  # type: ignore[return-value]
