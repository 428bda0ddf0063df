"""The conversation, as a pure function of the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openk2.agent.events import Event, ReplyReceived, RunStarted, ToolFinished, ToolStarted
from openk2.chat.messages import Message, ToolCall


@dataclass(frozen=True, slots=True)
class Pending:
    """A call that has no result yet. `begun`: it was started by a process that is gone."""

    reply: int
    index: int
    call: ToolCall
    begun: bool


def is_empty(message: Message) -> bool:
    """A reply of thought alone: neither an answer nor a call."""
    return not message.content.strip() and not message.tool_calls


def messages(events: Sequence[Event]) -> list[Message]:
    """What the model is sent. Replies without answer and call are left out: they are asked for again."""
    conversation: list[Message] = []
    results = {(e.reply, e.index): e for e in events if isinstance(e, ToolFinished)}
    for event in events:
        if isinstance(event, RunStarted):
            if event.system:
                conversation.append(Message("system", event.system))
            conversation.append(Message("user", event.question))
        elif isinstance(event, ReplyReceived) and not is_empty(event.message):
            conversation.append(event.message)
            for index, call in enumerate(event.message.tool_calls):
                if result := results.get((event.seq, index)):
                    conversation.append(Message("tool", result.content, tool_call_id=call.id))
    return conversation


def replies(events: Sequence[Event]) -> list[ReplyReceived]:
    return [event for event in events if isinstance(event, ReplyReceived)]


def pending(events: Sequence[Event]) -> list[Pending]:
    """The calls of the last reply that have no result, in their order."""
    made = replies(events)
    if not made:
        return []
    last = made[-1]
    done = {e.index for e in events if isinstance(e, ToolFinished) and e.reply == last.seq}
    begun = {e.index for e in events if isinstance(e, ToolStarted) and e.reply == last.seq}
    calls = enumerate(last.message.tool_calls)
    return [Pending(last.seq, index, call, index in begun) for index, call in calls if index not in done]


def best_answer(events: Sequence[Event]) -> str:
    """The last thing the model said to the person, also beside a call; empty when it said nothing."""
    said = [reply.message.content.strip() for reply in replies(events)]
    return next((content for content in reversed(said) if content), "")
