"""Providers that answer each path of heavy mode, and its merge, from a script of its own; and what reads their logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openk2.agent import log
from openk2.agent.budget import Budget
from openk2.agent.children import below
from openk2.agent.events import Event, ReplyReceived, RunFinished, RunStarted
from openk2.agent.habits import Habits
from openk2.agent.heavy import SEEDS, Heavy
from openk2.agent.setup import Setup
from openk2.chat.messages import Message, ToolSpec
from openk2.providers.base import Delta, Limits, Price, Reply
from openk2.providers.scripted import ScriptedProvider, Step
from openk2.tools.base import Tool

QUESTION = "In which year was the Alma bridge opened?"


class Scripts:
    """`paths[n]` for path n, found by its seed; `merge` for every other question. Each reply takes `seconds`."""

    name, window = "scripts", None

    def __init__(
        self,
        paths: Mapping[int, Sequence[Step]],
        merge: Sequence[Step] = (),
        *,
        price: Price | None = None,
        seconds: Callable[[int], float] = lambda _: 0.0,
        question: str = QUESTION,
    ) -> None:
        self.paths = {number: ScriptedProvider(steps, price=price) for number, steps in paths.items()}
        self.merge = ScriptedProvider(merge, price=price)
        self.price, self.seconds, self.question = price, seconds, question
        self.asked: list[tuple[int, list[Message], Limits]] = []  # path (0: the merge), conversation, limits

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        first = next(message.content for message in messages if message.role == "user")
        number = 1 + (limits.seed or 0) // SEEDS if first == self.question else 0
        self.asked.append((number, list(messages), limits))
        await asyncio.sleep(self.seconds(number))
        provider = self.paths[number] if number else self.merge
        async for piece in provider.stream(messages, tools, limits):
            yield piece


def begin(folder: Path, **settings: Any) -> log.Log:
    opened = log.Log.create(folder)
    opened.append(started(folder.name, **settings))
    return opened


def started(
    run: str,
    *,
    paths: int = 8,
    merge: str = "vote",
    budget: Budget | None = None,
    steer: bool = True,
    agree: int | None = None,
) -> RunStarted:
    return RunStarted(
        run=run,
        question=QUESTION,
        system="Be brief.",
        setup=Setup("heavy", "scripted", "http://none", paths=paths, merge=merge, agree=agree).to_json(),
        budget=(budget or Budget()).to_json(),
        limits={"seed": 0},
        habits=Habits(steer=steer).to_json(),
    )


def work(opened: log.Log, provider: Any, tools: Mapping[str, Tool] | None = None, **more: Any) -> RunFinished:
    with opened:
        return asyncio.run(Heavy(opened, provider, lambda _: tools or {}, **more).run())


async def work_until(opened: log.Log, provider: Any, tools: Mapping[str, Tool], replies: int) -> None:
    """Cancelled as soon as all paths together have so many replies."""
    count = 0

    def watch(_: str, item: object) -> None:
        nonlocal count
        count += isinstance(item, ReplyReceived)
        if count == replies and isinstance(item, ReplyReceived):
            task.cancel()

    with opened:
        task = asyncio.create_task(Heavy(opened, provider, lambda _: tools, watch=watch).run())
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


def logs(folder: Path) -> dict[str, list[Event]]:
    """The events of every run below, by its place."""
    return {str(place.relative_to(folder)): log.read(place) for place in below(folder)}


def replies(folder: Path) -> list[ReplyReceived]:
    return [event for events in logs(folder).values() for event in events if isinstance(event, ReplyReceived)]
