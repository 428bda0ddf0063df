"""A program that is killed with -9 again and again, and goes on each time."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from openk2.agent.events import Event, ToolFinished, ToolStarted


def kill_and_go_on(
    command: list[str],
    kills: int,
    ready: Callable[[], bool],
    delay: Callable[[], float],
    again: Callable[[], list[str]],
) -> tuple[str, int]:
    """Start `command`, kill it `delay()` seconds after it is `ready`, start `again()` and so on, at most `kills` times.

    Returns what the one that came to its end has printed, and how many were killed before it.
    """
    made = 0
    while True:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if made < kills:
            deadline = time.monotonic() + 60
            while not ready() and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(delay())
            child.send_signal(signal.SIGKILL)
        out, err = child.communicate(timeout=120)
        if child.returncode == 0:
            return out, made
        assert child.returncode == -signal.SIGKILL, err
        made += 1
        command = again()


def check_no_finished_call_ran_again(events: Sequence[Event]) -> None:
    done: set[tuple[int, int]] = set()
    for event in events:
        if isinstance(event, ToolStarted):
            assert (event.reply, event.index) not in done, "a finished call was run again"
        elif isinstance(event, ToolFinished):
            done.add((event.reply, event.index))
