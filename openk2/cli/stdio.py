"""Servers on standard input and output: how they end when a person, or the client, says so."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def end_on_signals(told: Callable[[], str] = str) -> None:
    """Let Ctrl-C and SIGTERM end the process at once, after the sentence that `told` gives.

    A thread waits for standard input and cannot be woken: an orderly end would wait for the next line. Nothing is lost:
    runs are logs on disk, written before anything depends on them.
    """

    def interrupted(number: int, _: Any) -> None:
        if last := told():
            print(last, file=sys.stderr, flush=True)
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
