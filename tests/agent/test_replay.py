"""A run driven again: the same events, or the first that differs; and runs forked from others."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openk2.agent.budget import Budget
from openk2.agent.events import (
    BudgetRaised,
    ContextCut,
    Event,
    Guarded,
    ReplyReceived,
    RunFinished,
    RunStarted,
    RunStopped,
    ToolFinished,
    ToolStarted,
    UserSaid,
    from_line,
    to_line,
)
from openk2.agent.fork import fork
from openk2.agent.habits import Habits
from openk2.agent.log import Log, read
from openk2.agent.loop import Loop
from openk2.agent.replay import Replayed, replay
from openk2.chat.messages import Message
from openk2.errors import UserError
from openk2.providers.scripted import ScriptedProvider, Step, call, say
from openk2.tools.base import Tool, tool


@tool(idempotent=True)
async def look(n: int) -> str:
    """Look something up; the higher the number the sooner it is there."""
    await asyncio.sleep(0.03 / (n + 1))
    return f"seen {n} " + "word " * 40


@tool
def write(n: int) -> str:
    """Write something down."""
    return f"written {n}"


@tool(needs_approval=True)
def send(n: int) -> str:
    """Send something."""
    return f"sent {n}"


TOOLS: dict[str, Tool] = {"look": look, "write": write, "send": send}


def record(folder: Path, steps: Sequence[Step], *, window: int | None = None, steer: dict[int, str] | None = None,
           **started: Any) -> list[Event]:  # fmt: skip
    """A run on disk. `steer`: what is said when so many events are there."""

    async def approve(*_: object) -> bool:
        return True

    def watch(item: Any) -> None:
        if isinstance(item, Event) and (said := (steer or {}).get(item.seq)):
            loop.steer(said)

    with Log.create(folder) as log:
        log.append(RunStarted(run=folder.name, question="Do it.", system="You do.", tools=tuple(TOOLS), **started))
        loop = Loop(log, ScriptedProvider(steps, window=window), TOOLS, watch=watch, approve=approve)
        asyncio.run(loop.run())
    return read(folder)


def again(events: Sequence[Event], folder: Path, tools: dict[str, Tool] | None = None, **named: Any) -> Replayed:
    return asyncio.run(replay(events, tools or TOOLS, folder, **named))


def same(events: Sequence[Event], folder: Path, **named: Any) -> None:
    assert again(events, folder, **named) == Replayed(len(events), len(events))


def pair(n: int, name: str = "look") -> Message:
    return call((name, f'{{"n": {n}}}'), (name, f'{{"n": {n + 1}}}'), reasoning=f"step {n}", first=2 * n)


MANY = [pair(0), pair(2, "write"), call(("send", '{"n": 1}')), pair(4), say("Done.", "Enough.")]


def test_the_same_run(tmp_path: Path) -> None:
    events = record(tmp_path / "run", MANY)
    same(events, tmp_path / "again")
    same(events, tmp_path / "anew", run_tools=True)


def test_results_come_in_the_recorded_order(tmp_path: Path) -> None:
    """The second call of a pair is done first."""
    events = record(tmp_path / "run", MANY)
    order = [event.index for event in events if isinstance(event, ToolFinished) and event.name == "look"]
    assert order[:2] == [1, 0]
    same(events, tmp_path / "again")


def test_nothing_is_run_and_nothing_is_touched(tmp_path: Path) -> None:
    events = record(tmp_path / "run", MANY)
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    ran: list[int] = []

    def note(n: int) -> str:
        """Write something down."""
        ran.append(n)
        return "?"

    same(events, tmp_path / "again", tools={**TOOLS, "write": tool(name="write")(note)})
    assert ran == [] and (tmp_path / "run" / "log.jsonl").read_bytes() == before


def test_another_system_prompt_or_tool_is_seen_in_what_is_sent(tmp_path: Path) -> None:
    events = record(tmp_path / "run", MANY)
    first = replace(events[0], system="You do not.")  # type: ignore[call-arg]
    found = again([first, *events[1:]], tmp_path / "a").difference
    assert found is not None and (found.seq, found.field) == (2, "request")
    told = replace(look, description="Look elsewhere.")
    found = again(events, tmp_path / "b", {**TOOLS, "look": told}).difference
    assert found is not None and (found.seq, found.field) == (2, "request")


def test_a_changed_result_is_the_first_difference(tmp_path: Path) -> None:
    events = record(tmp_path / "run", MANY)

    async def function(n: int) -> str:
        """Look something up; the higher the number the sooner it is there."""
        return f"seen {n} " + ("word " * 40 if n < 4 else "y")

    changed = {**TOOLS, "look": tool(name="look", idempotent=True)(function)}
    done = again(events, tmp_path / "again", changed, run_tools=True)
    assert done.difference is not None and not done.same
    wanted = next(e for e in events if isinstance(e, ToolFinished) and e.content.startswith(("seen 4", "seen 5")))
    assert (done.difference.seq, done.difference.field, done.events) == (wanted.seq, "content", wanted.seq - 1)
    assert done.difference.recorded == wanted.content and done.difference.now.endswith("y")


@pytest.mark.parametrize("at", range(1, 18))
def test_any_byte_of_what_the_model_saw_matters(tmp_path: Path, at: int) -> None:
    """An event changed in the record is found at it, or in the next request."""
    events = record(tmp_path / "run", MANY)
    event = events[at]
    if isinstance(event, ToolFinished):
        events[at] = replace(event, content=event.content + ".")
    elif isinstance(event, ReplyReceived) and event.message.tool_calls:
        events[at] = replace(event, message=replace(event.message, reasoning="else"))
    else:
        return
    found = again(events, tmp_path / "again").difference
    after = next(e.seq for e in events[at + 1 :] if isinstance(e, ReplyReceived))
    assert found is not None and found.seq == after and found.field == "request"


def test_steering_and_turns(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    events = record(folder, MANY, steer={3: "Be quick.", 12: "And brief."})
    assert sum(isinstance(event, UserSaid) for event in events) == 2
    same(events, tmp_path / "again")
    with Log.open(folder) as log:
        log.append(UserSaid(text="And now?"))
        asyncio.run(Loop(log, ScriptedProvider([*MANY, pair(6), say("Now.")]), TOOLS).run())
    same(read(folder), tmp_path / "turns")


def test_budgets_guards_checks_and_cuts(tmp_path: Path) -> None:
    endless = [pair(2 * n) for n in range(20)]
    budget = Budget(steps=4).to_json()
    events = record(tmp_path / "budget", [*endless[:3], say("Best so far.")], budget=budget)
    assert isinstance(events[-1], RunFinished) and events[-1].reason == "budget"
    same(events, tmp_path / "a")

    circling = [call(("look", '{"n": 1}'), first=n) for n in range(8)] + [say("Enough.")] * 9
    events = record(tmp_path / "guard", circling)
    assert any(isinstance(event, Guarded) for event in events)
    same(events, tmp_path / "b")

    checked = [pair(0), say("It is 12345."), say("It is a guess.")]
    events = record(tmp_path / "check", checked, habits=Habits(revisions=1).to_json())
    assert any(event.type == "check" for event in events)
    same(events, tmp_path / "c")

    events = record(tmp_path / "cut", [*endless[:12], say("Done.")], window=700)
    assert any(isinstance(event, ContextCut) for event in events)
    same(events, tmp_path / "d")


def test_more_budget_given_on_the_way(tmp_path: Path) -> None:
    async def more(_: object) -> float:
        return 5.0

    folder = tmp_path / "run"
    with Log.create(folder) as log:
        log.append(RunStarted(run="r", question="Do it.", budget=Budget(steps=2).to_json()))
        steps = [pair(0), pair(2), pair(4), say("Done.")]
        asyncio.run(Loop(log, ScriptedProvider(steps), TOOLS, more=more).run())
    events = read(folder)
    assert any(isinstance(event, BudgetRaised) for event in events)
    same(events, tmp_path / "again")


def test_what_a_clock_decided_is_left(tmp_path: Path) -> None:
    @tool
    async def sleep(n: int) -> str:
        """Sleep."""
        await asyncio.sleep(30)
        return "?"

    folder = tmp_path / "run"
    with Log.create(folder) as log:
        log.append(RunStarted(run="r", question="Do it.", budget=Budget(seconds=0.3).to_json()))
        asyncio.run(Loop(log, ScriptedProvider([call(("sleep", '{"n": 1}')), say("So far.")]), {"sleep": sleep}).run())
    events = read(folder)
    done = asyncio.run(replay(events, {"sleep": sleep}, tmp_path / "again"))
    assert done.same and "budget of seconds" in done.left and done.events == 3


def test_a_run_that_was_killed_and_resumed(tmp_path: Path) -> None:
    """Killed after any event, and gone on with: both halves replay, interrupted calls too."""
    events = record(tmp_path / "run", MANY)
    for at in range(1, len(events)):
        folder = tmp_path / f"killed{at}"
        (folder / "workspace").mkdir(parents=True)
        (folder / "log.jsonl").write_bytes(b"".join(map(to_line, events[:at])))
        with Log.open(folder) as log:
            if at % 3 == 0:
                log.append(RunStopped(why="cancelled"))

            async def approve(*_: object) -> bool:
                return True

            asyncio.run(Loop(log, ScriptedProvider(MANY), TOOLS, approve=approve).run())
        same(read(folder), tmp_path / f"again{at}")


def test_a_run_that_was_not_finished_replays_as_far_as_it_came(tmp_path: Path) -> None:
    events = record(tmp_path / "run", MANY)
    for upto in random.Random(0).sample(range(1, len(events)), 6):
        done = again(events[:upto], tmp_path / f"a{upto}")
        assert done == Replayed(upto, upto, None, "the run was not finished")


def test_heavy_mode_is_replayed_path_by_path(tmp_path: Path) -> None:
    first = RunStarted(run="r", question="q", setup={"mode": "heavy"}, seq=1)
    with pytest.raises(UserError, match="RUN/paths/1"):
        again([first], tmp_path)


# Forks.


def test_a_fork_has_the_first_events_and_the_files(tmp_path: Path) -> None:
    source = tmp_path / "runs" / "one"
    events = record(source, MANY)
    (source / "workspace" / "a").mkdir()
    (source / "workspace" / "a" / "data.bin").write_bytes(os.urandom(300_000))
    (source / "workspace" / "link").symlink_to("a/data.bin")
    made = fork(source, 5, tmp_path / "runs", say="Another way.")
    copied = read(made)
    assert [e.type for e in copied] == [*(e.type for e in events[:5]), "user"]
    assert copied[1:5] == events[1:5] and isinstance(copied[0], RunStarted)
    assert (copied[0].run, copied[0].parent) == (made.name, "one")
    assert (made / "workspace/a/data.bin").read_bytes() == (source / "workspace/a/data.bin").read_bytes()
    assert (made / "workspace/link").is_symlink()
    with Log.open(made) as log:
        end = asyncio.run(Loop(log, ScriptedProvider([pair(0), say("Another end.")]), TOOLS).run())
    assert end.answer == "Another end." and read(source) == events


def test_a_fork_where_calls_wait_runs_them(tmp_path: Path) -> None:
    source = tmp_path / "one"
    events = record(source, MANY)
    reply = next(event.seq for event in events if isinstance(event, ReplyReceived))
    made = fork(source, reply, tmp_path)
    with Log.open(made) as log:
        asyncio.run(Loop(log, ScriptedProvider(MANY), TOOLS).run())
    finished = [event for event in read(made) if isinstance(event, ToolFinished)]
    assert len(finished) == 7 and sum(isinstance(e, ToolStarted) for e in read(made)) == 6  # nobody approved one


@pytest.mark.parametrize("upto", [0, -1, 99])
def test_no_such_event(tmp_path: Path, upto: int) -> None:
    record(tmp_path / "one", MANY)
    with pytest.raises(UserError, match="has the events 1 to"):
        fork(tmp_path / "one", upto, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_fork_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    record(tmp_path / "one", MANY)
    with pytest.raises(UserError, match="could not be copied"):
        fork(tmp_path / "one", 3, Path("/proc/none"))


def test_the_window_stands_in_the_log(tmp_path: Path) -> None:
    events = record(tmp_path / "run", MANY, window=50_000)
    reply = next(event for event in events if isinstance(event, ReplyReceived))
    assert reply.window == 50_000 and from_line(to_line(reply)) == reply
    old = json.loads(to_line(reply))
    del old["window"]
    assert from_line(json.dumps(old).encode()).window is None  # type: ignore[attr-defined]
