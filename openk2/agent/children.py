"""Runs that belong to a run: paths of heavy mode, their merge, helpers. Each is a whole run in a folder of its own.

The parent's log says when a child began and how it ended; everything else stands in the child's log. What an
unfinished child has used is read from there, so that a budget holds over any number of interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from openk2.agent.budget import Ledger
from openk2.agent.events import (
    ChildFinished,
    ChildStarted,
    Event,
    ReplyReceived,
    RunFinished,
    RunResumed,
    RunStarted,
)
from openk2.agent.log import LOG, Log, read
from openk2.agent.loop import Loop
from openk2.agent.setup import close
from openk2.agent.state import Spending, State
from openk2.providers.base import Delta
from openk2.tools.base import Tool

E = TypeVar("E", bound=Event)
ToolsFor = Callable[[Log], Mapping[str, Tool]]  # the tools of one run, over its own workspace
WatchTree = Callable[[str, Event | Delta], None]  # the child's name ("" for the run itself), and what happened in it


class Host(Protocol):
    """What a child belongs to: a `Loop`, or `Heavy`."""

    log: Log
    state: State
    ledger: Ledger
    watch: Callable[[Event | Delta], None]


def record(host: Host, event: E) -> E:
    """Write an event of the host's own."""
    event = host.log.append(event)
    host.state.fold(event)
    host.watch(event)
    return event


def begin(host: Host, name: str, folder: str, started: RunStarted, task: str = "") -> Log:
    """The open log of a child, new or as far as it came. Raises UserError where it cannot be opened."""
    if name not in host.state.children:
        record(host, ChildStarted(child=name, folder=folder, task=task))
    place = host.log.folder / folder
    log = Log.open(place) if (place / LOG).exists() else Log.create(place)
    if not log.events:
        log.append(started)
    return log


def keep_back(ledger: Ledger, answers: int) -> None:
    """Keep back the last answers of so many children more, or fewer, here and in all that this is a part of."""
    at: Ledger | None = ledger
    while at is not None:
        at.saves = max(0, at.saves + answers)
        at = at.parent


def unsaid(loop: Loop) -> int:
    """1 while a last answer is still kept back for a run."""
    ledger: Ledger | None = getattr(loop, "ledger", None)  # there is none where it failed at once
    return int(loop.state.habits.steer if ledger is None else ledger.saves)


async def finish(loop: Loop) -> RunFinished:
    """Run it to its end, and end what its tools keep running."""
    try:
        return await loop.run()
    finally:
        await close(*loop.tools.values())


def ended(name: str, state: State, reason: str, answer: str) -> ChildFinished:
    """How a child ended, with all that it and its own children have used."""
    return ChildFinished(
        child=name,
        reason=reason,
        answer=answer,
        steps=state.spent.steps,
        usage=state.spent.usage,
        seconds=round(state.spent.seconds, 3),
        outside=state.outside,
        private=state.private,
    )


def used(folder: Path) -> Spending:
    """What a run and all that belongs to it have used so far; seconds are those of the run alone."""
    if not (folder / LOG).exists():
        return Spending()
    state = State.of(read(folder))
    whole = replace(state.spent)
    for child in state.children.values():
        if isinstance(child, ChildStarted):  # what a finished one has used is in the state
            below = used(folder / child.folder)
            whole.steps, whole.usage = whole.steps + below.steps, whole.usage + below.usage
    return whole


def charge(ledger: Ledger, spent: Spending) -> None:
    """Count what a child used before this process, in the ledger of its parent alone."""
    ledger.steps += spent.steps
    ledger.tokens += spent.usage.completion
    ledger.money += spent.usage.money or 0.0


def seconds(log: Log) -> float:
    """Seconds in which a run or anything that belongs to it was being worked on."""
    times = [(event.ts, isinstance(event, RunStarted | RunResumed)) for event in log.events]
    times += [(event.ts, False) for folder in below(log.folder) for event in read(folder)]
    times.sort()
    return sum(max(0.0, ts - before) for (before, _), (ts, begins) in pairwise(times) if not begins)


def below(folder: Path) -> Iterator[Path]:
    """The folders of all runs that belong to the run in `folder`, in the order in which they began."""
    for event in read(folder):
        if isinstance(event, ChildStarted) and (folder / event.folder / LOG).exists():
            yield folder / event.folder
            yield from below(folder / event.folder)


def family(folder: Path, events: Sequence[Event]) -> list[Event]:
    """`events`, those of the run in `folder`, and those of all that belongs to it: what its answer may cite."""
    return [*events, *(event for place in below(folder) for event in read(place))]


def steps_of(events: Sequence[Event]) -> int:
    """Replies of the run and of those within it."""
    within = sum(event.steps for event in events if isinstance(event, ChildFinished))
    return within + sum(isinstance(event, ReplyReceived) for event in events)
