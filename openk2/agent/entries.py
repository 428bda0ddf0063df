"""The messages of a conversation as entries: how much room each takes, and what stands for it once it is put away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from openk2.agent.events import ToolFinished
from openk2.chat.messages import Message, ToolCall

LINE_CHARS = 400  # a line of an output that is longer is shown as several
MESSAGE_CHARS = 12  # what a message costs beside its text


@dataclass(frozen=True)
class Entry:
    """One message of the conversation, made by the event `seq`; `result` is set for the output of a tool."""

    seq: int
    message: Message
    result: ToolFinished | None = None
    call: ToolCall | None = None

    @cached_property
    def hidden(self) -> Message:
        """A line in place of an output; one that is no longer than the line stays.

        Made once: providers keep what they made of a message.
        """
        assert self.result is not None
        name, text = handle(self.result), self.result.content
        line = f'(output of {len(text):,} characters is put away; open(id="{name}") shows it)'
        return self.message if len(text) <= len(line) else Message("tool", line, tool_call_id=self.message.tool_call_id)

    @cached_property
    def size(self) -> int:
        return _size(self.message)

    @cached_property
    def hidden_size(self) -> int:
        return _size(self.hidden)


def size(conversation: Sequence[Message]) -> int:
    """Characters, with something for what holds a message together."""
    return sum(_size(message) for message in conversation)


def _size(message: Message) -> int:
    calls = sum(len(call.arguments) + len(call.name) + MESSAGE_CHARS for call in message.tool_calls)
    return MESSAGE_CHARS + len(message.content) + len(message.reasoning or "") + calls


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


def call_line(call: ToolCall | None) -> str:
    if call is None:
        return "call"
    text = " ".join(call.arguments.split())
    return f"{call.name}({text if len(text) <= 100 else text[:99] + '…'})"
