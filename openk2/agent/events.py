"""What happens in a run, as typed events: one JSON object a line, numbered from 1, with the time in seconds.

The log of these events is the truth about a run; messages, budgets and what the terminal shows are computed from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from openk2.chat.messages import Message
from openk2.providers.base import FinishReason, Usage

RunReason = Literal["stop", "length", "budget", "empty", "stuck"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`seq` and `ts` are set by the log when it appends the event."""

    type: ClassVar[str]
    seq: int = 0
    ts: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The question and everything needed to build the run again: `setup` is `Setup.to_json()`.

    `habits` is `Habits.to_json()`: what the loop does of itself, as checks and cuts of the context. `parent` is the run
    that this one is a path or a helper of. `outside`, `private`: the question was written by a model that had read text
    of strangers, or of the person.
    """

    type: ClassVar[str] = "run.started"
    run: str
    question: str
    system: str = ""
    tools: tuple[str, ...] = ()
    setup: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, float | None] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    habits: dict[str, Any] = field(default_factory=dict)
    parent: str = ""
    version: str = ""
    outside: bool = False
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(Event):
    type: ClassVar[str] = "run.resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSaid(Event):
    """What the person says after the question: while the run works (steering), or as the next turn of a chat."""

    type: ClassVar[str] = "user"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyReceived(Event):
    """One whole message of the model. On disk before any of its calls starts.

    `purpose`: "step" is the run's own; "answer" the last one, asked for when a budget ends; "notes" what the model
    keeps of a conversation that is about to be cut. `request` is a digest of what the model was sent, `chars` its
    size, `window` the tokens that the model reads, as its provider said.
    """

    type: ClassVar[str] = "reply"
    message: Message
    usage: Usage
    finish_reason: FinishReason
    seconds: float
    purpose: Literal["step", "answer", "notes"] = "step"
    request: str = ""
    chars: int = 0
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Event):
    """The person's word on one call, before it runs. `why` is what they were told."""

    type: ClassVar[str] = "approval"
    reply: int
    index: int
    allowed: bool
    why: str


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
    """`content` is all that the tool gave. A refused call has this event and no `tool.started`.

    `invalid`: the call could not be run as it was written. `origin`: "outside" where the text was written by
    strangers (web, MCP), "private" where it is the person's own, or "both". `files`: what was made in the workspace.
    """

    type: ClassVar[str] = "tool.finished"
    reply: int
    index: int
    id: str
    name: str
    content: str
    is_error: bool
    seconds: float
    invalid: bool = False
    origin: Literal["", "outside", "private", "both"] = ""
    source: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextCut(Event):
    """From now on the model sees less of what came up to event `upto`; nothing of it is lost, handles open it.

    "hide": outputs of tools are hidden, thinking and calls stay. "notes": all of it is replaced by `notes`.
    "fresh": the conversation begins again from the goal, the plan, `notes` and the list of findings.
    """

    type: ClassVar[str] = "context"
    kind: Literal["hide", "notes", "fresh"]
    upto: int
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded(Event):
    """The run went in circles. `text` is what the model is told; "rollback" takes back the replies from `since` on."""

    type: ClassVar[str] = "guard"
    kind: str
    action: Literal["nudge", "rollback", "stop"]
    text: str
    since: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Event):
    """An answer was looked at before it went out. Where it is not `ok`, `text` is what the model is asked to do.

    "audit" compares it with what the tools showed; "doubt" asks the model what would disprove it.
    """

    type: ClassVar[str] = "check"
    kind: Literal["audit", "doubt"]
    ok: bool
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted(Event):
    """A run of this run's own: a path of heavy mode, its merge, a helper. `folder` is relative to this run's."""

    type: ClassVar[str] = "child.started"
    child: str
    folder: str
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFinished(Event):
    """`steps` and `usage` are with those of its own children. `outside`, `private`: it has read such text."""

    type: ClassVar[str] = "child.finished"
    child: str
    reason: str
    answer: str
    steps: int
    usage: Usage
    seconds: float
    outside: bool = False
    private: bool = False


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
class BudgetRaised(Event):
    """The person gave more: `limit` is the new one of the axis, None is without limit."""

    type: ClassVar[str] = "budget.raised"
    axis: str
    limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(Event):
    """Ended before its answer, by the person or by an error; the run can be resumed."""

    type: ClassVar[str] = "run.stopped"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The answer. In a chat more may follow: the next `user` event opens the run again."""

    type: ClassVar[str] = "run.finished"
    reason: RunReason
    answer: str
    steps: int
    usage: Usage
    seconds: float


_TYPES: dict[str, type[Event]] = {
    kind.type: kind
    for kind in (
        RunStarted, RunResumed, UserSaid, ReplyReceived, Approval, ToolStarted, ToolFinished, ContextCut, Guarded,
        Checked, ChildStarted, ChildFinished, Note, BudgetSpent, BudgetRaised, RunStopped, RunFinished,
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


class UnknownEvent(ValueError):
    """A whole event of a kind that this version does not know."""


def from_line(line: bytes) -> Event:
    """Raises ValueError for a line that is not a whole event, UnknownEvent for one of another version."""
    try:
        data = json.loads(line)
        name = data.pop("type")
        if isinstance(name, str) and name not in _TYPES:
            raise UnknownEvent(f"an event {name!r}")
        kind = _TYPES[name]
        known = {item.name for item in fields(kind)}
        values = {name: value for name, value in data.items() if name in known}
        if "message" in values:
            values["message"] = Message.from_json(values["message"])
        if "usage" in values:
            values["usage"] = Usage.from_json(values["usage"])
        for name in ("tools", "files"):
            if name in values:
                values[name] = tuple(values[name])
        return kind(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {error!r}") from None
