"""What the model is sent: the ladder keeps a long run inside its window, and nothing that was put away is lost."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path

import pytest

from openk2.agent import context, ladder, log
from openk2.agent.entries import size
from openk2.agent.events import ContextCut, Note, RunStarted, UserSaid
from openk2.agent.loop import Loop
from openk2.agent.state import State
from openk2.chat.messages import Message
from openk2.providers.base import Reply, Usage, WindowFull
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import ToolResult, tool

WINDOW = 32_768  # tokens, of four characters here
CALLS = 1000
FACTS = {n: random.Random(n).randint(10_000, 99_999) for n in range(1, CALLS + 1)}


@tool(idempotent=True)
def station(number: int) -> str:
    """Read a station."""
    dice = random.Random(number)
    noise = "\n".join(f"sensor {dice.randint(1, 999)}: {dice.random():.6f}" for _ in range(24))
    return f"station {number}\n{noise}\nlevel of station {number}: {FACTS[number]}"


class Surveyor:
    """A model that knows only what it is sent: it reads the stations in turn, then needs two of their levels again.

    The last number it can see in its own calls, or in its notes, is where it stands. Refuses what is over its window.
    """

    name, price, window = "surveyor", None, WINDOW

    def __init__(self, *, notes: bool = True) -> None:
        self.sent: list[int] = []
        self.notes = notes

    async def stream(self, messages, tools, limits):
        tokens = size(messages) // 4
        self.sent.append(tokens)
        if tokens > WINDOW:
            raise WindowFull("too long")
        message = self.reply(messages)
        written = size([message]) // 4
        yield Reply(message, Usage(prompt=tokens, completion=written), "tool_calls" if message.tool_calls else "stop")

    def reply(self, messages) -> Message:
        if messages[-1].content == ladder.NOTES:
            if not self.notes:
                return say("", "I would rather go on.")
            return say(f"Read so far: station {self.place(messages)}. Next: go on.", "I write notes.")
        assert any("sum of the levels of stations 3 and 500" in m.content for m in messages)  # the goal is in view
        place = self.place(messages)
        if place < CALLS:
            return call(("station", json.dumps({"number": place + 1})), reasoning="Next." + " And on." * 20)
        last = messages[-1].content
        known = {int(n): int(v) for m in messages for n, v in re.findall(r"level of station (\d+): (\d+)", m.content)}
        for n in (3, 500):
            if n not in known:
                assert f"level of station {n}:" not in last
                return call(("find", json.dumps({"id": "run", "pattern": f"level of station {n}:"})))
        return say(f"The sum is {known[3] + known[500]}.")

    def place(self, messages) -> int:
        seen = [0]
        for message in messages:
            seen += [json.loads(c.arguments)["number"] for c in message.tool_calls if c.name == "station"]
            seen += [int(n) for n in re.findall(r"Read so far: station (\d+)", message.content)]
            seen += [int(n) for n in re.findall(r'station\(\{"number": (\d+)\}\)', message.content)]
        return max(seen)


def survey(folder: Path, *, notes: bool = True) -> tuple[str, Surveyor, log.Log]:
    model = Surveyor(notes=notes)
    question = f"Read stations 1 to {CALLS}. What is the sum of the levels of stations 3 and 500?"
    opened = log.Log.create(folder)
    opened.append(RunStarted(run="r", question=question, system="Be brief."))
    with opened:
        answer = asyncio.run(Loop(opened, model, {"station": station}).run()).answer
    return answer, model, opened


@pytest.mark.parametrize("notes", [True, False])
def test_a_thousand_calls_in_a_small_window(notes: bool, tmp_path: Path) -> None:
    answer, model, opened = survey(tmp_path / "r", notes=notes)
    assert answer == f"The sum is {FACTS[3] + FACTS[500]}."
    assert max(model.sent) <= WINDOW
    cuts = [event.kind for event in opened.events if isinstance(event, ContextCut)]
    assert "hide" in cuts and ("notes" in cuts if notes else "fresh" in cuts)
    state = State.of(log.read(tmp_path / "r"))
    assert len([r for r in state.results.values() if r.name == "station"]) == CALLS  # each read once
    # Prefixes hold between cuts: a cut is rare.
    assert len(cuts) < CALLS / 20


def test_the_fold_is_a_function_of_the_log(tmp_path: Path) -> None:
    """A state that was folded event by event while the run went is the state of the log, at every point of it."""
    sizes: list[tuple[int, int]] = []

    class Watched(Surveyor):
        async def stream(self, messages, tools, limits):
            sizes.append((len(opened.events), hash(tuple(messages))))
            async for piece in super().stream(messages, tools, limits):
                yield piece

    opened = log.Log.create(tmp_path / "r")
    opened.append(RunStarted(run="r", question="What is the sum of the levels of stations 3 and 500?"))
    with opened:
        asyncio.run(Loop(opened, Watched(), {"station": station}).run())
    events = log.read(tmp_path / "r")
    for count, seen in sizes[:: max(1, len(sizes) // 40)]:
        sent = context.messages(State.of(events[:count]))
        assert hash(tuple(sent)) == seen or hash((*sent, Message("user", ladder.NOTES))) == seen


def test_a_long_output_is_shown_in_part_and_opens(tmp_path: Path) -> None:
    @tool
    def dump() -> ToolResult:
        """Dump."""
        return ToolResult("\n".join(f"line {n}" for n in range(1, 2001)))

    steps = [
        call(("dump", "{}")),
        call(("find", '{"id": "r4", "pattern": "line 1234"}'), ("open", '{"id": "r4", "line": 1500}')),
        call(("open", '{"id": "r99"}')),
        say("done"),
    ]
    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q", habits={"spill": 1000}))
        asyncio.run(Loop(opened, ScriptedProvider(steps), {"dump": dump}).run())
        outputs = [m.content for m in context.messages(State.of(opened.events)) if m.role == "tool"]
    assert len(outputs[0]) < 1300 and outputs[0].startswith("line 1\n") and outputs[0].endswith("line 2000")
    on = re.search(r'open\(id="r4", line=(\d+)\) reads on', outputs[0])
    assert on and f"\nline {int(on[1]) - 1}\n" in outputs[0] and f"line {on[1]}\n" not in outputs[0]
    assert outputs[1] == "[r4:1234] line 1234"
    assert outputs[2].startswith("[r4:1500] line 1500\n[r4:1501] line 1501")
    assert outputs[3] == "There is no output r99."


def test_the_plan_stays_in_view(tmp_path: Path) -> None:
    @tool
    def plan(steps: list[str]) -> str:
        """Plan."""
        return "PLAN: " + "; ".join(steps) + "." + " x" * 100

    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q"))
        steps = [call(("plan", f'{{"steps": ["old {n}"]}}')) for n in range(2)]
        steps += [call(("station", f'{{"number": {n}}}')) for n in range(1, 5)]
        asyncio.run(Loop(opened, ScriptedProvider([*steps, say("x")]), {"plan": plan, "station": station}).run())
        for kind in ("hide", "notes", "fresh"):
            state = State.of([*opened.events, ContextCut(kind=kind, upto=len(opened.events), notes="N", seq=99)])
            text = "\n".join(m.content for m in context.messages(state))
            assert "PLAN: old 1" in text and "PLAN: old 0" not in text
            assert f"level of station 2: {FACTS[2]}" not in text
            assert context.messages(state)[0].content.startswith("q")


def test_steering_reaches_the_model_before_its_next_reply(tmp_path: Path) -> None:
    def hears(messages) -> Message:
        assert messages[-1] == Message("user", "Only station 2, please.")
        return say("Station 2.")

    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q"))
        loop = Loop(opened, ScriptedProvider([call(("station", '{"number": 1}')), hears]), {"station": station})
        heard: list[bool] = []

        def watch(item: object) -> None:
            if getattr(item, "type", "") == "tool.started" and not heard:
                heard.append(True)
                loop.steer("Only station 2, please.")

        loop.watch = watch
        assert asyncio.run(loop.run()).answer == "Station 2."


def test_a_chat_goes_on_in_the_same_log(tmp_path: Path) -> None:
    steps = [call(("station", '{"number": 7}')), say("first"), call(("station", '{"number": 8}')), say("second")]
    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="one", budget={"steps": 3}))
        first = asyncio.run(Loop(opened, ScriptedProvider(steps), {"station": station}).run())
        opened.append(UserSaid(text="two"))
        second = asyncio.run(Loop(opened, ScriptedProvider(steps), {"station": station}).run())
    assert (first.answer, first.steps, second.answer, second.steps) == ("first", 2, "second", 2)
    said = [m.content for m in context.messages(State.of(log.read(tmp_path / "r"))) if m.role in ("user", "assistant")]
    assert said == ["one", "", "first", "two", "", "second"]


def test_a_long_chat_fits_a_small_window_also_without_notes(tmp_path: Path) -> None:
    """A checkpoint that is not steered begins each question anew when its window is full."""

    class Small(ScriptedProvider):
        async def stream(self, messages, tools, limits):
            tokens = size(messages) // 4
            if tokens > 2000:
                raise WindowFull("too long")
            if messages[-1].content == ladder.NOTES:
                yield Reply(say("I have read the stations."), Usage(prompt=tokens, completion=9), "stop")
                return
            question, last = next(m for m in reversed(messages) if m.role == "user"), messages[-1]
            number = question.content.split()[-1].rstrip("?")
            message = call(("station", f'{{"number": {number}}}')) if last.role == "user" else say(last.content[-5:])
            yield Reply(message, Usage(prompt=tokens, completion=9), "tool_calls" if message.tool_calls else "stop")

    for steer in (True, False):
        with log.Log.create(tmp_path / str(steer)) as opened:
            opened.append(RunStarted(run="r", question="Level of station 1?", habits={"steer": steer}))
            for turn in range(1, 60):
                if turn > 1:
                    opened.append(UserSaid(text=f"Level of station {turn}?"))
                end = asyncio.run(Loop(opened, Small([], window=2000), {"station": station}).run())
                assert (end.reason, end.answer) == ("stop", str(FACTS[turn])), (steer, turn)


def test_what_was_said_opens_too(tmp_path: Path) -> None:
    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="Where is the blue key?"))
        steps = [
            call(("station", '{"number": 1}'), reasoning="The blue key may be at a station."),
            call(("find", '{"id": "run", "pattern": "BLUE key"}'), ("open", '{"id": "r2"}')),
            say("done"),
        ]
        asyncio.run(Loop(opened, ScriptedProvider(steps), {"station": station}).run())
        said, opens = [m.content for m in context.messages(State.of(opened.events)) if m.role == "tool"][1:]
    assert "In r2, what you wrote:\n[r2:1] The blue key may be at a station." in said
    assert "In r1, what you were told:\n[r1:1] Where is the blue key?" in said
    assert opens.startswith("[r2:1] The blue key may be at a station.")


def test_a_long_line_reads_on_where_it_was_cut(tmp_path: Path) -> None:
    @tool(idempotent=True)
    def dump() -> str:
        """One long line."""
        return " ".join(f"item-{n}" for n in range(2000))

    def on(messages) -> Message:
        more = re.search(r'open\(id="(r\d+)", line=(\d+)\) reads on', messages[-1].content)
        assert more is not None
        return call(("open", json.dumps({"id": more[1], "line": int(more[2])})), first=1)

    with log.Log.create(tmp_path / "r") as opened:
        opened.append(RunStarted(run="r", question="q", habits={"spill": 4000}))
        asyncio.run(Loop(opened, ScriptedProvider([call(("dump", "{}")), on, say("Read.")]), {"dump": dump}).run())
        shown = [m.content for m in context.messages(State.of(opened.events)) if m.role == "tool"]
    last = re.findall(r"item-(\d+)", shown[0].partition("... ")[0])[-1]
    first = re.findall(r"item-(\d+)", shown[1])[1]
    assert int(last) - 60 < int(first) <= int(last) + 1


def test_notes_that_come_empty_are_no_empty_replies(tmp_path: Path) -> None:
    _, _, opened = survey(tmp_path / "r", notes=False)
    assert not [event for event in opened.events if isinstance(event, Note)]
