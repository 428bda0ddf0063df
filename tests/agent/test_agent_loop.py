"""The loop against scripted replies and real tools."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openk2.agent import context, log, prompts
from openk2.agent.budget import Budget, Ledger
from openk2.agent.calls import INTERRUPTED, NOBODY, REFUSED
from openk2.agent.events import (
    BudgetRaised,
    BudgetSpent,
    Event,
    Note,
    ReplyReceived,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    ToolFinished,
    ToolStarted,
)
from openk2.agent.loop import NO_ROOM, Loop
from openk2.agent.state import State
from openk2.chat.messages import Message
from openk2.errors import UserError
from openk2.providers.base import Limits, Usage, WindowFull
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import Tool, tool
from openk2.tools.calculator import calculator

SEARCHES = ['{"expression": "1+1"}', '{"expression": "2*21"}']


def begin(folder: Path, *, budget: Budget | None = None, limits: Limits | None = None) -> log.Log:
    opened = log.Log.create(folder)
    opened.append(
        RunStarted(
            run=folder.name,
            question="What is twice 21?",
            system="Be brief.",
            budget=(budget or Budget()).to_json(),
            limits={} if limits is None else {"max_tokens": limits.max_tokens, "seed": limits.seed},
        )
    )
    return opened


def work(opened: log.Log, steps: list, tools: dict[str, Tool] | None = None, **more) -> RunFinished:
    with opened:
        return asyncio.run(Loop(opened, ScriptedProvider(steps), tools or {"calculator": calculator}, **more).run())


def conversation(folder: Path) -> list[Message]:
    return context.messages(State.of(log.read(folder)))


def kinds(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def test_calls_are_answered_in_write_ahead_order(tmp_path: Path) -> None:
    steps = [call(("calculator", SEARCHES[1]), reasoning="It is a product."), say("It is 42.", "Done.")]
    end = work(begin(tmp_path / "r"), steps)
    events = log.read(tmp_path / "r")
    assert (end.reason, end.answer, end.steps) == ("stop", "It is 42.", 2)
    assert kinds(events) == ["run.started", "reply", "tool.started", "tool.finished", "reply", "run.finished"]
    said = [f"{m.role}: {m.content}" for m in conversation(tmp_path / "r")]
    assert said[:2] == ["system: Be brief.", "user: What is twice 21?"]
    assert said[2:] == ["assistant: ", "tool: 42", "assistant: It is 42."]
    assert conversation(tmp_path / "r")[2].reasoning == "It is a product."


def test_every_event_is_on_disk_when_it_is_watched(tmp_path: Path) -> None:
    opened = begin(tmp_path / "r")
    seen: list[int] = []

    def watch(item: object) -> None:
        if isinstance(item, Event):
            assert log.read(tmp_path / "r")[-1] == item
            seen.append(item.seq)

    work(opened, [call(("calculator", SEARCHES[0]), ("calculator", SEARCHES[1])), say("done")], watch=watch)
    assert seen == list(range(2, 9))


def test_bad_calls_are_answered_and_not_run(tmp_path: Path) -> None:
    steps = [call(("compute", "{}"), ("calculator", '{"expr": 1}'), ("calculator", '{"expression": "1')), say("I see.")]
    assert work(begin(tmp_path / "r"), steps).answer == "I see."
    results = [e for e in log.read(tmp_path / "r") if isinstance(e, ToolFinished)]
    assert len(results) == 3 and all(e.is_error for e in results)
    assert "There is no tool compute. The tools are: calculator, open, find." in {e.content for e in results}
    assert all('"expression"' in e.content for e in results if e.name == "calculator")  # the schema comes with it


def test_independent_idempotent_calls_run_together(tmp_path: Path) -> None:
    together = asyncio.Barrier(8)

    @tool(idempotent=True)
    async def wait(n: int) -> str:
        """Wait for the seven others."""
        async with asyncio.timeout(30):
            await together.wait()
        return str(n)

    work(begin(tmp_path / "r"), [call(*(("wait", f'{{"n": {n}}}') for n in range(8))), say("ok")], {"wait": wait})
    contents = [m.content for m in conversation(tmp_path / "r") if m.role == "tool"]
    assert contents == [str(n) for n in range(8)]


def test_others_run_one_after_another(tmp_path: Path) -> None:
    running: list[int] = []

    @tool
    async def count(n: int) -> str:
        """Count."""
        running.append(n)
        assert len(running) == 1
        await asyncio.sleep(0.01)
        running.remove(n)
        return "ok"

    work(begin(tmp_path / "r"), [call(*(("count", f'{{"n": {n}}}') for n in range(4))), say("ok")], {"count": count})
    assert not any(e.is_error for e in log.read(tmp_path / "r") if isinstance(e, ToolFinished))


def test_thought_alone_is_asked_again_once(tmp_path: Path) -> None:
    replies = iter([say("", "hm"), say("42", "now")])
    end = work(begin(tmp_path / "a"), [lambda _: next(replies)])
    assert (end.reason, end.answer, end.steps) == ("stop", "42", 2)
    assert any(isinstance(e, Note) for e in log.read(tmp_path / "a"))
    end = work(begin(tmp_path / "b"), [say("", "hm")])
    assert (end.reason, end.steps) == ("empty", 2) and "no answer" in end.answer


def test_budget_of_steps_keeps_the_last_for_the_answer(tmp_path: Path) -> None:
    asked: list[tuple[str | None, str]] = []

    class Provider(ScriptedProvider):
        async def stream(self, messages, tools, limits):
            asked.append((limits.tool_choice, messages[-1].content))
            async for piece in super().stream(messages, tools, limits):
                yield piece

    steps = [call(("calculator", text)) for text in SEARCHES] + [say("It is 42.")]
    opened = begin(tmp_path / "r", budget=Budget(steps=3))
    with opened:
        end = asyncio.run(Loop(opened, Provider(steps), {"calculator": calculator}).run())
    assert (end.reason, end.answer, end.steps) == ("budget", "It is 42.", 3)
    assert asked[2] == ("none", prompts.LAST_CALL) and asked[1][0] is None
    assert "budget" in kinds(log.read(tmp_path / "r"))


def test_the_word_that_asks_for_the_last_answer_is_reserved_too(tmp_path: Path, monkeypatch) -> None:
    real, read = Ledger.reserve, []

    def reserve(self, *, prompt: int, **more):
        read.append(prompt)
        return real(self, prompt=prompt, **more)

    monkeypatch.setattr(Ledger, "reserve", reserve)
    steps = [call(("calculator", text)) for text in SEARCHES] + [say("It is 42.")]
    work(begin(tmp_path / "r", budget=Budget(steps=3)), steps)
    assert read[-1] >= read[-2] + len(prompts.LAST_CALL) / 4  # the one before found no room: nothing came between


def test_a_model_that_calls_to_the_end_leaves_its_best_answer(tmp_path: Path) -> None:
    draft = Message("assistant", "About 40, I think.", "", call(("calculator", SEARCHES[0])).tool_calls)
    steps = [draft] + [call(("calculator", SEARCHES[n % 2])) for n in range(9)]
    end = work(begin(tmp_path / "r", budget=Budget(steps=3)), steps)
    assert (end.reason, end.answer, end.steps) == ("budget", "About 40, I think.", 3)
    assert not State.of(log.read(tmp_path / "r")).pending()


def test_budget_of_tokens_limits_each_reply(tmp_path: Path) -> None:
    asked: list[int | None] = []

    class Provider(ScriptedProvider):
        async def stream(self, messages, tools, limits):
            asked.append(limits.max_tokens)
            async for piece in super().stream(messages, tools, limits):
                yield piece

    opened = begin(tmp_path / "r", budget=Budget(tokens=40), limits=Limits(max_tokens=30))
    steps = [call(("calculator", f'{{"expression": "1+{n}"}}'), reasoning="a b c " * 3) for n in range(9)]
    with opened:  # a word is a token: 11 a reply
        end = asyncio.run(Loop(opened, Provider(steps), {"calculator": calculator}).run())
    assert asked == [30, 24, 18]  # an eighth is kept for the last reply, which may take all that is left
    assert end.reason == "budget" and end.usage.completion <= 40
    assert end.answer == "No answer was reached within the budget of 40 tokens."


def test_more_may_be_given_when_a_budget_is_spent(tmp_path: Path) -> None:
    spent: list[BudgetSpent] = []

    async def more(event: BudgetSpent) -> float | None:
        spent.append(event)
        return 2.0

    steps = [call(("calculator", f'{{"expression": "1+{n}"}}')) for n in range(5)] + [say("done")]
    end = work(begin(tmp_path / "r", budget=Budget(steps=3)), steps, more=more)
    assert (end.reason, end.answer, end.steps) == ("stop", "done", 6)
    assert [(e.axis, e.limit, e.used) for e in spent] == [("steps", 3, 2), ("steps", 5, 4)]
    again = [e.limit for e in log.read(tmp_path / "r") if isinstance(e, BudgetRaised)]
    assert again == [5, 7]


def test_budget_of_seconds_stops_a_reply_and_a_tool(tmp_path: Path) -> None:
    class Slow(ScriptedProvider):
        async def stream(self, messages, tools, limits):
            async for piece in super().stream(messages, tools, limits):
                yield piece
                await asyncio.sleep(30)

    opened = begin(tmp_path / "a", budget=Budget(seconds=1.0))
    with opened:
        end = asyncio.run(Loop(opened, Slow([say("The start of it")]), {}).run())
    assert (end.reason, end.answer) == ("budget", "The start of it")

    @tool
    async def sleep() -> str:
        """Sleep."""
        await asyncio.sleep(30)
        return "late"

    steps = [call(("sleep", "{}")), say("I could not wait.")]
    end = work(begin(tmp_path / "b", budget=Budget(seconds=0.5)), steps, {"sleep": sleep})
    assert (end.reason, end.answer) == ("budget", "I could not wait.") and end.seconds < 20


def test_seconds_do_not_count_between_stop_and_resume() -> None:
    events = [
        RunStarted(run="r", question="q", ts=100.0),
        Note(text="", ts=103.0),
        RunResumed(ts=1000.0),
        Note(text="", ts=1002.0),
    ]
    assert State.of(events).spent.seconds == 5.0


def test_resume_repeats_only_what_is_safe(tmp_path: Path) -> None:
    ran: list[str] = []

    @tool(idempotent=True)
    def look(n: int) -> str:
        """Look."""
        ran.append(f"look{n}")
        return f"seen {n}"

    @tool
    def write(n: int) -> str:
        """Write."""
        ran.append(f"write{n}")
        return f"written {n}"

    steps = [
        call(("look", '{"n": 1}'), ("write", '{"n": 2}'), ("look", '{"n": 3}'), ("write", '{"n": 4}')),
        say("done"),
    ]
    opened = begin(tmp_path / "r")
    reply = opened.append(ReplyReceived(message=steps[0], usage=Usage(), finish_reason="tool_calls", seconds=0))
    first, second, third = steps[0].tool_calls[:3]
    opened.append(ToolStarted(reply=reply.seq, index=0, id=first.id, name="look", arguments=first.arguments))
    opened.append(
        ToolFinished(reply=reply.seq, index=0, id=first.id, name="look", content="old 1", is_error=False, seconds=0)
    )
    opened.append(ToolStarted(reply=reply.seq, index=1, id=second.id, name="write", arguments=second.arguments))
    opened.append(ToolStarted(reply=reply.seq, index=2, id=third.id, name="look", arguments=third.arguments))
    opened.close()

    end = work(log.Log.open(tmp_path / "r"), steps, {"look": look, "write": write})
    assert end.answer == "done"
    assert ran == ["look3", "write4"]
    contents = [m.content for m in conversation(tmp_path / "r") if m.role == "tool"]
    assert contents == ["old 1", INTERRUPTED, "seen 3", "written 4"]


def test_cancelled_run_goes_on(tmp_path: Path) -> None:
    steps = [call(("calculator", SEARCHES[1])), say("42")]

    async def cancel() -> None:
        opened = begin(tmp_path / "r")
        with opened:

            @tool
            async def stuck(expression: str) -> str:
                """Stuck."""
                await asyncio.sleep(30)
                return ""

            stuck_loop = Loop(opened, ScriptedProvider(steps), {"calculator": stuck})
            task = asyncio.create_task(stuck_loop.run())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert isinstance(log.read(tmp_path / "r")[-1], RunStopped)
    assert work(log.Log.open(tmp_path / "r"), steps).answer == "42"


def test_provider_error_is_written_down_and_the_run_goes_on(tmp_path: Path) -> None:
    steps = [call(("calculator", SEARCHES[1]))]
    with pytest.raises(UserError):
        work(begin(tmp_path / "r"), steps)
    assert isinstance(log.read(tmp_path / "r")[-1], RunStopped)
    assert work(log.Log.open(tmp_path / "r"), [*steps, say("42")]).answer == "42"
    assert work(log.Log.open(tmp_path / "r"), []).answer == "42"  # a finished run only gives its answer


def test_a_full_window_ends_the_run_with_the_best_answer_so_far(tmp_path: Path) -> None:
    def full(_: object) -> Message:
        raise WindowFull("The conversation is too long.")

    draft = Message("assistant", "About 40.", "", call(("calculator", SEARCHES[0])).tool_calls)
    def once(message: Message) -> list:
        replies = iter([message])
        return [lambda sent: next(replies, None) or full(sent)] * 2

    end = work(begin(tmp_path / "a"), once(draft))
    assert (end.reason, end.answer, end.steps) == ("length", "About 40.", 1)
    end = work(begin(tmp_path / "b"), once(call(("calculator", SEARCHES[0]))))
    assert (end.reason, end.answer) == ("length", NO_ROOM)
    with pytest.raises(UserError, match="too long"):
        work(begin(tmp_path / "c"), [full])


def test_approval_is_asked_where_a_tool_wants_it(tmp_path: Path) -> None:
    @tool(needs_approval=True)
    def launch() -> str:
        """Launch."""
        return "launched"

    async def yes(_call: object, why: str) -> bool:
        assert why == "launch asks before it runs."
        return True

    async def no(_call: object, _why: str) -> bool:
        return False

    for name, approve, wanted in (("a", None, NOBODY), ("b", yes, "launched"), ("c", no, REFUSED)):
        work(begin(tmp_path / name), [call(("launch", "{}")), say("ok")], {"launch": launch}, approve=approve)
        assert wanted in conversation(tmp_path / name)[3].content
