"""Run by test_heavy_crash.py in a process of its own, which is killed: `... FOLDER EFFECTS ample|tight`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from heavy_scripts import Scripts, begin, started  # type: ignore[import-not-found]

from openk2.agent.budget import Budget
from openk2.agent.heavy import Heavy
from openk2.agent.log import LOG, Log
from openk2.chat.messages import Message
from openk2.providers.scripted import call, say
from openk2.tools.base import Tool, tool

STEPS = 4
LIMIT = 30  # steps of the tight budget, of which the paths want more
BUDGETS = {"ample": Budget(steps=100), "tight": Budget(steps=LIMIT)}


def main(folder: Path, effects: Path, kind: str) -> None:
    def tools(log: Log) -> Mapping[str, Tool]:
        run = log.started.run

        def leave(mark: str) -> None:
            handle = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(handle, f"{run} {mark}\n".encode())
            os.close(handle)

        @tool
        def write(n: int) -> str:
            """Not idempotent: its effect must never happen twice."""
            leave(f"write {n}")
            return f"written {n}"

        @tool(idempotent=True)
        def look(n: int) -> str:
            """Idempotent: may be repeated when it was in flight."""
            leave(f"look {n}")
            return f"[notes:{n}] seen {n}"

        return {"write": write, "look": look}

    if kind == "ample":
        steps = [call(("write", f'{{"n": {n}}}'), ("look", f'{{"n": {n}}}'), first=2 * n) for n in range(STEPS)]
        paths = {n: [*steps, say(f"It was {1930 + n % 2}.")] for n in range(1, 9)}
        merge = [call(("search_paths", '{"query": "seen"}')), call(("get_solution", '{"path": 1}'), first=1)]
        provider = Scripts(paths, [*merge, say("It was 1931.")], seconds=lambda number: 0.002 * number)
    else:

        def step(messages: Sequence[Message]) -> Message:
            """A call, until the budget ends and the answer is asked for."""
            n = sum(message.role == "assistant" for message in messages)
            asked = messages[-1].role == "user" and n
            return say("It was 1931.") if asked else call(("look", f'{{"n": {n}}}'), first=n)

        provider = Scripts(dict.fromkeys(range(1, 9), [step] * 99), seconds=lambda number: 0.002 * number)
    merge = "agent" if kind == "ample" else "vote"
    if (folder / LOG).exists():
        log = Log.open(folder)
        if not log.events:
            log.append(started(folder.name, merge=merge, budget=BUDGETS[kind]))
    else:
        log = begin(folder, merge=merge, budget=BUDGETS[kind])
    with log:
        print(asyncio.run(Heavy(log, provider, tools).run()).answer, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
