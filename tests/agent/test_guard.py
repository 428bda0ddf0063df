"""Runs that go in circles are told, taken back, and ended; runs that only look alike are left alone."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from openk2.agent import context, log, prompts
from openk2.agent.events import Guarded, RunFinished, RunStarted, UserSaid
from openk2.agent.guard import Babble
from openk2.agent.loop import Loop
from openk2.agent.state import State
from openk2.chat.messages import Message
from openk2.providers.base import Delta, Reply, Usage
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import Tool, tool
from openk2.tools.calculator import calculator
from openk2.tools.formats import format_hits


class Endless(ScriptedProvider):
    """Says what `choose` makes of the number of its replies so far, whatever the conversation holds."""

    def __init__(self, choose) -> None:
        super().__init__([])
        self.choose, self.count = choose, 0

    async def stream(self, messages, tools, limits):
        message = self.choose(self.count)
        self.count += 1
        yield Reply(message, Usage(completion=5), "tool_calls" if message.tool_calls else "stop")


def run(folder: Path, choose, tools: dict[str, Tool], **habits) -> tuple[RunFinished, list[Guarded], list[Message]]:
    with log.Log.create(folder) as opened:
        opened.append(RunStarted(run="r", question="q", habits=habits, budget={"steps": 60}))
        end = asyncio.run(Loop(opened, Endless(choose), tools).run())
        state = State.of(opened.events)
    return end, state.guards, context.messages(state)


@tool(idempotent=True)
def search(query: str, k: int = 3) -> str:
    """Search."""
    return "[a:1] nothing new"


@tool
def roll() -> str:
    """Roll a die."""
    return str(random.random())


SIGNS = {
    "repeat": lambda n: call(("calculator", '{"expression": "1+1"}')),
    "alternation": lambda n: call(("calculator", '{"expression": "%s"}' % ("1+1", "2+2")[n % 2])),  # noqa: UP031
    "search": lambda n: call(("search", '{"query": "%s"}' % ("the cat house", "house of cat", "cat, house")[n % 3])),  # noqa: UP031
    "invalid": lambda n: call(("calculator", '{"expresion": "1+%d"}' % n)),  # noqa: UP031
}


@pytest.mark.parametrize("kind", SIGNS)
def test_a_circle_is_told_taken_back_and_ended(kind: str, tmp_path: Path) -> None:
    end, guards, sent = run(tmp_path / "r", SIGNS[kind], {"calculator": calculator, "search": search})
    assert end.reason == "stuck" and end.steps <= 20
    kind = "repeat" if kind == "alternation" else kind
    assert [(g.kind, g.action) for g in guards] == [(kind, "nudge"), (kind, "rollback"), (kind, "stop")]
    assert guards[0].text in [m.content for m in sent]


def test_a_rollback_takes_the_replies_out_of_the_conversation(tmp_path: Path) -> None:
    def choose(n: int) -> Message:
        return say("done") if n == 4 else call(("calculator", '{"expresion": "1"}'), reasoning=f"try {n}")

    _, guards, sent = run(tmp_path / "r", choose, {"calculator": calculator})
    assert [g.action for g in guards] == ["nudge", "rollback"]
    thoughts = [m.reasoning for m in sent if m.role == "assistant"]
    assert thoughts == ["try 0", "try 1", None]  # 2 and 3 are gone, with their results
    assert sum(m.role == "tool" for m in sent) == 2 and '"expression"' in guards[1].text
    assert len([e for e in log.read(tmp_path / "r") if e.type == "reply"]) == 5  # the log has all of it


def test_what_is_no_circle_is_left_alone(tmp_path: Path) -> None:
    """The same call with other results (polling), and other calls with the same result."""
    end, guards, _ = run(tmp_path / "a", lambda n: call(("roll", "{}")) if n < 12 else say("done"), {"roll": roll})
    assert (end.answer, guards) == ("done", [])
    words = "ash beech cedar elm fir hazel maple oak pine rowan willow yew".split()
    queries = [call(("search", f'{{"query": "{word}"}}')) for word in words]
    end, guards, _ = run(tmp_path / "b", lambda n: [*queries, say("done")][n], {"search": search})
    assert (end.answer, guards) == ("done", [])


def test_a_checkpoint_that_is_not_steered_is_only_ended(tmp_path: Path) -> None:
    end, guards, sent = run(tmp_path / "r", SIGNS["repeat"], {"calculator": calculator}, steer=False)
    assert (end.reason, end.steps, [g.action for g in guards]) == ("stuck", 3, ["stop"])
    assert [m.role for m in sent].count("user") == 1


@pytest.mark.parametrize("piece", ["the same again. ", "Let me check.\nI will check the file now.\n", "ab"])
def test_babble_is_heard(piece: str) -> None:
    babble = Babble()
    assert not babble.feed("A sensible beginning, with words. " * 3)
    assert any(babble.feed(piece) for _ in range(40_000 // len(piece)))


def test_long_sensible_text_is_no_babble() -> None:
    dice = random.Random(1)
    words = [f"word{n}" for n in range(500)]
    table = "".join(f"| row {n} | {dice.random():.4f} | {dice.choice(words)} |\n" for n in range(2000))
    prose = " ".join(dice.choice(words) for _ in range(20_000))
    for text in (table, prose, "\n" * 8000, "-" * 8000):
        babble = Babble()
        assert not any(babble.feed(text[i : i + 7]) for i in range(0, len(text), 7))


def test_a_reply_without_end_is_stopped_and_the_model_told(tmp_path: Path) -> None:
    class Babbling(ScriptedProvider):
        async def stream(self, messages, tools, limits):
            if len(messages) > 1:
                yield Reply(say("Sorry: 4."), Usage(), "stop")
                return
            while True:
                yield Delta("reasoning", "I should think about it. ")

    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q"))
        end = asyncio.run(Loop(opened, Babbling([]), {}).run())
        assert end.answer == "Sorry: 4."
        assert context.messages(State.of(opened.events))[1].content == prompts.BABBLE


def test_babble_counts_anew_for_each_question(tmp_path: Path) -> None:
    class Babbling(ScriptedProvider):
        async def stream(self, messages, tools, limits):
            while messages[-1].content != prompts.BABBLE:
                yield Delta("content", "I should think about it. ")
            yield Reply(say("Sorry: 4."), Usage(), "stop")

    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q", budget={"steps": 1}))
        for turn in range(4):
            if turn:
                opened.append(UserSaid(text="And now?"))
            assert asyncio.run(Loop(opened, Babbling([]), {}).run()).answer == "Sorry: 4."
        assert [guard.action for guard in State.of(opened.events).guards] == ["nudge"] * 4


def searches_in_vain(steer: bool, folder: Path) -> RunFinished:
    @tool(idempotent=True)
    def search(query: str, k: int = 3) -> str:
        """Search."""
        return format_hits([])

    made_up = lambda n: call(("search", '{"query": "fence"}')) if n == 0 else say("It says: the fence is green.")  # noqa: E731
    return run(folder, made_up, {"search": search}, steer=steer)[0]


def test_a_model_that_cannot_be_told_is_not_asked_what_no_line_says(tmp_path: Path) -> None:
    end = searches_in_vain(False, tmp_path / "small")
    assert (end.reason, end.steps) == ("stop", 1) and "could not find" in end.answer
    assert searches_in_vain(True, tmp_path / "large").answer == "It says: the fence is green."
