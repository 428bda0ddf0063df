"""What happens in a run, as typed events: one JSON object a line, numbered from 1, with the time in seconds.

The log of these events is the truth about a run; messages, budgets and what the terminal shows are computed from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from openk2.chat.messages import Message
from openk2.providers.base import FinishReason, Usage

RunReason = Literal["stop", "length", "budget", "empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`seq` and `ts` are set by the log when it appends the event."""

    type: ClassVar[str]
    seq: int = 0
    ts: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The question and everything needed to build the run again: `setup` is `Setup.to_json()`."""

    type: ClassVar[str] = "run.started"
    run: str
    question: str
    system: str = ""
    tools: tuple[str, ...] = ()
    setup: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, float | None] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    type: ClassVar[str] = "run.resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyReceived(Event):
    """One whole message of the model. On disk before any of its calls starts."""

    type: ClassVar[str] = "reply"
    message: Message
    usage: Usage
    finish_reason: FinishReason
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted(Event):
    """The call at position `index` of the reply with number `reply`: call ids may repeat, these two do not."""

    type: ClassVar[str] = "tool.started"
    reply: int
    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished(Event):
    """`content` is what the model is told. A refused call has this event and no `tool.started`."""

    type: ClassVar[str] = "tool.finished"
    reply: int
    index: int
    id: str
    name: str
    content: str
    is_error: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Something a reader of the log should know and the model is not told."""

    type: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpent(Event):
    type: ClassVar[str] = "budget"
    axis: str
    limit: float
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(Event):
    """Ended before its answer, by the person or by an error; the run can be resumed."""

    type: ClassVar[str] = "run.stopped"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    type: ClassVar[str] = "run.finished"
    reason: RunReason
    answer: str
    steps: int
    usage: Usage
    seconds: float


_TYPES: dict[str, type[Event]] = {
    kind.type: kind
    for kind in (
        RunStarted, RunResumed, ReplyReceived, ToolStarted, ToolFinished, Note, BudgetSpent, RunStopped, RunFinished,
    )
}  # fmt: skip


def to_json(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {"seq": event.seq, "ts": event.ts, "type": event.type}
    for item in fields(event):
        value = getattr(event, item.name)
        data[item.name] = value.to_json() if isinstance(value, Message | Usage) else value
    return data


def to_line(event: Event) -> bytes:
    """One line of the log. Escaped to ASCII, so that any string a model can write is valid on disk."""
    return json.dumps(to_json(event), separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Event:
    """Raises ValueError for a line that is not a whole event."""
    try:
        data = json.loads(line)
        kind = _TYPES[data.pop("type")]
        known = {item.name for item in fields(kind)}
        values = {name: value for name, value in data.items() if name in known}
        if "message" in values:
            values["message"] = Message.from_json(values["message"])
        if "usage" in values:
            values["usage"] = Usage.from_json(values["usage"])
        if "tools" in values:
            values["tools"] = tuple(values["tools"])
        return kind(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {error!r}") from None
