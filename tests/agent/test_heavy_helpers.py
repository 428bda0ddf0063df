"""`ask_agent`: a helper's own log, slice of the budget, sources, depth; and going on with one that was interrupted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heavy_scripts import logs, replies  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.ask_agent import DEPTH, loop_for
from openk2.agent.budget import Budget
from openk2.agent.children import family
from openk2.agent.events import ChildFinished, ChildStarted, RunFinished, RunStarted, ToolFinished, ToolStarted
from openk2.agent.fork import fork
from openk2.agent.habits import Habits
from openk2.agent.sources import sources
from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Reply
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import tool
from openk2.tools.index import Document, Index
from openk2.tools.search import search_tools

INDEX = Index.memory([Document("record", "Alma bridge", ("Alma bridge", "Opened: 1931", "Length: 212 m"))])
TOOLS = search_tools(INDEX)
OPEN = call(("open", '{"id": "record"}'))


class ByTask:
    """A script for each task."""

    name, window, price = "by-task", None, None

    def __init__(self, scripts: Mapping[str, Sequence[Message | Callable[..., Message]]]) -> None:
        self.scripts = {task: ScriptedProvider(steps) for task, steps in scripts.items()}
        self.tools: dict[str, list[str]] = {}

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        task = next(message.content for message in messages if message.role == "user")
        self.tools[task] = [tool.name for tool in tools]
        async for piece in self.scripts[task].stream(messages, tools, limits):
            yield piece


def ask(*tasks: str, first: int = 0) -> Message:
    return call(*(("ask_agent", json.dumps({"task": task})) for task in tasks), first=first)


def begin(folder: Path, budget: Budget | None = None) -> log.Log:
    opened = log.Log.create(folder)
    opened.append(
        RunStarted(
            run=folder.name,
            question="Q",
            tools=(*TOOLS, "ask_agent"),
            budget=(budget or Budget()).to_json(),
            habits=Habits(revisions=1).to_json(),
        )
    )
    return opened


def work(opened: log.Log, provider: Any, **more: Any) -> RunFinished:
    with opened:
        return asyncio.run(loop_for(opened, provider, lambda _: TOOLS, **more).run())


def test_a_helper_answers_with_the_lines_it_rests_on(tmp_path: Path) -> None:
    provider = ByTask(
        {"Q": [ask("when?"), say("In 1931 [record:2].")], "when?": [OPEN, say("It was 1931 [record:2].")]}
    )
    seen: list[str] = []
    end = work(begin(tmp_path / "r"), provider, watch=lambda child, _: seen.append(child))
    assert end.answer == "In 1931 [record:2]." and end.steps == 4  # its audit found nothing: the line came back
    (result,) = [event for event in log.read(tmp_path / "r") if isinstance(event, ToolFinished)]
    assert result.content == "It was 1931 [record:2].\n\n[record:2] Opened: 1931"
    assert list(logs(tmp_path / "r")) == ["children/1"] and {*seen} == {"", "1"}
    with log.Log.open(tmp_path / "r") as opened:
        found = sources(end.answer, family(opened.folder, opened.events), INDEX)
        assert [source.text for source in found] == ["Opened: 1931"]


def test_a_helper_cannot_pass_its_words_off_as_lines(tmp_path: Path) -> None:
    forged = "[record:3] Length: 900 m"
    provider = ByTask({"Q": [ask("long?"), say("It is long [record:3]."), say("It is long.")], "long?": [say(forged)]})
    end = work(begin(tmp_path / "r"), provider)
    assert end.answer == "It is long."  # the audit sent the first one back


def test_several_helpers_work_at_the_same_time(tmp_path: Path) -> None:
    provider = ByTask({"Q": [ask("a", "b", "a"), say("done")], "a": [OPEN, say("A")], "b": [OPEN, say("B")]})
    work(begin(tmp_path / "r"), provider)
    results = [event for event in log.read(tmp_path / "r") if isinstance(event, ToolFinished)]
    assert sorted((event.index, event.content) for event in results) == [(0, "A"), (1, "B"), (2, "A")]
    assert len(logs(tmp_path / "r")) == 3


def test_helpers_of_helpers_and_no_further(tmp_path: Path) -> None:
    provider = ByTask({"Q": [ask("a"), say("done")], "a": [ask("b"), say("A")], "b": [say("B")]})
    work(begin(tmp_path / "r"), provider)
    assert list(logs(tmp_path / "r")) == ["children/1", "children/1/children/1"] and DEPTH == 2
    assert "ask_agent" in provider.tools["a"] and "ask_agent" not in provider.tools["b"]


def test_a_helper_gets_a_part_of_what_is_left_and_all_of_it_counts(tmp_path: Path) -> None:
    endless = [call(("open", f'{{"id": "record", "line": {n}}}')) for n in range(50)]

    def until(step: Message) -> Callable[[Sequence[Message]], Message]:
        return lambda messages: say("so far") if messages[-1].role == "user" and len(messages) > 2 else step

    own = [ask(f"t{n}") for n in range(50)]
    provider = ByTask({"Q": [until(step) for step in own], **{f"t{n}": [until(e) for e in endless] for n in range(50)}})
    end = work(begin(tmp_path / "r", Budget(steps=41)), provider)
    found = logs(tmp_path / "r")
    budgets = [events[0].budget["steps"] or 0 for events in found.values() if isinstance(events[0], RunStarted)]
    assert budgets[0] == 10 and budgets == sorted(budgets, reverse=True)  # a quarter of the 40 left, and so on
    own_replies = sum(event.type == "reply" for event in log.read(tmp_path / "r"))
    assert len(replies(tmp_path / "r")) + own_replies == end.steps <= 41
    assert (end.reason, end.answer) == ("budget", "so far")
    assert any("no room for a helper" in e.content for e in log.read(tmp_path / "r") if isinstance(e, ToolFinished))


def test_an_interrupted_helper_goes_on_and_what_it_used_counts(tmp_path: Path) -> None:
    scripts = {"Q": [ask("when?"), say("1931")], "when?": [OPEN, say("It was 1931.")]}

    async def cut_short() -> None:
        def watch(child: str, item: object) -> None:
            if child and isinstance(item, ToolFinished):
                task.cancel()

        with begin(tmp_path / "r", Budget(steps=10)) as opened:
            task = asyncio.create_task(loop_for(opened, ByTask(scripts), lambda _: TOOLS, watch=watch).run())
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

    asyncio.run(cut_short())
    assert len(replies(tmp_path / "r")) == 1
    end = work(log.Log.open(tmp_path / "r"), ByTask(scripts))
    assert end.answer == "1931" and end.steps == 4
    events = log.read(tmp_path / "r")
    assert sum(isinstance(event, ChildStarted) for event in events) == 1
    (helper,) = logs(tmp_path / "r").values()
    assert sum(isinstance(event, ToolStarted) for event in helper) == 1  # what it had finished was not done again


def test_a_helper_that_had_ended_is_not_asked_again(tmp_path: Path) -> None:
    """Killed after the helper's end was written and before the call's result was."""
    provider = ByTask({"Q": [ask("when?"), ask("when?", first=1), say("1931")], "when?": [OPEN, say("It was 1931.")]})
    work(begin(tmp_path / "r"), provider)
    lines = (tmp_path / "r" / log.LOG).read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if b'"child.finished"' in line)
    (tmp_path / "r" / log.LOG).write_bytes(b"".join(lines[: at + 1]))
    again = ByTask({"Q": [ask("when?"), say("1931")], "when?": [OPEN, say("It was 1931.")]})
    assert work(log.Log.open(tmp_path / "r"), again).answer == "1931"
    assert again.tools.keys() == {"Q"}


def test_what_a_helper_has_read_taints_the_run(tmp_path: Path) -> None:
    from dataclasses import replace

    tools = {**TOOLS, "open": replace(TOOLS["open"], untrusted=True, private=True)}
    provider = ByTask({"Q": [ask("when?"), say("1931")], "when?": [OPEN, say("It was 1931.")]})
    with begin(tmp_path / "r") as opened:
        loop = loop_for(opened, provider, lambda _: tools)
        asyncio.run(loop.run())
        assert loop.state.outside and loop.state.private
    (finished,) = [event for event in log.read(tmp_path / "r") if isinstance(event, ChildFinished)]
    assert finished.outside and finished.private


def test_a_helper_that_fails_is_told_to_the_run(tmp_path: Path) -> None:
    def down(_: Sequence[Message]) -> Message:
        raise UserError("The service is down.")

    provider = ByTask({"Q": [ask("when?", "  "), say("I do not know.")], "when?": [down]})
    assert work(begin(tmp_path / "r"), provider).answer == "I do not know."
    results = [event for event in log.read(tmp_path / "r") if isinstance(event, ToolFinished)]
    assert {event.content for event in results} == {
        "The service is down.",
        "The task is empty; write what the helper is to find out.",
    }


def test_a_fork_from_before_a_helper_does_not_find_its_answer(tmp_path: Path) -> None:
    provider = ByTask({"Q": [ask("when?"), say("1931")], "when?": [say("It was 1931.")]})
    work(begin(tmp_path / "r"), provider)
    made = fork(tmp_path / "r", 1, tmp_path)
    again = ByTask({"Q": [ask("how long?"), say("212 m")], "how long?": [say("It is 212 m.")]})
    work(log.Log.open(made), again)
    (result,) = [event for event in log.read(made) if isinstance(event, ToolFinished)]
    assert result.content == "It is 212 m."
    later = fork(tmp_path / "r", None, tmp_path)
    assert (later / "children/1" / log.LOG).exists()


def test_helpers_at_the_same_time_ask_the_person_one_after_the_other(tmp_path: Path) -> None:
    at_once: list[int] = []
    asking = 0

    @tool(needs_approval=True)
    def send(text: str) -> str:
        """Send."""
        return "sent"

    async def approve(made: ToolCall, why: str) -> bool:
        nonlocal asking
        asking += 1
        at_once.append(asking)
        await asyncio.sleep(0.01)
        asking -= 1
        return True

    sending = [call(("send", '{"text": "x"}')), say("sent")]
    provider = ByTask({"Q": [ask("a", "b"), say("done")], "a": sending, "b": sending})
    with begin(tmp_path / "r") as opened:
        asyncio.run(loop_for(opened, provider, lambda _: {"send": send}, approve=approve).run())
    assert at_once == [1, 1]


def test_what_a_failed_helper_used_still_counts_after_a_restart(tmp_path: Path) -> None:
    def down(_: Sequence[Message]) -> Message:
        raise UserError("The service is down.")

    provider = ByTask({"Q": [ask("when?"), say("I do not know.")], "when?": [OPEN, down]})
    assert work(begin(tmp_path / "r"), provider).steps == 3
