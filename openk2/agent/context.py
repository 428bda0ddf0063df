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

from openk2.agent.events import ContextCut, ToolFinished
from openk2.agent.state import Entry, State
from openk2.chat.messages import Message, ToolCall, ToolSpec

LINE_CHARS = 400  # a line of an output that is longer is shown as several
FINDING_CHARS = 160  # of an output in the list of findings
FINDINGS = 60  # outputs that the list names
ASKED_CHARS = 8000  # of what the person said between the first question and the present one
CHARS_A_TOKEN = 3.0  # where no reply has told the true number yet; English has about four, JSON and code three
MESSAGE_CHARS = 12  # what a message costs beside its text


def messages(state: State) -> list[Message]:
    """The conversation, with what the cuts so far have hidden or replaced. Not to be changed."""
    return _view(state)[1]


def chars(state: State) -> int:
    return _view(state)[2]


def _view(state: State) -> tuple[int, list[Message], int]:
    """Made once for each state of the log."""
    if state.view[0] != state.seq:
        hide = max((cut.upto for cut in state.cuts if cut.kind == "hide"), default=0)
        sent, total = [*state.restart], size(state.restart)
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
    if last is None or not last.usage.prompt or not state.seen_chars:
        return round(now / CHARS_A_TOKEN)
    if state.cut_at < last.seq and last.purpose != "notes":
        said = last.usage.prompt + last.usage.completion
        new = sum(entry.size for entry in takewhile(lambda entry: entry.seq > last.seq, reversed(state.entries)))
        return said + round(new / CHARS_A_TOKEN)
    return round(now * last.usage.prompt / state.seen_chars)


def size(conversation: Sequence[Message]) -> int:
    """Characters, with something for what holds a message together."""
    return sum(_size(message) for message in conversation)


def handle(result: ToolFinished) -> str:
    return f"r{result.seq}"


def shown(result: ToolFinished, spill: int) -> Message:
    """The output of a tool as a message: whole, or its beginning and end where it is long."""
    return Message("tool", spilled(result.content, spill, handle(result)), tool_call_id=result.id)


def spilled(text: str, spill: int, name: str) -> str:
    if len(text) <= spill + 200:  # the sentence in between has a size of its own
        return text
    head, tail = spill * 3 // 4, spill // 4
    head = text.rfind("\n", head // 2, head) + 1 or head  # at the end of a line, where lines are not very long
    line = len(lines(text[:head]))
    left = len(text) - head - tail
    return (
        f"{text[:head].rstrip()}\n... {left:,} of {len(text):,} characters are not shown; "
        f'open(id="{name}", line={line}) reads on, find(id="{name}", pattern=...) searches them ...\n{text[-tail:]}'
    )


def lines(text: str) -> list[str]:
    """The lines of an output as `open` and `find` number them: a long one is several."""
    return [
        line[start : start + LINE_CHARS]
        for line in text.split("\n")
        for start in range(0, max(1, len(line)), LINE_CHARS)
    ]


def hidden(entry: Entry) -> Message:
    """A line in place of an output; an output that is no longer than the line stays."""
    assert entry.result is not None
    name, text = handle(entry.result), entry.result.content
    line = f'(output of {len(text):,} characters is put away; open(id="{name}") shows it)'
    if len(text) <= len(line):
        return entry.message
    return Message("tool", line, tool_call_id=entry.message.tool_call_id)


def hideable(state: State, upto: int) -> int:
    """Characters that hiding the outputs up to event `upto` would save."""
    already = max((cut.upto for cut in state.cuts if cut.kind == "hide"), default=0)
    return sum(
        entry.size - entry.hidden_size
        for entry in state.entries
        if entry.result is not None and already < entry.seq <= upto and entry.result is not state.plan
    )


def restart(state: State, cut: ContextCut) -> list[Message]:
    """The beginning of a conversation that was cut: what the person said, the plan, the notes, what was found."""
    if not state.habits.steer:
        return [*state.restart, *(entry.message for entry in state.put_away if entry.seq == state.turn)]
    parts = _asked(state)
    steps = sum(reply.seq <= cut.upto for reply in state.replies)
    parts.append(f"(You have worked on this for {steps} steps; the conversation so far was put away to make room.)")
    if state.plan is not None and state.plan.seq <= cut.upto:
        parts.append(f"Your plan:\n{state.plan.content}")
    if cut.notes:
        parts.append(f"Your notes:\n{cut.notes}")
    if cut.kind == "fresh":
        parts.append(_findings(state))
    parts.append('find(id="run", pattern=...) searches all that was shown and said in this run.')
    return [*state.restart, Message("user", "\n\n".join(part for part in parts if part))]


def _asked(state: State) -> list[str]:
    """What the person said: the first question, the present one, and as much in between as has room."""
    own = state.by_the_loop()
    said = [e for e in state.put_away if e.message.role == "user" and e.seq not in own]
    kept, room = [], ASKED_CHARS
    for entry in reversed(said[1:]):
        room -= entry.size
        if room < 0 and entry.seq < state.turn:
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


def call_line(call: ToolCall | None) -> str:
    if call is None:
        return "call"
    text = " ".join(call.arguments.split())
    return f"{call.name}({text if len(text) <= 100 else text[:99] + '…'})"


def _size(message: Message) -> int:
    calls = sum(len(call.arguments) + len(call.name) + MESSAGE_CHARS for call in message.tool_calls)
    return MESSAGE_CHARS + len(message.content) + len(message.reasoning or "") + calls


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
