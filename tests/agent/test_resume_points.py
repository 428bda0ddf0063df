"""A run that ends after any of its events and goes on comes to the same end, in as many steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from openk2.agent import log
from openk2.agent.budget import Budget
from openk2.agent.events import Event, ReplyReceived, RunFinished, RunStarted
from openk2.agent.habits import Habits
from openk2.agent.loop import Loop
from openk2.chat.messages import Message, ToolSpec
from openk2.providers.base import Delta, Limits, Reply, Usage
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import tool
from openk2.tools.calculator import calculator


@tool(idempotent=True)
def page(number: int) -> str:
    """A page of a long book."""
    return f"Page {number}. " + "word " * 400


TOOLS = {"calculator": calculator, "page": page}
ADD, DOUBLE = (call(("calculator", f'{{"expression": "{text}"}}')) for text in ("1+1", "2*21"))
PAGES = [call(("page", f'{{"number": {number}}}')) for number in range(24)]
RUNS = {
    "budget": (Budget(steps=3), Habits(), [ADD, DOUBLE, ADD], None, "Best so far."),
    "circles": (Budget(), Habits(), [ADD] * 20, None, "No answer was reached: the run went in circles."),
    "window": (Budget(), Habits(), [*PAGES, say("It is on page 7.")], 2500, "It is on page 7."),
    "doubts": (Budget(), Habits(revisions=2, doubt=True),
               [ADD, say("It is 4711 [x:3]."), DOUBLE, say("It is 42."), say("It is 42, truly.")], None,
               "It is 42, truly."),
    "empty": (Budget(), Habits(), [ADD, say("", "hm"), say("It is 2.")], None, "It is 2."),
}  # fmt: skip


class ByStep(ScriptedProvider):
    """The reply is chosen by the steps in the log, whatever of them the conversation still shows."""

    def __init__(self, steps: Sequence[Message], opened: log.Log, window: int | None) -> None:
        super().__init__(steps, window=window)
        self.log = opened

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        done = sum(isinstance(event, ReplyReceived) and event.purpose == "step" for event in self.log.events)
        message: Message = self.steps[min(done, len(self.steps) - 1)]  # type: ignore[assignment]
        if limits.tool_choice == "none":
            message = say("Best so far.")
        read = sum(len(sent.content) // 4 + 5 for sent in messages)
        yield Reply(message, Usage(prompt=read, completion=10), "tool_calls" if message.tool_calls else "stop")


def work(opened: log.Log, steps: Sequence[Message], window: int | None) -> RunFinished:
    with opened:
        return asyncio.run(Loop(opened, ByStep(steps, opened, window), TOOLS).run())


@pytest.mark.parametrize("name", RUNS)
def test_the_same_end_from_every_point(name: str, tmp_path: Path) -> None:
    budget, habits, steps, window, answer = RUNS[name]
    with log.Log.create(tmp_path / "whole") as opened:
        opened.append(RunStarted(run="r", question="?", budget=budget.to_json(), habits=habits.to_json()))
        end = work(opened, steps, window)
    assert end.answer.startswith(answer)
    lines = (tmp_path / "whole" / log.LOG).read_bytes().splitlines(keepends=True)
    for point in range(1, len(lines)):
        (folder := tmp_path / str(point)).mkdir()
        (folder / log.LOG).write_bytes(b"".join(lines[:point]))
        before: list[Event] = log.read(folder)
        again = work(log.Log.open(folder), steps, window)
        assert (again.reason, again.answer, again.steps) == (end.reason, end.answer, end.steps), before[-1]
