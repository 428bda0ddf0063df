"""`k2 ask QUESTION`: one answer, with the run kept on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from openk2.cli import options, settings


@click.command(cls=settings.Command, name="ask")
@click.argument("question", nargs=-1)
@options.setup_options
@options.yes_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", envvar="OPENK2_QUIET", is_flag=True, help="Print the answer and its sources only.")
@settings.run_dir_option
def command(
    question: tuple[str, ...], yes: bool, as_json: bool, quiet: bool, run_dir: Path | None, **given: Any
) -> int:
    """Answer QUESTION with thinking, search and computation. `-` reads it from standard input."""
    from openk2.errors import UserError

    text = " ".join(question).strip()
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not text:
        raise UserError('The question is empty; write it after the command: k2 ask "How high is Mount Kenya?"')
    setup = options.setup_of(**given)

    from openk2.agent.log import Log, new_id, runs_dir
    from openk2.cli.work import work

    started = setup.started(new_id(), text)  # before the folder is made: an unknown model leaves nothing behind
    with Log.create((run_dir or runs_dir()) / started.run) as log:
        log.append(started)
        return work(log, as_json=as_json, quiet=quiet, yes=yes)
