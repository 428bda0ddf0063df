"""A recorded run driven again: the same loop with the recorded replies and results, compared event by event.

What comes from outside is taken from the record: what the model replied, what tools gave, what the person said, where
a process ended. All else has to come out the same, the digest of each request among it. So a replay tells whether this
version of the program would send the same model the same bytes. What only a clock or a price decided is not repeated.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from openk2.agent.events import (
    Approval,
    BudgetRaised,
    BudgetSpent,
    ChildFinished,
    ChildStarted,
    ContextCut,
    Event,
    Guarded,
    Note,
    ReplyReceived,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    ToolFinished,
    ToolStarted,
    UserSaid,
    to_json,
)
from openk2.agent.log import Log
from openk2.agent.loop import Loop
from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Price, Reply, WindowFull
from openk2.tools.base import Tool, ToolResult

E = TypeVar("E", bound=Event)
TIMED = ("ts", "seconds")  # fields that no two runs share
PATIENCE = 20.0  # seconds that a result may be waited for before the order counts as another one
BABBLE = "and so on " * 1000


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event that came out another way. `field` is the part of it that differs."""

    seq: int
    field: str
    recorded: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Replayed:
    """`events`: how many came out the same, of `recorded`. `left`: why the rest was not tried."""

    events: int
    recorded: int
    difference: Difference | None = None
    left: str = ""

    @property
    def same(self) -> bool:
        return self.difference is None


class _End(BaseException):
    """Not an Exception: the loop must not take it for a failure of its own and write it down."""


class _SessionEnded(_End):
    """The recorded process ended here."""


class _Stop(_End):
    def __init__(self, difference: Difference | None = None, left: str = "") -> None:
        self.difference, self.left = difference, left


class _Record(Log):
    """A log that takes only what the record says comes next."""

    def __init__(self, folder: Path, recorded: Sequence[Event]) -> None:
        super().__init__(folder, -1, [])
        (folder / "workspace").mkdir(parents=True, exist_ok=True)
        self.recorded = recorded
        self.loop: Loop | None = None
        self.call: ContextVar[ToolStarted | None] = ContextVar("call", default=None)

    @property
    def next(self) -> Event | None:
        return self.recorded[len(self.events)] if len(self.events) < len(self.recorded) else None

    def take(self) -> None:
        """The next recorded event as it is."""
        event = self.next
        assert event is not None
        self.events.append(event)

    def append(self, event: E) -> E:
        wanted = self.next
        if wanted is None:
            raise self.end()
        if found := _difference(wanted, event):
            raise _Stop(found)
        self.events.append(wanted)
        if isinstance(wanted, ToolStarted):
            self.call.set(wanted)
        self._go_on()
        return wanted  # type: ignore[return-value]

    def end(self) -> _Stop:
        return _Stop(left="the run was not finished")

    def _go_on(self) -> None:
        """What has come from outside since: said to the loop, or taken over. Ends the session where its process did."""
        while True:
            following = self.next
            if following is None or self.ends_here():
                if following is not None and not isinstance(self.events[-1], RunFinished):
                    raise _SessionEnded
                return
            if isinstance(following, BudgetSpent | BudgetRaised) and following.axis in ("seconds", "money"):
                raise _Stop(left=f"a budget of {following.axis} ended it there, which no replay repeats")
            if isinstance(following, ChildStarted | ChildFinished) and self.loop is not None:
                self.take()
                self.loop.state.fold(following)
                continue
            if isinstance(following, UserSaid) and self.loop is not None:
                self.loop.steer(following.text)
            return

    def ends_here(self) -> bool:
        """Whether the process that wrote the record ended before the next event."""
        for event in self.recorded[len(self.events) :]:
            if isinstance(event, RunStopped | RunResumed):
                return True
            if not isinstance(event, BudgetRaised):
                return False
        return False

    async def turn_of(self, started: ToolStarted) -> ToolFinished:
        """The recorded result of a call, once it is the next event: results come in the order in which they came."""

        def mine() -> ToolFinished | None:
            event = self.next
            same = isinstance(event, ToolFinished) and (event.reply, event.index) == (started.reply, started.index)
            return event if same else None  # type: ignore[return-value]

        for _ in range(int(PATIENCE / 0.001)):
            if found := mine():
                return found
            if self.next is None:
                raise self.end()
            await asyncio.sleep(0.001)
        event = self.next
        raise _Stop(Difference(len(self.events) + 1, "type", event.type if event else "the end", "tool.finished"))


class _Model:
    """Gives the recorded replies."""

    price = Price(0.0, 0.0, 0.0)  # what was paid stands in the record

    def __init__(self, name: str, record: _Record) -> None:
        self.name, self._record = name, record

    @property
    def window(self) -> int | None:
        """As it was told with the next reply."""
        events = self._record.recorded
        later = (event for event in events[len(self._record.events) :] if isinstance(event, ReplyReceived))
        earlier = (event for event in reversed(events) if isinstance(event, ReplyReceived))
        reply = next(later, None) or next(earlier, None)
        return reply.window if reply else None

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        record = self._record
        while isinstance(event := record.next, Note):
            yield Delta("retry", event.text)
        if isinstance(event, ReplyReceived):
            yield Reply(event.message, event.usage, event.finish_reason)
        elif isinstance(event, Guarded) and event.kind == "babble":
            yield Delta("content", BABBLE)
        elif event is None:
            raise record.end()
        elif isinstance(event, ContextCut | RunFinished):
            raise WindowFull("The recorded model refused this conversation as too long.")
        else:
            raise _Stop(Difference(event.seq, "type", event.type, "reply"))


async def replay(
    recorded: Sequence[Event], tools: Mapping[str, Tool], folder: Path, *, run_tools: bool = False
) -> Replayed:
    """Drive the loop through `recorded`. `folder` is a scratch folder; nothing of the recorded run is touched.

    `tools` are those of the run: models are told of them, so they are part of what is sent. With `run_tools` the
    idempotent ones run anew and have to give what they gave. Raises UserError for a run that cannot be replayed.
    """
    first = recorded[0] if recorded else None
    if not isinstance(first, RunStarted):
        raise UserError("The run was stopped before it began; there is nothing to replay.")
    if first.setup.get("mode") == "heavy":
        raise UserError("A run of heavy mode is several runs: replay its paths, as in `k2 runs replay RUN/paths/1`.")
    record = _Record(folder, recorded)
    record.take()
    try:
        while (following := record.next) is not None:
            if isinstance(following, RunStopped | BudgetRaised | UserSaid | ToolFinished | Note):
                record.take()  # between two sessions, or before an answer that follows another
                if record.next is None:
                    break
                if not isinstance(following, UserSaid):
                    continue
            before = len(record.events)
            await _session(record, tools, run_tools)
            if len(record.events) == before:
                raise _Stop(Difference(before + 1, "type", following.type, "the end"))
    except _Stop as stop:
        return Replayed(len(record.events), len(recorded), stop.difference, stop.left)
    return Replayed(len(record.events), len(recorded))


async def _session(record: _Record, tools: Mapping[str, Tool], run_tools: bool) -> None:
    """What one process did, from where the record stands."""
    approvals = iter([event for event in record.recorded[len(record.events) :] if isinstance(event, Approval)])

    async def approve(call: ToolCall, why: str) -> bool:
        event = next(approvals, None)
        return event.allowed if event else False

    async def more(spent: BudgetSpent) -> float | None:
        event = record.next
        if isinstance(event, BudgetRaised) and event.axis == spent.axis and event.limit is not None:
            return event.limit - spent.limit
        return None

    asked = any(isinstance(event, Approval) for event in record.recorded)
    loop = Loop(
        record, _Model("recorded", record), tools, approve=approve if asked else None, more=more
    )
    loop.tools.update({name: _recorded(tool, record, run_tools) for name, tool in loop.tools.items()})
    record.loop = loop
    try:
        await loop.run()
    except _SessionEnded:
        return
    except UserError as error:  # the record would have its run.stopped here
        raise _Stop(Difference(len(record.events) + 1, "type", _type(record.next), f"an error: {error}")) from None


def _recorded(tool: Tool, record: _Record, run: bool) -> Tool:
    """The tool, giving what it gave."""

    @functools.wraps(tool.function)
    async def function(**values: Any) -> ToolResult:
        started = record.call.get()
        assert started is not None
        result = await record.turn_of(started)
        if run and tool.idempotent:
            return await tool.call(values)
        return ToolResult(result.content, result.is_error, result.files, result.source)

    return replace(tool, function=function, timeout=None, output_limit=sys.maxsize)


def _difference(wanted: Event, event: Event) -> Difference | None:
    if wanted.type != event.type:
        return Difference(wanted.seq, "type", wanted.type, event.type)
    recorded, now = to_json(wanted), to_json(replace(event, seq=wanted.seq))
    for name, value in recorded.items():
        unknown = name == "request" and not value
        if name not in TIMED and not unknown and _plain(value) != _plain(now[name]):
            return Difference(wanted.seq, name, value, now[name])
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _type(event: Event | None) -> str:
    return event.type if event else "the end"
