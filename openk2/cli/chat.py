"""`k2 chat`: a conversation in the terminal, all of it one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.cli import options, settings

if TYPE_CHECKING:
    from openk2.cli.conversation import Conversation


@click.command(cls=settings.Command, name="chat")
@options.setup_options
@options.yes_option
@click.option("--resume", "again", is_flag=False, flag_value="last", metavar="[RUN]",
              help="Go on with RUN, else with the last one, with the setup it had.")  # fmt: skip
@settings.run_dir_option
def command(yes: bool, again: str | None, run_dir: Path | None, **given: Any) -> int:
    """Talk. What you type while it works is told to the model at once; Ctrl-C stops the turn, Ctrl-D leaves.

    /help lists what can be changed on the way.
    """
    from openk2.errors import UserError

    if given["mode"] == "heavy":
        raise UserError("A chat has the modes chat and agent; heavy mode answers one question: k2 ask --mode heavy.")
    from openk2.agent.log import Log, runs_dir
    from openk2.agent.setup import Setup
    from openk2.cli.conversation import Conversation
    from openk2.cli.runs import find

    root = run_dir or runs_dir()
    if again is None:
        return _talk(Conversation(options.setup_of(**given), root, yes=yes))
    log = Log.open(find(again, run_dir))
    setup = Setup.from_json(log.started.setup)
    if setup.mode == "heavy":
        log.close()
        raise UserError("That run is one of heavy mode and cannot be talked to; `k2 runs show` shows its answer.")
    return _talk(Conversation(setup, root, yes=yes, log=log))


def _talk(conversation: Conversation) -> int:
    """What went wrong was said where it did: of a talk at a terminal no exit code is left."""
    from openk2.cli.conversation import piped_lines, typed_lines

    if sys.stdin.isatty():
        conversation.talk(typed_lines())
        return 0
    return conversation.talk(piped_lines())
