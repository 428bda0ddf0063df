"""`k2 ask QUESTION`: one answer, with the run kept on disk."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from openk2.cli import settings


@click.command(cls=settings.Command, name="ask")
@click.argument("question", nargs=-1)
@click.option(
    "--mode", envvar="OPENK2_MODE", type=click.Choice(["chat", "agent"]), default="agent", show_default=True,
    help="agent uses tools, chat only answers.",
)  # fmt: skip
@click.option(
    "--docs", envvar="OPENK2_DOCS", multiple=True, type=click.Path(), metavar="PATH",
    help="Files or folders to search instead of the embedded library; may be given several times.",
)  # fmt: skip
@click.option("--model", envvar="OPENK2_MODEL", help="nano (embedded), a checkpoint folder, or a name at --base-url.")
@click.option("--base-url", envvar="OPENK2_BASE_URL", help="An OpenAI-compatible server, as http://localhost:8000/v1.")
@click.option("--steps", envvar="OPENK2_STEPS", type=click.IntRange(1), help="Most replies of the model. [300]")
@click.option("--max-tokens", envvar="OPENK2_MAX_TOKENS", type=click.IntRange(1), help="Most tokens it may write.")
@click.option(
    "--max-seconds", envvar="OPENK2_MAX_SECONDS", type=click.FloatRange(0, min_open=True), help="Most seconds to work."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", envvar="OPENK2_QUIET", is_flag=True, help="Print the answer and its sources only.")
@settings.run_dir_option
def command(
    question: tuple[str, ...],
    mode: str,
    docs: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    steps: int | None,
    max_tokens: int | None,
    max_seconds: float | None,
    as_json: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Answer QUESTION with thinking, search and computation. `-` reads it from standard input."""
    from openk2.errors import UserError

    text = " ".join(question).strip()
    if text == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not text:
        raise UserError('The question is empty; write it after the command: k2 ask "How high is Mount Kenya?"')
    # Absolute paths: a run may be resumed from another folder.
    places = [Path(path).expanduser().absolute() for path in docs]
    for given, place in zip(docs, places, strict=True):
        if not given or not place.exists():  # an empty path would be the folder we stand in
            raise UserError(f"There is no file or folder {given or repr(given)}; correct --docs.")

    from openk2.agent.log import Log, new_id, runs_dir
    from openk2.agent.setup import Setup
    from openk2.cli.work import work

    if model and model != "nano" and not base_url and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().absolute())
    kind = "chat" if mode == "chat" else "agent"
    setup = Setup(kind, model, base_url, tuple(map(str, places)), steps, max_tokens, max_seconds)
    started = setup.started(new_id(), text)  # before the folder is made: an unknown model leaves nothing behind
    with Log.create((run_dir or runs_dir()) / started.run) as log:
        log.append(started)
        return work(log, as_json=as_json, quiet=quiet)
