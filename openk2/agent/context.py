"""What the model is sent: a pure function of the state, and so of the log.

Thinking and calls are sent back as they were. An output that is long is shown in part, one that a cut has hidden in a
line; both open again by their handle `rN`, N being the number of the event that holds the output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from operator import is_not

from openk2.agent.entries import call_line, handle, size
from openk2.agent.state import State
from openk2.chat.messages import Message, ToolSpec

FINDING_CHARS = 160  # of an output in the list of findings
FINDINGS = 60  # outputs that the list names
ASKED_CHARS = 8000  # of what the person said between the first question and the present one
CHARS_A_TOKEN = 3.0  # where no reply has told the true number yet; English has about four, JSON and code three


def messages(state: State) -> list[Message]:
    """The conversation, with what the cuts so far have hidden or replaced. Not to be changed."""
    return _view(state)[1]


def chars(state: State) -> int:
    return _view(state)[2]


def _view(state: State) -> tuple[int, list[Message], int]:
    """Made once for each state of the log."""
    if state.view[0] != state.seq:
        hide = max((cut.upto for cut in state.cuts if cut.kind == "hide"), default=0)
        if state.beginning is None:
            state.beginning = _beginning(state)
        sent, total = [*state.beginning], size(state.beginning)
        for entry in state.entries:
            if entry.result is not None and entry.seq <= hide and entry.result is not state.plan:
                sent.append(entry.hidden)
                total += entry.hidden_size
            else:
                sent.append(entry.message)
                total += entry.size
        state.view = (state.seq, sent, total)
    return state.view


def tokens(state: State) -> int:
    """About how many tokens the conversation has: the count that came with the last reply, and characters since."""
    now = chars(state)
    last = state.last
    if last is None or not last.usage.prompt or not last.chars:
        return round(now / CHARS_A_TOKEN)
    if state.cut_at < last.seq and last.purpose != "notes":
        said = last.usage.prompt + last.usage.completion
        new = sum(entry.size for entry in takewhile(lambda entry: entry.seq > last.seq, reversed(state.entries)))
        return said + round(new / CHARS_A_TOKEN)
    return round(now * last.usage.prompt / last.chars)


def hideable(state: State, upto: int) -> int:
    """Characters that hiding the outputs up to event `upto` would save."""
    already = max((cut.upto for cut in state.cuts if cut.kind == "hide"), default=0)
    return sum(
        entry.size - entry.hidden_size
        for entry in state.entries
        if entry.result is not None and already < entry.seq <= upto and entry.result is not state.plan
    )


def _beginning(state: State) -> list[Message]:
    """What stands for all that was put away: what the person said, the plan, the notes, what was found."""
    system = [entry.message for entry in state.put_away if entry.message.role == "system"]
    if state.cut is None:  # a question that is read alone
        return system
    cut = state.cut.event
    if not state.habits.steer:
        return [*system, *(entry.message for entry in state.put_away if entry.seq == state.cut.turn)]
    parts = _asked(state, state.cut.turn)
    steps = sum(reply.seq <= cut.upto for reply in state.replies)
    parts.append(f"(You have worked on this for {steps} steps; the conversation so far was put away to make room.)")
    if state.cut.plan is not None:
        parts.append(f"Your plan:\n{state.cut.plan.content}")
    if cut.notes:
        parts.append(f"Your notes:\n{cut.notes}")
    if cut.kind == "fresh":
        parts.append(_findings(state))
    parts.append('find(id="run", pattern=...) searches all that was shown and said in this run.')
    return [*system, Message("user", "\n\n".join(part for part in parts if part))]


def _asked(state: State, turn: int) -> list[str]:
    """What the person said: the first question, that of the turn, and as much in between as has room."""
    own = state.by_the_loop()
    said = [e for e in state.put_away if e.message.role == "user" and e.seq not in own]
    kept, room = [], ASKED_CHARS
    for entry in reversed(said[1:]):
        room -= entry.size
        if room < 0 and entry.seq < turn:
            break
        kept.append(entry.message.content)
    left = len(said) - 1 - len(kept)
    more = [f"({left} messages of the person are put away here; find reads them too.)"] if left else []
    return [*(entry.message.content for entry in said[:1]), *more, *reversed(kept)]


def _findings(state: State) -> str:
    """One line for each of the last outputs: its handle, the call, how it begins."""
    found = [(e.result, e.call) for e in state.put_away if e.result is not None]
    found = [(result, call) for result, call in found if not result.is_error and result.name != "plan"]
    lines = [
        f"{handle(result)} {call_line(call)}: {' '.join(result.content.split())[:FINDING_CHARS]}"
        for result, call in found[-FINDINGS:]
    ]
    if not lines:
        return ""
    more = f" (the last {FINDINGS} of {len(found)})" if len(found) > FINDINGS else ""
    return f"What the tools showed{more}, by handle:\n" + "\n".join(lines)


class Digest:
    """A short digest of all that a model is sent, to tell whether a replayed run sends the same.

    What is the same as the time before is not gone through again.
    """

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._tools = hashlib.blake2b(_dump([spec.to_wire() for spec in specs]), digest_size=8)
        self._before: list[Message] = []
        self._state = self._tools.copy()

    def of(self, conversation: Sequence[Message]) -> str:
        same = len(self._before)
        if same > len(conversation) or any(map(is_not, self._before, conversation)):
            same, self._state = 0, self._tools.copy()
        for message in conversation[same:]:
            self._state.update(_digest(message))
        self._before = list(conversation)
        return self._state.hexdigest()


@lru_cache(maxsize=1 << 14)
def _digest(message: Message) -> bytes:
    return hashlib.blake2b(_dump(message.to_json()), digest_size=16).digest()


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
