"""Where a run stands: its events folded one by one, so that a step costs the same at its start and after hundreds.

`State.of(events)` is a pure function of the log. A loop folds each event that it appends into the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from openk2.agent.entries import Entry, shown
from openk2.agent.events import (
    Approval,
    BudgetRaised,
    Checked,
    ChildFinished,
    ChildStarted,
    ContextCut,
    Event,
    Guarded,
    ReplyReceived,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    ToolFinished,
    ToolStarted,
    UserSaid,
)
from openk2.agent.habits import Habits
from openk2.chat.messages import Message, ToolCall
from openk2.providers.base import Usage

SLACK = 60.0  # seconds between two events beside what the later one took: a person who is asked, a busy machine


@dataclass(frozen=True, slots=True)
class Pending:
    """A call that has no result yet. `begun`: it was started by a process that is gone."""

    reply: int
    index: int
    call: ToolCall
    begun: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut that began the conversation anew, with the question of that time and the plan that it put away."""

    event: ContextCut
    turn: int
    plan: ToolFinished | None


@dataclass
class Spending:
    """What was used since a question was asked."""

    steps: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


class State:
    """The fields are for reading; `fold` alone changes them."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.habits = Habits()
        self.entries: list[Entry] = []  # the conversation; what was rolled back is not in it
        self.put_away: list[Entry] = []  # what notes or a fresh start stand for
        self.cut: Cut | None = None  # what made the last of it be put away
        self.beginning: list[Message] | None = []  # and what stands for it, made by `context`
        self.replies: list[ReplyReceived] = []
        self.results: dict[tuple[int, int], ToolFinished] = {}  # by reply and index
        self.begun: set[tuple[int, int]] = set()
        self.approvals: dict[tuple[int, int], Approval] = {}
        self.cuts: list[ContextCut] = []
        self.guards: list[Guarded] = []
        self.checks: list[Checked] = []
        self.raised: dict[str, float | None] = {}
        self.children: dict[str, ChildStarted | ChildFinished] = {}
        self.plan: ToolFinished | None = None
        self.outside = self.private = False  # whether text of strangers, or of the person, was read
        self.finished: RunFinished | None = None
        self.ended = False  # by an answer or before it: what the person says next is a new question
        self.turn = 0  # number of the event that asked the present question
        self.spent = Spending()  # in this turn
        self.total = Usage()  # of the whole run
        self.total_seconds = 0.0
        self.cut_at = 0  # the last event that made the conversation shorter
        self.seq = 0
        self.view: tuple[int, list[Message], int] = (-1, [], 0)  # kept by `context`
        self._begin: float | None = None
        self._last = 0.0

    @classmethod
    def of(cls, events: Iterable[Event]) -> State:
        state = cls()
        for event in events:
            state.fold(event)
        return state

    def fold(self, event: Event) -> None:
        self._clock(event)
        self._fold(event)
        self.seq = event.seq

    def _fold(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.started, self.turn = event, event.seq
            self.habits = Habits.from_json(event.habits)
            self.outside, self.private = event.outside, event.private
            if event.system:
                self.entries.append(Entry(event.seq, Message("system", event.system)))
            self._said(event.seq, event.question)
        elif isinstance(event, UserSaid):
            if self.ended:
                self.turn, self.spent = event.seq, Spending()
                if not self.habits.steer:
                    self._put_away(event.seq)
            self.finished, self.ended = None, False
            self._said(event.seq, event.text)
        elif isinstance(event, ReplyReceived):
            self._reply(event)
        elif isinstance(event, ToolStarted):
            self.begun.add((event.reply, event.index))
        elif isinstance(event, ToolFinished):
            self._result(event)
        elif isinstance(event, Approval):
            self.approvals[event.reply, event.index] = event
        elif isinstance(event, ContextCut):
            self._cut(event)
        elif isinstance(event, Guarded):
            self._guard(event)
        elif isinstance(event, Checked):
            self.checks.append(event)
            if not event.ok:
                self._said(event.seq, event.text)
        elif isinstance(event, ChildStarted):
            self.children[event.child] = event
        elif isinstance(event, ChildFinished):
            self.children[event.child] = event
            self.spent.steps += event.steps
            self.outside |= event.outside
            self.private |= event.private
            self._use(event.usage)
        elif isinstance(event, BudgetRaised):
            self.raised[event.axis] = event.limit
        elif isinstance(event, RunResumed):
            self.ended = False
        elif isinstance(event, RunStopped):
            self.ended = True
        elif isinstance(event, RunFinished):
            self.finished, self.ended = event, True

    # What is asked of a state.

    @property
    def last(self) -> ReplyReceived | None:
        return self.replies[-1] if self.replies else None

    @property
    def steps(self) -> int:
        """Replies of the whole run."""
        return len(self.replies)

    def pending(self) -> list[Pending]:
        """The calls of the last reply that have no result, in their order."""
        last = self.last
        if last is None or last.purpose == "notes":  # notes are text; what else stands in them is not run
            return []
        return [
            Pending(last.seq, index, call, (last.seq, index) in self.begun)
            for index, call in enumerate(last.message.tool_calls)
            if (last.seq, index) not in self.results
        ]

    @property
    def answered(self) -> ReplyReceived | None:
        """The reply that is an answer, if nothing was said since."""
        last = self.last
        if last is None or last.purpose == "notes" or last.message.tool_calls or is_empty(last.message):
            return None
        return last if self.entries and self.entries[-1].seq == last.seq else None

    def everything(self) -> list[Entry]:
        """The conversation with what was put away."""
        return [*self.put_away, *self.entries]

    def by_the_loop(self) -> set[int]:
        """The numbers of the messages that the loop wrote where else the person speaks."""
        return {event.seq for event in (*self.guards, *self.checks)}

    @property
    def stuck(self) -> bool:
        """Whether a guard has ended this turn."""
        return bool(self.guards) and self.guards[-1].action == "stop" and self.guards[-1].seq > self.turn

    @property
    def empty_replies(self) -> int:
        """How many replies of thought alone came last."""
        count = 0
        for reply in reversed(self.replies):
            if reply.seq <= self.turn or not is_empty(reply.message):
                break
            count += reply.purpose != "notes"
        return count

    def best_answer(self) -> str:
        """The last thing the model said to the person in this turn, also beside a call; empty when it said nothing."""
        for reply in reversed(self.replies):
            if reply.seq <= self.turn:
                break
            if reply.purpose != "notes" and (said := reply.message.content.strip()):
                return said
        return ""

    # How it is folded.

    def _clock(self, event: Event) -> None:
        if isinstance(event, RunStarted | RunResumed) or (isinstance(event, UserSaid) and self.ended):
            self._begin = event.ts
        elif self._begin is not None:
            # A clock that is set forward uses up no budget: an event is no longer than it says, and a little.
            longest = getattr(event, "seconds", 0.0) + SLACK
            passed = min(max(0.0, event.ts - self._last), longest)
            self.spent.seconds += passed
            self.total_seconds += passed
        self._last = event.ts

    def _said(self, seq: int, text: str) -> None:
        self.entries.append(Entry(seq, Message("user", text)))

    def _use(self, usage: Usage) -> None:
        self.total = self.total + usage
        self.spent.usage = self.spent.usage + usage

    def _reply(self, event: ReplyReceived) -> None:
        self.replies.append(event)
        self.spent.steps += 1
        self._use(event.usage)
        if event.purpose != "notes" and not is_empty(event.message):
            self.entries.append(Entry(event.seq, event.message))

    def _result(self, event: ToolFinished) -> None:
        """Results stand behind their reply in the order of its calls, in whichever order they came."""
        key = (event.reply, event.index)
        self.results[key] = event
        self.outside |= event.origin in ("outside", "both")
        self.private |= event.origin in ("private", "both")
        if event.name == "plan" and not event.is_error:
            self.plan = event
        place = len(self.entries)
        while place and not self._before(self.entries[place - 1], key):
            place -= 1
        if not place:  # its reply was rolled back
            return
        reply = next((r for r in reversed(self.replies) if r.seq == event.reply), None)
        call = reply.message.tool_calls[event.index] if reply else None
        self.entries.insert(place, Entry(event.seq, shown(event, self.habits.spill), event, call))

    @staticmethod
    def _before(entry: Entry, key: tuple[int, int]) -> bool:
        """Whether the entry comes before the result `key` in the conversation."""
        if entry.result is not None:
            return (entry.result.reply, entry.result.index) < key
        return entry.seq <= key[0]

    def _cut(self, event: ContextCut) -> None:
        self.cuts.append(event)
        self.cut_at = event.seq
        if event.kind != "hide":
            self._put_away(event.upto)
            plan = self.plan if self.plan is not None and self.plan.seq <= event.upto else None
            self.cut = Cut(event, self.turn, plan)

    def _put_away(self, upto: int) -> None:
        self.put_away += [entry for entry in self.entries if entry.seq <= upto]
        self.entries = [entry for entry in self.entries if entry.seq > upto]
        self.cut, self.beginning = None, None

    def _guard(self, event: Guarded) -> None:
        self.guards.append(event)
        if event.action == "rollback":
            self.entries = [e for e in self.entries if e.seq < event.since or e.message.role == "user"]
            self.cut_at = event.seq
        if event.action != "stop":
            self._said(event.seq, event.text)


def is_empty(message: Message) -> bool:
    """A reply of thought alone: neither an answer nor a call."""
    return not message.content.strip() and not message.tool_calls


def limits(started: RunStarted, raised: Mapping[str, float | None]) -> dict[str, float | None]:
    """The budget of a run with what the person added since."""
    return {**started.budget, **raised}
