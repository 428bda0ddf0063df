"""Work on a run until its answer, and show it: what `k2 ask` and `k2 runs resume` share."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openk2.agent import context
from openk2.agent.events import RunFinished
from openk2.agent.log import Log, runs_dir
from openk2.agent.loop import Loop
from openk2.agent.setup import Setup, close
from openk2.agent.sources import Source, sources
from openk2.agent.state import State
from openk2.cli.terminal import Terminal
from openk2.errors import UserError
from openk2.tools.index import Index


class Stopped(UserError):
    """Ctrl-C, said like any other end that a person can mend."""

    exit_code = 130


def work(log: Log, *, as_json: bool = False, quiet: bool = False) -> int:
    """Returns the exit code. Raises UserError, with the way to go on where the run is worth it."""
    terminal = Terminal(quiet=quiet or as_json)
    try:
        end, index = _run(log, terminal)
    except KeyboardInterrupt:
        terminal.end()
        raise Stopped(f"stopped; `{resume_command(log)}` goes on.") from None
    except UserError as error:
        terminal.end()
        if len(log.events) > 2:  # something was done that is worth keeping
            raise UserError(f"{error} The run is kept: `{resume_command(log)}` goes on.") from None
        raise
    found = sources(end.answer, log.events, index)
    if as_json:
        text = json.dumps(report(log, end, found), ensure_ascii=False)
        print(text.encode("utf-8", "replace").decode())  # a lone surrogate is no reason to lose the answer
    else:
        terminal.finish(end, found)
    return 0


def _run(log: Log, terminal: Terminal) -> tuple[RunFinished, Index | None]:
    setup = Setup.from_json(log.started.setup)
    skipped: list[tuple[Path, str]] = []
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(setup.index, lambda path, why: skipped.append((path, why)))  # while the model loads
        provider = setup.provider()
        index = opening.result()
    for path, why in skipped:
        terminal.note(f"left out: {path} {why}")
    tools = setup.tools(log.started.tools, index, log.workspace, log.events)

    async def run() -> RunFinished:
        try:
            terminal.wait(f"{provider.name} is reading")
            return await Loop(log, provider, tools, watch=terminal.watch).run()
        finally:
            await close(provider, *tools.values())

    return asyncio.run(run()), index


def resume_command(log: Log) -> str:
    other = "" if log.folder.parent == runs_dir() else f" --run-dir {log.folder.parent}"
    return f"k2 runs resume {log.folder.name}{other}"


def report(log: Log, end: RunFinished, found: list[Source]) -> dict[str, Any]:
    """The run as one object: what `--json` prints."""
    return {
        "answer": end.answer,
        "sources": [source.to_json() for source in found],
        "finish_reason": end.reason,
        "steps": end.steps,
        "usage": end.usage.to_json(),
        "seconds": end.seconds,
        "run": log.started.run,
        "messages": [message.to_wire() for message in context.messages(State.of(log.events))],
    }
