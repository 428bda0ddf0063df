"""Run by test_crash.py in a process of its own, which is killed: `python crash_program.py FOLDER EFFECTS [POINT N]`.

With a POINT it kills itself there, the Nth time that it comes by.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from openk2.agent import log as log_module
from openk2.agent.events import RunStarted
from openk2.agent.log import LOG, Log
from openk2.agent.loop import Loop
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import tool

STEPS = 12
# Before a line of the log, when half of it is written, when all of it is, when it is on the disk; in a tool before and
# after what it does.
POINTS = ("before", "torn", "written", "synced", "tool", "effect")


class Trap:
    def __init__(self, point: str, number: int) -> None:
        self.point, self.left = point, number

    def here(self, point: str) -> bool:
        """Whether this is the moment."""
        if point != self.point:
            return False
        self.left -= 1
        return self.left == 0

    def spring(self, point: str) -> None:
        if self.here(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def set(self) -> None:
        """Into the log's writing."""
        write, sync = log_module._write, os.fsync

        def writing(handle: int, data: bytes) -> None:
            self.spring("before")
            if self.here("torn"):
                os.write(handle, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            write(handle, data)
            self.spring("written")

        def syncing(handle: int) -> None:
            sync(handle)
            self.spring("synced")

        log_module._write, os.fsync = writing, syncing


def main(folder: Path, effects: Path, trap: Trap) -> None:
    trap.set()

    def leave(mark: str) -> None:
        handle = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{mark}\n".encode())
        os.close(handle)

    @tool
    def write(n: int) -> str:
        """Not idempotent: its effect must never happen twice."""
        trap.spring("tool")
        leave(f"write {n}")
        trap.spring("effect")
        time.sleep(0.004)
        return f"written {n}"

    @tool(idempotent=True)
    def look(n: int) -> str:
        """Idempotent: may be repeated when it was in flight, not when it had finished."""
        trap.spring("tool")
        leave(f"look {n}")
        trap.spring("effect")
        time.sleep(0.004)
        return f"seen {n}"

    pairs = [(("write", f'{{"n": {n}}}'), ("look", f'{{"n": {n}}}')) for n in range(STEPS)]
    steps = [call(*pair, reasoning=f"step {n}", first=2 * n) for n, pair in enumerate(pairs)]
    provider = ScriptedProvider([*steps, say("All done.")])
    # A kill may come before the run's first event is on disk: then there is nothing to resume and the run begins anew.
    log = Log.open(folder) if (folder / LOG).exists() else Log.create(folder)
    with log:
        if not log.events:
            log.append(RunStarted(run=folder.name, question="Do it.", system=""))
        print(asyncio.run(Loop(log, provider, {"write": write, "look": look}).run()).answer, flush=True)


if __name__ == "__main__":
    point, number = sys.argv[3:] or ("", "0")
    main(Path(sys.argv[1]), Path(sys.argv[2]), Trap(point, int(number)))
