"""Work on a run until its answer, and show it: what `k2 ask` and `k2 runs resume` share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from openk2.agent.events import RunFinished
from openk2.agent.export import messages
from openk2.agent.log import Log, runs_dir
from openk2.agent.parts import Parts
from openk2.agent.sources import Source
from openk2.cli import keyboard, settings
from openk2.cli.consent import Consent
from openk2.cli.terminal import Terminal
from openk2.cli.tree import Tree
from openk2.errors import UserError


class Stopped(UserError):
    """Ctrl-C, said like any other end that a person can mend."""

    exit_code = 130


def work(log: Log, *, as_json: bool = False, quiet: bool = False, yes: bool = False) -> int:
    """Returns the exit code. Raises UserError, with the way to go on where the run is worth it.

    `yes`: calls that need a person's word are allowed unasked. Else they are asked about where there is a terminal.
    """
    terminal = Terminal(quiet=quiet or as_json)
    terminal.recall(log.events)
    try:
        end, found = _run(log, terminal, yes)
    except KeyboardInterrupt:
        terminal.end()
        raise Stopped(f"stopped; `{resume_command(log)}` goes on.") from None
    except UserError as error:
        terminal.end()
        if len(log.events) > 2:  # something was done that is worth keeping
            raise UserError(f"{error} The run is kept: `{resume_command(log)}` goes on.") from None
        raise
    if as_json:
        text = json.dumps(report(log, end, found), ensure_ascii=False)
        print(text.encode("utf-8", "replace").decode())  # a lone surrogate is no reason to lose the answer
    else:
        terminal.finish(end, found)
    return 0


def _run(log: Log, terminal: Terminal, yes: bool) -> tuple[RunFinished, list[Source]]:
    if log.started.setup.get("docs"):
        terminal.wait("the documents are being read")
    parts = Parts.open(log, servers=settings.servers() if log.started.setup.get("mcp") else ())
    asked = keyboard.present()
    tree = Tree(log.events, quiet=terminal.quiet) if parts.setup.mode == "heavy" else None
    consent = Consent(terminal, yes=yes, quietly=_paused(tree) if tree else nullcontext)

    async def run() -> tuple[RunFinished, list[Source]]:
        try:
            await parts.connect(log)
            for note in parts.notes:
                terminal.note(note)
            terminal.wait(f"{parts.provider.name} is reading")
            worker = parts.worker(
                log,
                watch=tree.watch if tree else terminal.watch_tree,
                approve=consent.approve if yes or asked else None,
                more=consent.more if asked else None,
            )
            if tree:
                terminal.end()  # the live lines begin on a line of their own
            with tree or nullcontext():
                end = await worker.run()
            return end, parts.sources(log, end)
        finally:
            await parts.aclose()

    return asyncio.run(run())


def _paused(tree: Tree) -> Callable[[], AbstractContextManager[None]]:
    """The live lines make room for a question."""

    @contextmanager
    def pause() -> Iterator[None]:
        tree.__exit__()
        try:
            yield
        finally:
            tree.__enter__()

    return pause


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
        "messages": [message.to_wire() for message in messages(log.events)],
    }
