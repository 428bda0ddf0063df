"""`k2`: one command, one file for each verb, loaded when the verb runs."""

from __future__ import annotations

import errno
import os
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from openk2 import __version__
from openk2.errors import UserError

# Each verb is the module openk2.cli.VERB, which offers `command`. A verb without a module is not shown.
VERBS = {
    "ask": "Answer one question with thinking, search and computation.",
    "chat": "Talk: a conversation in the terminal.",
    "runs": "List, show, resume, replay, fork and export what was run.",
    "mcp": "Offer this agent to other programs as MCP tools.",
    "model": "Inspect models and checkpoints.",
    "train": "Run each stage of the recipe.",
    "synth": "Make and check training data.",
    "eval": "Measure quality.",
    "bench": "Measure speed, beside peers.",
    "doctor": "Tell what this machine offers.",
}

# What is wrong with a path that a person gave, where no room says it in better words.
ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


class Verbs(click.Group):
    """Imports a verb only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verb in VERBS if find_spec(f"openk2.cli.{verb}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return import_module(f"openk2.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, VERBS[verb]) for verb in self.list_commands(ctx)])


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="openk2", message="%(prog)s %(version)s")
def k2() -> None:
    """Kimi K2 Thinking as an open system: ask a question, or make the model that answers it."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a fault of openk2, 2 something a person can mend, 130 stopped."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    try:
        code = k2.main(args=args, prog_name="k2", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _say(str(error), getattr(error, "exit_code", 2))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else error.format_message())
        return 2
    except click.ClickException as error:
        help = f" Try `{error.ctx.command_path} --help`." if isinstance(error, click.UsageError) and error.ctx else ""
        return _say(error.format_message() + help, 2)
    except (click.Abort, KeyboardInterrupt):
        return _say("stopped.", 130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say, and the flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" at {error.filename}" if error.filename else ""
            return _say(f"The disk is full{place}; free some space and run this again.", 2)
        if error.filename and error.errno in ACCESS:
            return _say(f"{error.filename} cannot be used ({error.strerror}); name another or change its rights.", 2)
        return _fault(error)
    except Exception as error:
        return _fault(error)


def _say(sentence: str, code: int) -> int:
    if os.environ.get("RANK", "0") != "0":  # of several processes under torchrun, which ends the others with the first
        time.sleep(20)  # what ails all of them is said by the main one
    print(f"k2: {sentence}", file=sys.stderr)
    return code


def _fault(error: Exception) -> int:
    """A bug of ours: one sentence for the person, the traceback in a file for us."""
    import tempfile
    import traceback

    from openk2.paths import data_dir

    text = "".join(traceback.format_exception(error))
    said = f"{type(error).__name__}: {error}. This is a fault of openk2."
    name = f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (data_dir() / "errors", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"openk2 {__version__}\n{' '.join(sys.argv)}\n\n{text}", encoding="utf-8")
            return _say(f"{said} Details are in {folder / name}", 1)
        except OSError:
            continue
    return _say(f"{said}\n{text}", 1)
