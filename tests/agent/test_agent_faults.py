"""A whole run beside a service that fails in every way: the right answer, or one sentence and a run that goes on."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from fault_server import HANG, PASSING, RESET, FaultServer, cut, events, http  # type: ignore[import-not-found]

from openk2.agent import log, prompts
from openk2.agent.calls import INTERRUPTED
from openk2.agent.events import ContextCut, ReplyReceived, RunFinished, RunStarted, RunStopped, ToolFinished
from openk2.agent.loop import Loop
from openk2.errors import UserError
from openk2.tools.base import tool

from dialects import DIALECTS, Dialect, Said  # type: ignore[import-not-found]  # isort: skip

STEPS = 30
each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)


@tool(idempotent=True)
def count(n: int) -> str:
    """Count on by one."""
    return f"after {n} comes {n + 1}"


def begin(folder: Path, **more: Any) -> log.Log:
    opened = log.Log.create(folder)
    opened.append(RunStarted(run="r", question="Count to thirty.", **more))
    return opened


def work(opened: log.Log, dialect: Dialect, server: FaultServer, tools: dict, **settings: Any) -> RunFinished:
    async def run() -> RunFinished:
        source = dialect.provider(dialect.model, server.url, **{"first_pause": 0.005, **settings})
        try:
            return await Loop(opened, source, tools).run()
        finally:
            await source.aclose()

    with opened:
        return asyncio.run(run())


def place(body: dict[str, Any]) -> int:
    """Where the model stands, by what it is sent."""
    text = json.dumps(body)
    return next((n for n in range(STEPS, 0, -1) if f"comes {n}" in text), 0)


def counting(n: int) -> Said:
    if n == STEPS:
        return Said("I have counted to 30.", "Done.")
    return Said("", f"Now {n}.", ((f"id{n}", "count", f'{{"n": {n}}}'),))


@each
def test_a_run_through_every_passing_fault(dialect: Dialect, tmp_path: Path) -> None:
    dice = random.Random(1)
    troubles = list(PASSING.values())
    bad = 0

    def answer(server: FaultServer, request: Any) -> Any:
        nonlocal bad
        whole = events(dialect.stream(counting(place(request.json)), 5))
        bad = bad + 1 if bad < 3 and dice.random() < 0.6 else 0  # a try after three is let through
        if not bad:
            return whole
        if dice.random() < 0.5:
            return [cut(whole, dice.randrange(1, len(b"".join(whole)))), RESET]
        return troubles[len(server.requests) % len(troubles)]

    with FaultServer(answer) as server:
        end = work(begin(tmp_path / "r"), dialect, server, {"count": count})
        asked = len(server.requests)
    made = log.read(tmp_path / "r")
    assert (end.reason, end.answer) == ("stop", "I have counted to 30.")
    results = [e.content for e in made if isinstance(e, ToolFinished)]
    assert results == [f"after {n} comes {n + 1}" for n in range(STEPS)]  # nothing twice, nothing left out
    assert sum(isinstance(e, ReplyReceived) for e in made) == STEPS + 1 and asked > STEPS + 15


TERMINAL: dict[str, tuple[list[Any], str]] = {
    "no key": ([http(401, '{"error": {"message": "no key"}}')], "key"),
    "no money": ([http(402, '{"error": {"message": "insufficient balance"}}')], "used up|balance"),
    "forbidden": ([http(403, '{"error": {"message": "not in your country"}}')], "not in your country"),
    "unknown model": ([http(404, '{"error": {"message": "no such model"}}')], "model"),
    "bad request": ([http(400, '{"error": {"message": "messages: bad"}}')], "messages: bad"),
    "always down": ([http(500, "{}")], "again later"),
}


@each
@pytest.mark.parametrize("kind", TERMINAL)
def test_what_does_not_pass_is_one_sentence_and_the_run_goes_on(dialect: Dialect, kind: str, tmp_path: Path) -> None:
    trouble, said = TERMINAL[kind]
    down = True

    def answer(_: FaultServer, request: Any) -> Any:
        n = place(request.json)
        return trouble if down and n == 3 else events(dialect.stream(counting(n), 9))

    with FaultServer(answer) as server:
        with pytest.raises(UserError, match=said) as failed:
            work(begin(tmp_path / "r"), dialect, server, {"count": count}, tries=2)
        assert "\n" not in str(failed.value)
        assert isinstance(log.read(tmp_path / "r")[-1], RunStopped)
        down = False
        assert work(log.Log.open(tmp_path / "r"), dialect, server, {"count": count}).answer == "I have counted to 30."
    results = [e for e in log.read(tmp_path / "r") if isinstance(e, ToolFinished)]
    assert len(results) == STEPS


@each
def test_a_hung_service_ends_with_the_budget(dialect: Dialect, tmp_path: Path) -> None:
    def answer(_: FaultServer, request: Any) -> Any:
        n = place(request.json)
        return [HANG] if n == 4 else events(dialect.stream(counting(n), 9))

    began = time.monotonic()
    with FaultServer(answer) as server:
        end = work(begin(tmp_path / "r", budget={"seconds": 1.5}), dialect, server, {"count": count})
    assert end.reason == "budget" and time.monotonic() - began < 6
    assert "1.5 seconds" in end.answer


@each
def test_a_conversation_too_long_is_cut_and_goes_on(dialect: Dialect, tmp_path: Path) -> None:
    """The service says so by its own error; no window is known beforehand."""

    @tool(idempotent=True)
    def count(n: int) -> str:
        """Count on by one."""
        return f"after {n} comes {n + 1}\n" + "so it is " * 300

    def answer(_: FaultServer, request: Any) -> Any:
        if len(request.body) > 25_000:
            return [http(400, dialect.window)]
        return events(dialect.stream(counting(place(request.json)), 50))

    with FaultServer(answer) as server:
        end = work(begin(tmp_path / "r"), dialect, server, {"count": count})
    made = log.read(tmp_path / "r")
    assert end.answer == "I have counted to 30."
    assert len([e for e in made if isinstance(e, ToolFinished)]) == STEPS
    assert any(isinstance(e, ContextCut) for e in made)


@each
def test_replies_that_cannot_be_used(dialect: Dialect, tmp_path: Path) -> None:
    """Thought alone, an unknown tool, arguments that are no JSON, a wrong schema: told, never run, then right."""
    script = [
        Said("", "Hm."),
        Said("", None, (("a", "launch", "{}"),)),
        Said("", "x", (("b", "count", '{"n": 1' if dialect.name != "anthropic" else '{"n": "many"}'),)),
        Said("", "x", (("c", "count", '{"m": 1}'), ("d", "count", '{"n": 29}'))),
        Said("I have counted to 30.", "Done."),
    ]
    with FaultServer(lambda server, _: events(dialect.stream(script[len(server.requests) - 1], 9))) as server:
        end = work(begin(tmp_path / "r"), dialect, server, {"count": count})
    results = [e for e in log.read(tmp_path / "r") if isinstance(e, ToolFinished)]
    assert end.answer == "I have counted to 30."
    assert [e.invalid for e in results] == [True, True, True, False]
    assert "There is no tool launch" in results[0].content and '"n"' in results[2].content
    assert INTERRUPTED not in [e.content for e in results] and prompts.CUT_OFF not in [e.content for e in results]
