"""`k2 runs list / show / resume`: what was run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from openk2.cli import settings


@click.group(name="runs")
def command() -> None:
    """List, show and resume what was run."""


@command.command("list", cls=settings.Command)
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_runs(run_dir: Path | None, as_json: bool) -> None:
    """The runs, newest first."""
    from openk2.agent import log
    from openk2.agent.events import RunFinished, RunStarted
    from openk2.agent.state import State
    from openk2.cli.terminal import clip, one_line
    from openk2.errors import UserError

    for folder in log.folders(run_dir or log.runs_dir()):
        try:
            events = log.read(folder)
        except UserError as error:
            click.echo(f"{folder.name}  {error}")
            continue
        if not events or not isinstance(events[0], RunStarted):
            continue
        last = events[-1]
        state = last.reason if isinstance(last, RunFinished) else "running" if log.in_use(folder) else "stopped"
        whole = State.of(events)
        steps, seconds = whole.steps, whole.total_seconds
        if as_json:
            entry = {"run": folder.name, "state": state, "steps": steps, "seconds": round(seconds, 3)}
            click.echo(json.dumps({**entry, "ts": events[0].ts, "question": events[0].question}))
        else:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(events[0].ts))
            question = clip(one_line(events[0].question), 70)
            click.echo(f"{folder.name}  {when}  {state:8} {steps:4} steps {seconds:8.1f} s  {question}")


@command.command(cls=settings.Command)
@click.argument("run")
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print the events, one JSON object a line.")
def show(run: str, run_dir: Path | None, as_json: bool) -> None:
    """Show RUN (its name, the beginning of it, or `last`) as it went."""
    from openk2.agent import log
    from openk2.agent.events import ReplyReceived, RunFinished, RunStarted, RunStopped, to_json
    from openk2.agent.sources import sources
    from openk2.cli.terminal import Terminal, plain
    from openk2.providers.base import Delta

    events = log.read(find(run, run_dir))
    if as_json:
        for event in events:
            click.echo(json.dumps(to_json(event)))
        return
    terminal = Terminal(live=True)
    for event in events:
        if isinstance(event, RunStarted):
            click.echo(f"{plain(event.question)}\n")
        elif isinstance(event, ReplyReceived):
            # The answer itself is printed with the end of the run.
            shown = event.message.content if event.message.tool_calls else ""
            terminal.watch(Delta("reasoning", event.message.reasoning or ""))
            terminal.watch(Delta("content", shown))
        elif isinstance(event, RunStopped):
            click.echo(f"({event.why})")
        elif isinstance(event, RunFinished):
            terminal.finish(event, sources(event.answer, events, None))
        terminal.watch(event)


@command.command(cls=settings.Command)
@click.argument("run")
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", envvar="OPENK2_QUIET", is_flag=True, help="Print the answer and its sources only.")
def resume(run: str, run_dir: Path | None, as_json: bool, quiet: bool) -> int:
    """Go on with RUN where it was stopped; a finished run only gives its answer again."""
    from openk2.agent.log import Log
    from openk2.cli.work import work

    with Log.open(find(run, run_dir)) as log:
        return work(log, as_json=as_json, quiet=quiet)


def find(run: str, run_dir: Path | None) -> Path:
    """The folder of the run that is called `run`, begins with it, or is the last. Raises UserError."""
    from openk2.agent import log
    from openk2.errors import UserError

    root = run_dir or log.runs_dir()
    every = list(log.folders(root))
    if run == "last" and every:
        return every[0]
    found = [folder for folder in every if folder.name == run] or [f for f in every if f.name.startswith(run)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{len(found)} runs begin with {run!r}; write more of the name.")
    raise UserError(f"There is no run {run!r} in {root}; `k2 runs list` shows those that exist.")
