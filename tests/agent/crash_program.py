"""Run by test_crash.py in a process of its own, which is killed: `python crash_program.py FOLDER EFFECTS`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from openk2.agent.events import RunStarted
from openk2.agent.log import LOG, Log
from openk2.agent.loop import Loop
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import tool

STEPS = 12


def main(folder: Path, effects: Path) -> None:
    def leave(mark: str) -> None:
        handle = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{mark}\n".encode())
        os.close(handle)

    @tool
    def write(n: int) -> str:
        """Not idempotent: its effect must never happen twice."""
        leave(f"write {n}")
        time.sleep(0.004)
        return f"written {n}"

    @tool(idempotent=True)
    def look(n: int) -> str:
        """Idempotent: may be repeated when it was in flight, not when it had finished."""
        leave(f"look {n}")
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
    main(Path(sys.argv[1]), Path(sys.argv[2]))
