"""`k2 runs`: what was run; to look at, to go on with, to try again, to hand on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.cli import settings

if TYPE_CHECKING:
    from openk2.agent.events import RunStarted
    from openk2.agent.log import Log
    from openk2.tools.base import Tool

KINDS = ("openai", "sharegpt", "training", "html", "jsonl")


@click.group(name="runs")
def command() -> None:
    """List, show, resume, replay, fork and export what was run."""


@command.command("list", cls=settings.Command)
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_runs(run_dir: Path | None, as_json: bool) -> None:
    """The runs, newest first."""
    from openk2.agent import log
    from openk2.agent.children import steps_of
    from openk2.agent.events import RunStarted
    from openk2.agent.state import State
    from openk2.cli.terminal import clip, one_line
    from openk2.errors import UserError

    root = run_dir or log.runs_dir()
    folders = list(log.folders(root))
    if not folders:
        click.echo(f"There are no runs in {root} yet.", err=True)
    for folder in folders:
        try:
            events = log.read(folder)
        except UserError as error:
            click.echo(f"{folder.name}  {error}")
            continue
        if not events or not isinstance(events[0], RunStarted):
            continue
        whole = State.of(events)
        state = whole.finished.reason if whole.finished else "running" if log.in_use(folder) else "stopped"
        steps, seconds = steps_of(events), whole.total_seconds
        if as_json:
            entry = {"run": folder.name, "state": state, "steps": steps, "seconds": round(seconds, 3)}
            usage = {"usage": whole.total.to_json(), "parent": events[0].parent}
            click.echo(json.dumps({**entry, "ts": events[0].ts, "question": events[0].question, **usage}))
        else:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(events[0].ts))
            question = clip(one_line(events[0].question), 70)
            took = f"{steps:4} {'step ' if steps == 1 else 'steps'} {seconds:8.1f} s"
            click.echo(f"{folder.name}  {when}  {state:8} {took}  {question}")


@command.command(cls=settings.Command)
@click.argument("run", default="last")
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print the events, one JSON object a line.")
@click.option("--whole", is_flag=True, help="Thinking and results in full.")
def show(run: str, run_dir: Path | None, as_json: bool, whole: bool) -> None:
    """Show a run as it went.

    RUN is its name, the beginning of it, or `last`; RUN/paths/1 is a run within it.
    """
    from openk2.agent import log
    from openk2.agent.events import to_json
    from openk2.cli.show import show as print_run

    folder = find(run, run_dir)
    events = log.read(folder)
    if as_json:
        for event in events:
            click.echo(json.dumps(to_json(event)))
        return
    print_run(folder, events, whole=whole)


@command.command(cls=settings.Command)
@click.argument("run", default="last")
@settings.run_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", envvar="OPENK2_QUIET", is_flag=True, help="Print the answer and its sources only.")
@click.option("--yes", envvar="OPENK2_YES", is_flag=True, help="Allow every call that would ask you first.")
@click.option("--say", help="Say this to the model first.")
@click.option("--steps", "more_steps", type=click.IntRange(1), help="The new budget of replies.")
@click.option("--max-tokens", "more_tokens", type=click.IntRange(1), help="The new budget of tokens.")
@click.option("--max-seconds", "more_seconds", type=click.FloatRange(0, min_open=True), help="The new budget of time.")
@click.option("--max-cost", "more_money", type=click.FloatRange(0, min_open=True), help="The new budget of US dollars.")
def resume(
    run: str, run_dir: Path | None, as_json: bool, quiet: bool, yes: bool, say: str | None, **budgets: float | None
) -> int:
    """Go on with a run where it was stopped.

    A finished run only gives its answer again. With a new budget, a run that ended because its budget did goes on.
    """
    from openk2.agent.log import Log
    from openk2.cli.work import work

    with Log.open(find(run, run_dir)) as log:
        raise_budgets(log, {name.removeprefix("more_"): limit for name, limit in budgets.items() if limit}, say)
        return work(log, as_json=as_json, quiet=quiet, yes=yes)


@command.command(cls=settings.Command)
@click.argument("run", default="last")
@settings.run_dir_option
@click.option("--tools", "run_tools", is_flag=True, help="Run the idempotent tools anew; they have to give the same.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(run: str, run_dir: Path | None, run_tools: bool, as_json: bool) -> int:
    """Drive a run again with what was recorded.

    It is done in a scratch folder, up to the first difference. Exit code 1 when something comes out another way: the
    model would be sent something else today.
    """
    import asyncio
    import tempfile

    from openk2.agent import log
    from openk2.agent.replay import replay as drive
    from openk2.errors import UserError

    folder = find(run, run_dir)
    events = log.read(folder)
    if not events:
        raise UserError("The run was stopped before it began; there is nothing to replay.")
    with tempfile.TemporaryDirectory(prefix="k2-replay-") as scratch:
        tools = _tools(events[0], Path(scratch))  # type: ignore[arg-type]
        done = asyncio.run(drive(events, tools, Path(scratch), run_tools=run_tools))
    found = done.difference
    if as_json:
        shown = None if found is None else {"seq": found.seq, "field": found.field, "recorded": found.recorded,
                                            "now": found.now}  # fmt: skip
        click.echo(json.dumps({"run": folder.name, "events": done.events, "recorded": done.recorded,
                               "difference": shown, "left": done.left}))  # fmt: skip
    elif found is None:
        click.echo(f"{done.events} of {done.recorded} events came out the same{f'; {done.left}' if done.left else ''}.")
    else:
        from openk2.cli.terminal import clip, one_line

        click.echo(f"{done.events} of {done.recorded} events came out the same. Event {found.seq} differs in its "
                   f"{found.field}:")  # fmt: skip
        click.echo(f"  recorded  {clip(one_line(str(found.recorded)), 300)}")
        click.echo(f"  now       {clip(one_line(str(found.now)), 300)}")
        if found.field == "request":
            click.echo("What the model is sent has changed: the system prompt, a tool's description, or the context.")
    return 0 if done.same else 1


@command.command(cls=settings.Command)
@click.argument("run")
@click.argument("event", type=int, required=False)
@click.option("--say", help="What to say next, in place of what followed.")
@settings.run_dir_option
def fork(run: str, event: int | None, say: str | None, run_dir: Path | None) -> None:
    """Make a new run of another's beginning.

    It has the first EVENT events of RUN (`k2 runs show --json` numbers them); without EVENT, all. Files come along as
    they are now: what was changed after the event is not undone.
    """
    from openk2.agent import log
    from openk2.agent.fork import fork as make

    root = run_dir or log.runs_dir()
    folder = make(find(run, run_dir), event, root, say=say)
    count = len(log.read(folder))
    other = "" if root == log.runs_dir() else f" --run-dir {root}"
    click.echo(f"{folder.name} has {count} events; files are as they are now.")
    click.echo(f"`k2 runs resume {folder.name}{other}` goes on.")


@command.command(cls=settings.Command)
@click.argument("run", default="last")
@click.option("--format", "kind", type=click.Choice(KINDS), default="html", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; else standard output.")
@settings.run_dir_option
def export(run: str, kind: str, out: Path | None, run_dir: Path | None) -> None:
    """Write a run for others.

    As one page to read (html), messages (openai), training data, or the events (jsonl).
    """
    from openk2.agent import log
    from openk2.agent.export import export as write
    from openk2.errors import UserError

    folder = find(run, run_dir)
    specs = []
    if kind not in ("html", "jsonl"):
        try:
            specs = [tool.spec() for tool in _tools(log.read(folder)[0], folder).values()]  # type: ignore[arg-type]
        except (UserError, IndexError) as error:
            click.echo(f"The tools are left out: {error}", err=True)
    text = write(folder, kind, specs).encode("utf-8", "replace")
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        return
    try:
        out.write_bytes(text)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another file with --out.") from None
    click.echo(f"{out}: {len(text):,} bytes")


def raise_budgets(log: Log, budgets: dict[str, Any], say: str | None) -> None:
    """Write down what the person gives more of, and says. A run that its budget ended is opened again.

    What a run that has not answered yet has used still counts; what is said after an answer is a new question.
    """
    from openk2.agent.events import BudgetRaised, RunResumed, UserSaid
    from openk2.agent.prompts import GO_ON
    from openk2.agent.state import State

    ended = log.finished is not None and log.finished.reason == "budget"
    for axis, limit in budgets.items():
        if log.finished is None or ended or say:
            log.append(BudgetRaised(axis=axis, limit=limit))
    if say or (ended and budgets):
        state = State.of(log.events)
        asked = (e.message for e in state.everything() if e.seq == state.turn and e.message.role == "user")
        go_on = GO_ON if state.habits.steer else next(asked).content  # who reads each message alone is asked again
        if state.habits.steer and (ended or log.finished is None):
            log.append(RunResumed())
        log.append(UserSaid(text=say or go_on))


def _tools(first: RunStarted, folder: Path) -> dict[str, Tool]:
    """The tools of a run, with all that they have to open."""
    from openk2.agent.ask_agent import DEPTH, NAME, tool_of
    from openk2.agent.results import with_results
    from openk2.agent.setup import Setup
    from openk2.agent.state import State
    from openk2.errors import UserError

    setup = Setup.from_json(first.setup)
    if setup.mcp:
        raise UserError("This run has tools of MCP servers, which are not started here; use it from Python.")
    made = setup.tools([name for name in first.tools if name != NAME], setup.index(), folder / "workspace")
    if NAME in first.tools and first.run.count("children/") < DEPTH:

        async def nobody(task: str) -> str:
            raise UserError(f"No helper is asked here: {task}")

        made[NAME] = tool_of(nobody)
    return with_results(made, State) if made else {}


def find(run: str, run_dir: Path | None) -> Path:
    """The folder of the run that is called `run`, begins with it, or is the last; of a run within it after a slash.

    Raises UserError.
    """
    from openk2.agent import log
    from openk2.errors import UserError

    root = run_dir or log.runs_dir()
    name, _, within = run.partition("/")
    every = list(log.folders(root))
    if name == "last" and every:
        found = every[:1]
    else:
        found = [folder for folder in every if folder.name == name] or [f for f in every if f.name.startswith(name)]
    if len(found) > 1:
        raise UserError(f"{len(found)} runs begin with {name!r}; write more of the name.")
    if not found or not name:
        raise UserError(f"There is no run {name!r} in {root}; `k2 runs list` shows those that exist.")
    place = found[0] / within
    if within and not (place / log.LOG).is_file():
        raise UserError(f"The run {found[0].name} has no run {within!r} in it; `k2 runs show` lists those it has.")
    return place
