"""A recorded run as text: what `k2 runs show` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openk2.agent.children import family, steps_of
from openk2.agent.events import (
    Approval,
    BudgetSpent,
    ChildFinished,
    ChildStarted,
    Event,
    ReplyReceived,
    RunFinished,
    RunStarted,
    RunStopped,
    ToolFinished,
    UserSaid,
)
from openk2.agent.log import read
from openk2.agent.sources import sources
from openk2.agent.state import State
from openk2.cli.terminal import Terminal, clip, money_text, one_line, plain, seconds_text
from openk2.errors import UserError
from openk2.providers.base import Usage

THOUGHT_CHARS = 400  # of the thinking of one reply, folded
RESULT_LINES = 8


def show(folder: Path, events: Sequence[Event], *, whole: bool = False) -> None:
    """Print the run. `whole`: thinking and results in full."""
    terminal = Terminal(live=True)
    _run(terminal, folder, events, whole)
    state = State.of(events)
    if state.plan is not None:
        terminal.line(f"\nPlan\n{state.plan.content}", "")
    _children(terminal, folder, events, "")
    budget = state.started.budget if state.started else {}
    limits = {**budget, **state.raised}
    said = ", ".join(f"{axis} {limit:g}" for axis, limit in limits.items() if limit is not None)
    terminal.line(f"\nUsed: {used_text(steps_of(events), state.total, state.total_seconds)}", "dim")
    if said:
        terminal.line(f"Budget: {said}", "dim")


def used_text(steps: int, usage: Usage, seconds: float) -> str:
    parts = [f"{steps} step{'s' * (steps != 1)}", f"{usage.prompt:,} tokens read", f"{usage.completion:,} written"]
    if usage.cached:
        parts[1] += f" ({usage.cached:,} cached)"
    if usage.reasoning:
        parts[2] += f" ({usage.reasoning:,} thought)"
    if usage.money is not None:
        parts.append(money_text(usage.money))
    return " · ".join([*parts, seconds_text(seconds)])


def _run(terminal: Terminal, folder: Path, events: Sequence[Event], whole: bool) -> None:
    for event in events:
        if isinstance(event, RunStarted):
            terminal.line(f"{event.question}\n", "bold")
        elif isinstance(event, UserSaid):
            terminal.line(f"\n{event.text}\n", "bold")
        elif isinstance(event, ReplyReceived):
            thought = plain(event.message.reasoning or "").strip()
            if thought:
                terminal.line(thought if whole else clip(thought, THOUGHT_CHARS), "dim")
            # The answer itself is printed with the end of the run.
            if event.message.tool_calls and event.message.content.strip():
                terminal.line(event.message.content.strip(), "")
            terminal.watch(event)
        elif isinstance(event, ToolFinished):
            terminal.watch(event)
            if whole:
                terminal.line(_indented(event.content), "dim")
            elif event.is_error or "\n" in event.content.strip():
                lines = event.content.strip().splitlines()
                more = f"\n… {len(lines) - RESULT_LINES} more lines (--whole shows them)"
                shown = "\n".join(clip(line, 200) for line in lines[:RESULT_LINES])
                terminal.line(_indented(shown + (more if len(lines) > RESULT_LINES else "")), "dim")
        elif isinstance(event, Approval):
            terminal.note(f"asked: {event.why} {'allowed' if event.allowed else 'refused'}")
        elif isinstance(event, BudgetSpent):
            terminal.note(f"the budget of {event.limit:g} {event.axis} was used up")
        elif isinstance(event, RunStopped):
            terminal.note(event.why)
        elif isinstance(event, RunFinished):
            terminal.line("", "")
            terminal.finish(event, sources(event.answer, family(folder, events), None))
        else:
            terminal.watch(event)


def _indented(text: str) -> str:
    return "\n".join(f"      {line}" for line in text.splitlines())


def _children(terminal: Terminal, folder: Path, events: Sequence[Event], indent: str) -> None:
    """The runs of this run as a tree, each with how it ended."""
    begun = {event.child: event for event in events if isinstance(event, ChildStarted)}
    ended = {event.child: event for event in events if isinstance(event, ChildFinished)}
    if begun and not indent:
        terminal.line("\nRuns within it (k2 runs show RUN/FOLDER shows one)", "bold")
    for place, (child, event) in enumerate(begun.items(), 1):
        last = place == len(begun)
        end = ended.get(child)
        how = f"{end.reason} · {end.steps} steps · {one_line(end.answer)}" if end else "not finished"
        terminal.line(clip(f"{indent}{'└' if last else '├'}─ {event.folder} · {how}", 160), "")
        try:
            inner = read(folder / event.folder)
        except UserError:
            continue
        _children(terminal, folder / event.folder, inner, indent + ("   " if last else "│  "))
