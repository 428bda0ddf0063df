"""What the model is sent: a pure function of the state, and so of the log.

Thinking and calls are sent back as they were. An output that is long is shown in part, one that a cut has hidden in a
line; both open again by their handle `rN`, N being the number of the event that holds the output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from openk2.agent.events import ContextCut, ToolFinished
from openk2.agent.state import Entry, State
from openk2.chat.messages import Message, ToolCall, ToolSpec

FINDING_CHARS = 160  # of an output in the list of findings
FINDINGS = 60  # outputs that the list names
CHARS_A_TOKEN = 3.0  # where no reply has told the true number yet; English has about four, JSON and code three
MESSAGE_CHARS = 12  # what a message costs beside its text


def messages(state: State) -> list[Message]:
    """The conversation, with what the cuts so far have hidden or replaced."""
    hide = max((cut.upto for cut in state.cuts if cut.kind == "hide"), default=0)
    replaced = next((cut for cut in reversed(state.cuts) if cut.kind != "hide"), None)
    sent: list[Message] = []
    if replaced is not None:
        sent += _restart(state, replaced)
    for entry in state.entries:
        if replaced is not None and entry.seq <= replaced.upto:
            continue
        if entry.result is not None and entry.seq <= hide and entry.result is not state.plan:
            sent.append(entry.hidden)
        else:
            sent.append(entry.message)
    return sent


def tokens(state: State) -> int:
    """About how many tokens the conversation has: the count that came with the last reply, and characters since."""
    now = size(messages(state))
    last = state.last
    if last is None or not last.usage.prompt or not state.seen_chars:
        return round(now / CHARS_A_TOKEN)
    if state.cut_at < last.seq and last.purpose != "notes":
        said = last.usage.prompt + last.usage.completion
        new = sum(_size(entry.message) for entry in state.entries if entry.seq > last.seq)
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
    head = spill * 3 // 4
    tail = spill - head
    line = text.count("\n", 0, head) + 1
    left = len(text) - head - tail
    return (
        f"{text[:head]}\n... {left:,} of {len(text):,} characters are not shown; "
        f'open(id="{name}", line={line}) reads on, find(id="{name}", pattern=...) searches them ...\n{text[-tail:]}'
    )


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
    gone = max((cut.upto for cut in state.cuts if cut.kind != "hide"), default=0)
    return sum(
        _size(entry.message) - _size(entry.hidden)
        for entry in state.entries
        if entry.result is not None and max(already, gone) < entry.seq <= upto and entry.result is not state.plan
    )


def _restart(state: State, cut: ContextCut) -> list[Message]:
    """The beginning of a conversation that was cut: what the person said, the plan, the notes, what was found."""
    sent = [entry.message for entry in state.entries if entry.message.role == "system"]
    asked = [entry.message.content for entry in state.entries if _from_person(entry, state) and entry.seq <= cut.upto]
    parts = [*asked]
    steps = sum(reply.seq <= cut.upto for reply in state.replies)
    parts.append(f"(You have worked on this for {steps} steps; the conversation so far was put away to make room.)")
    if state.plan is not None and state.plan.seq <= cut.upto:
        parts.append(f"Your plan:\n{state.plan.content}")
    if cut.notes:
        parts.append(f"Your notes:\n{cut.notes}")
    if cut.kind == "fresh":
        parts.append(_findings(state, cut.upto))
    parts.append('find(id="run", pattern=...) searches everything that the tools have shown in this run.')
    return [*sent, Message("user", "\n\n".join(part for part in parts if part))]


def _from_person(entry: Entry, state: State) -> bool:
    if entry.message.role != "user":
        return False
    own = {event.seq for event in (*state.guards, *state.checks)}
    return entry.seq not in own


def _findings(state: State, upto: int) -> str:
    """One line for each of the last outputs: its handle, the call, how it begins."""
    found = [e for e in state.entries if e.result is not None and not e.result.is_error and e.seq <= upto]
    lines = [
        f"{handle(e.result)} {call_line(e.call)}: {' '.join(e.result.content.split())[:FINDING_CHARS]}"
        for e in found[-FINDINGS:]
        if e.result is not None and e.result is not state.plan
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


def digest(conversation: Sequence[Message], specs: Sequence[ToolSpec]) -> str:
    """A short digest of all that a model is sent, to tell whether a replayed run sends the same."""
    whole = hashlib.blake2b(digest_size=8)
    for spec in specs:
        whole.update(_dump(spec.to_wire()))
    for message in conversation:
        whole.update(_digest(message))
    return whole.hexdigest()


@lru_cache(maxsize=1 << 14)
def _digest(message: Message) -> bytes:
    return hashlib.blake2b(_dump(message.to_json()), digest_size=16).digest()


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
