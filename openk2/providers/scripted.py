"""A provider whose replies are given beforehand: for tests, demonstrations and replay.

It keeps no state between calls. The reply is chosen by the number of assistant messages already in the
conversation, so a resumed run goes on exactly where its log ends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Price, Reply, Usage

Step = Message | Callable[[Sequence[Message]], Message]


def say(content: str, reasoning: str | None = None) -> Message:
    """A final answer."""
    return Message("assistant", content, reasoning)


def call(*calls: tuple[str, str], reasoning: str | None = None, first: int = 0) -> Message:
    """An assistant message of (tool name, JSON arguments) pairs; ids count on from `first`."""
    made = tuple(ToolCall(f"functions.{name}:{first + i}", name, text) for i, (name, text) in enumerate(calls))
    return Message("assistant", "", reasoning, made)


class ScriptedProvider:
    """Answers with `steps[n]` where n is the number of assistant messages so far; a step may be a function.

    `window` and `price` are what it says of itself; with a price, usage has money.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        name: str = "scripted",
        *,
        window: int | None = None,
        price: Price | None = None,
    ) -> None:
        self.steps = list(steps)
        self.name, self.window, self.price = name, window, price

    @classmethod
    def from_file(cls, path: str | Path) -> ScriptedProvider:
        """One wire message (JSON) a line."""
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return cls([Message.from_json(json.loads(line)) for line in lines if line.strip()])

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        turn = sum(m.role == "assistant" for m in messages)
        if turn >= len(self.steps):
            raise UserError(
                f"The script has {len(self.steps)} replies and a further one was asked for; add it to the script."
            )
        step = self.steps[turn]
        message = step(messages) if callable(step) else step
        if message.reasoning:
            yield Delta("reasoning", message.reasoning)
        if message.content:
            yield Delta("content", message.content)
        for made in message.tool_calls:
            yield Delta("call", f"{made.name}({made.arguments})")
        # A word is about a token: budgets can be tested without a tokenizer.
        thought = len((message.reasoning or "").split())
        written = len(message.content.split()) + sum(len(c.arguments.split()) for c in message.tool_calls)
        prompt = sum(len(m.content.split()) for m in messages)
        usage = Usage(prompt=prompt, reasoning=thought, completion=thought + written)
        if self.price:
            usage = replace(usage, money=self.price.cost(usage))
        yield Reply(message, usage, "tool_calls" if message.tool_calls else "stop")
