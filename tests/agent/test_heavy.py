"""Heavy mode against scripted paths and real tools: the budget, the early end, failures, the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from heavy_scripts import QUESTION, SEEDS, Scripts, begin, logs, replies, work, work_until  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.budget import Budget
from openk2.agent.children import family
from openk2.agent.events import (
    BudgetRaised,
    ChildFinished,
    ChildStarted,
    Note,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
)
from openk2.agent.fork import fork
from openk2.agent.heavy import Heavy
from openk2.agent.loop import Loop
from openk2.agent.parts import Parts
from openk2.agent.replay import replay
from openk2.agent.sources import sources
from openk2.chat.messages import Message
from openk2.errors import UserError
from openk2.providers.base import Price
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.calculator import calculator
from openk2.tools.index import Document, Index
from openk2.tools.search import search_tools

TOOLS = {"calculator": calculator}
SUM = ("calculator", '{"expression": "1900+31"}')
INDEX = Index.memory(
    [
        Document("record", "Alma bridge", ("Alma bridge", "Opened: 1931", "Length: 212 m")),
        Document("guide", "Alma town", ("Alma town", "Sights: the bridge of 1928")),
    ]
)


def failing(_: object) -> Message:
    raise UserError("The service is down.")


def ends(folder: Path) -> dict[str, str]:
    return {event.child: event.reason for event in log.read(folder) if isinstance(event, ChildFinished)}


def test_each_path_is_a_run_of_its_own(tmp_path: Path) -> None:
    answers = {1: "1931", 2: "1931", 3: "It was 1928."}
    provider = Scripts({n: [call(SUM), say(text)] for n, text in answers.items()})
    seen: list[tuple[str, str]] = []
    end = work(
        begin(tmp_path / "r", paths=3),
        provider,
        TOOLS,
        watch=lambda child, item: seen.append((child, type(item).__name__)),
    )
    assert (end.answer, end.reason, end.steps) == ("1931", "stop", 6)
    types = [event.type for event in log.read(tmp_path / "r")]
    assert types == ["run.started", *["child.started"] * 3, *["child.finished"] * 3, "note", "run.finished"]
    found = logs(tmp_path / "r")
    assert list(found) == ["paths/1", "paths/2", "paths/3"]
    for number, events in enumerate(found.values(), 1):
        started, finished = events[0], events[-1]
        assert isinstance(started, RunStarted) and isinstance(finished, RunFinished)
        assert (started.run, started.parent, started.limits["seed"]) == (f"r/paths/{number}", "r", SEEDS * (number - 1))
        assert finished.answer == answers[number]
    assert {child for child, _ in seen} == {"", "1", "2", "3"}
    assert ("2", "ToolFinished") in seen and ("", "RunFinished") in seen
    assert end.usage.completion == sum(reply.usage.completion for reply in replies(tmp_path / "r"))


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (Budget(steps=21), lambda reply: 1),
        (Budget(tokens=100), lambda reply: reply.usage.completion),
        (Budget(money=0.0004), lambda reply: reply.usage.money),
    ],
)
def test_paths_that_all_want_the_last_of_a_budget_stay_within_it(tmp_path: Path, budget: Budget, spent) -> None:
    steps = [call(("calculator", f'{{"expression": "{n}+1"}}'), reasoning="one two three four") for n in range(60)]
    provider = Scripts(
        {n: [say_within(step) for step in steps] for n in range(1, 9)},
        price=Price(1.0, 1.0, 1.0),
        seconds=lambda number: 0.001 * number,
    )
    end = work(begin(tmp_path / "r", budget=budget), provider, TOOLS)
    ((axis, limit),) = [(name, value) for name, value in budget.to_json().items() if value]
    total = sum(spent(reply) for reply in replies(tmp_path / "r"))
    assert total <= limit and total >= 0.5 * limit, (axis, total)
    assert end.reason == "budget"
    assert set(ends(tmp_path / "r").values()) == {"budget"}


def say_within(step: Message):
    return lambda messages: step if messages[-1].role != "user" or len(messages) < 4 else say("1931, I think.")


@pytest.mark.parametrize("budget", [Budget(tokens=3000), Budget(money=0.003)])
def test_no_path_reserves_what_the_others_need(tmp_path: Path, budget: Budget) -> None:
    """A reply may take up to all that is left, and eight are being written at the same time."""
    provider = Scripts(
        {n: [call(SUM), say(f"It was {1900 + n}.")] for n in range(1, 9)},
        price=Price(0.1, 0.1, 1.0),
        seconds=lambda number: 0.01 * number,
    )
    end = work(begin(tmp_path / "r", budget=budget), provider, TOOLS)
    assert set(ends(tmp_path / "r").values()) == {"stop"} and end.steps == 16
    assert all(limits.max_tokens and limits.max_tokens <= 3000 // 8 for _, _, limits in provider.asked[:8])


def test_each_path_keeps_back_its_last_answer(tmp_path: Path) -> None:
    steps = [say_within(call(("calculator", f'{{"expression": "{n}+1"}}'))) for n in range(60)]
    provider = Scripts(dict.fromkeys(range(1, 9), steps), seconds=lambda number: 0.001 * number)
    end = work(begin(tmp_path / "r", budget=Budget(steps=40)), provider, TOOLS)
    last = [events[-1] for events in logs(tmp_path / "r").values()]
    assert [event.answer for event in last if isinstance(event, RunFinished)] == ["1931, I think."] * 8
    assert len(replies(tmp_path / "r")) == 40 and end.answer == "1931, I think."


def test_the_share_of_the_merge_is_out_of_reach(tmp_path: Path) -> None:
    steps = [call(("calculator", f'{{"expression": "{n}+1"}}')) for n in range(60)]
    paths = {n: [say(f"It was {1900 + n}.")] if n < 3 else [say_within(step) for step in steps] for n in range(1, 9)}
    provider = Scripts(paths, merge=[say("1931, all in all.")])
    end = work(begin(tmp_path / "r", merge="reflect", budget=Budget(steps=24)), provider, TOOLS)
    assert end.answer == "1931, all in all."
    assert len(replies(tmp_path / "r")) <= 24


def test_enough_that_agree_end_the_others(tmp_path: Path) -> None:
    quick, slow = [call(SUM), say("1931.")], [call(SUM), call(SUM), say("1928")]
    provider = Scripts(
        {n: quick if n <= 6 else slow for n in range(1, 9)}, seconds=lambda number: 0.0 if number <= 6 else 30.0
    )
    end = work(begin(tmp_path / "r", merge="agent"), provider, TOOLS)
    assert end.answer == "1931."
    assert ends(tmp_path / "r") == {**{str(n): "stop" for n in range(1, 7)}, **{str(n): "cancelled" for n in (7, 8)}}
    for number in (7, 8):
        note, stopped = log.read(tmp_path / "r" / f"paths/{number}")[-2:]
        assert isinstance(note, Note) and "Paths 1, 2, 3, 4, 5 and 6 of 8 agree" in note.text
        assert isinstance(stopped, RunStopped) and stopped.why == "cancelled"


def test_agreement_that_is_turned_off_ends_nobody(tmp_path: Path) -> None:
    provider = Scripts({n: [call(SUM), say("1931.")] for n in range(1, 9)}, [say("1931, I am sure.")])
    end = work(begin(tmp_path / "r", merge="reflect", agree=0), provider, TOOLS)
    assert end.answer == "1931, I am sure." and set(ends(tmp_path / "r").values()) == {"stop"}


def test_a_dissenter_with_evidence_ends_the_early_end(tmp_path: Path) -> None:
    other = [call(("calculator", '{"expression": "1900+28"}')), say("1928")]
    provider = Scripts({n: other if n == 1 else [call(SUM), say("1931")] for n in range(1, 9)})
    work(begin(tmp_path / "r"), provider, TOOLS)
    assert set(ends(tmp_path / "r").values()) == {"stop"}


def test_agreement_without_evidence_ends_nobody(tmp_path: Path) -> None:
    provider = Scripts({n: [say("1931.")] if n <= 6 else [call(SUM), say("1928")] for n in range(1, 9)})
    work(begin(tmp_path / "r"), provider, TOOLS)
    assert set(ends(tmp_path / "r").values()) == {"stop"}


def test_nobody_is_ended_before_three_have_finished(tmp_path: Path) -> None:
    provider = Scripts({n: [call(SUM), say("1931")] for n in (1, 2, 3)}, seconds=lambda number: 0.01 * number)
    work(begin(tmp_path / "r", paths=3), provider, TOOLS)
    assert ends(tmp_path / "r") == {"1": "stop", "2": "stop", "3": "stop"}


def test_a_failing_path_does_not_stop_the_rest(tmp_path: Path) -> None:
    provider = Scripts({1: [failing], 2: [call(SUM), say("1931")], 3: [call(SUM), say("1931")]})
    end = work(begin(tmp_path / "r", paths=3), provider, TOOLS)
    assert end.answer == "1931" and ends(tmp_path / "r") == {"1": "error", "2": "stop", "3": "stop"}
    assert any("The service is down." in event.text for event in log.read(tmp_path / "r") if isinstance(event, Note))


def test_when_all_fail_the_first_error_is_raised_and_a_later_process_tries_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The service is down"):
        work(begin(tmp_path / "r", paths=2), Scripts({1: [failing], 2: [failing]}), TOOLS)
    assert isinstance(log.read(tmp_path / "r")[-1], RunStopped) and not ends(tmp_path / "r")
    end = work(log.Log.open(tmp_path / "r"), Scripts({n: [say("1931")] for n in (1, 2)}), TOOLS)
    assert end.answer == "1931"


def test_cancelled_and_resumed_nothing_is_asked_twice(tmp_path: Path) -> None:
    steps = [call(SUM), call(("calculator", '{"expression": "2+2"}')), say("1931")]
    scripts = dict.fromkeys(range(1, 5), steps)
    slow = Scripts(scripts, seconds=lambda number: 0.0 if number == 1 else 0.2)
    asyncio.run(work_until(begin(tmp_path / "r", paths=4, agree=0), slow, TOOLS, 5))
    assert ends(tmp_path / "r") == {"1": "stop"}
    assert not log.in_use(tmp_path / "r" / "paths/2")
    end = work(log.Log.open(tmp_path / "r"), Scripts(scripts), TOOLS)
    assert end.answer == "1931" and end.steps == 12 == len(replies(tmp_path / "r"))
    events = log.read(tmp_path / "r")
    assert sum(isinstance(event, ChildStarted) for event in events) == 4
    assert sum(isinstance(event, RunResumed) for event in events) == 1
    assert work(log.Log.open(tmp_path / "r"), None) == end  # a finished run only gives its answer


def test_what_was_used_before_a_stop_counts_after_it(tmp_path: Path) -> None:
    """Paths that were stopped have no end in the parent's log; their own logs tell."""
    steps = [say_within(call(("calculator", f'{{"expression": "{n}+1"}}'))) for n in range(60)]
    scripts = dict.fromkeys(range(1, 5), steps)
    opened = begin(tmp_path / "r", paths=4, budget=Budget(steps=20))
    asyncio.run(work_until(opened, Scripts(scripts), TOOLS, 9))
    end = work(log.Log.open(tmp_path / "r"), Scripts(scripts), TOOLS)
    assert end.steps == len(replies(tmp_path / "r")) == 20


def test_more_is_asked_once_for_all(tmp_path: Path) -> None:
    steps = [say_within(call(("calculator", f'{{"expression": "{n}+1"}}'))) for n in range(3)]
    asked: list[float] = []

    async def more(spent) -> float | None:
        asked.append(spent.limit)
        return 30 if len(asked) == 1 else None

    provider = Scripts({n: [*steps, say("1931")] for n in range(1, 9)}, seconds=lambda number: 0.001 * number)
    end = work(begin(tmp_path / "r", budget=Budget(steps=10)), provider, TOOLS, more=more)
    assert asked == [10] and end.answer == "1931"
    raised = [event for event in log.read(tmp_path / "r") if isinstance(event, BudgetRaised)]
    assert [(event.axis, event.limit) for event in raised] == [("steps", 40)]


def test_citations_resolve_in_what_the_paths_have_seen(tmp_path: Path) -> None:
    tools = search_tools(INDEX)
    find = call(("search", '{"query": "Alma bridge opened"}'))
    texts = {1: "It was 1931 [record:2] [record:9].", 2: "1928 [guide:2]", 3: "It was 1931 [record:2]."}
    provider = Scripts(
        {n: [find, say(text)] for n, text in texts.items()}, merge=[say("It was 1931 [record:2] [nowhere:4] [r4:1].")]
    )
    end = work(begin(tmp_path / "r", paths=3, merge="reflect"), provider, tools)
    assert end.answer == "It was 1931 [record:2]."
    opened = log.Log.open(tmp_path / "r")
    with opened:
        (source,) = sources(end.answer, family(opened.folder, opened.events), INDEX)
    assert (source.text, source.seen) == ("Opened: 1931", True)


def test_greedy_models_get_some_warmth_after_the_first_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heavy, "_greedy", lambda self: True)
    provider = Scripts({n: [say("1931")] for n in (1, 2, 3)})
    work(begin(tmp_path / "r", paths=3), provider)
    assert [limits.temperature for _, _, limits in sorted(provider.asked, key=lambda item: item[0])] == [None, 0.7, 0.7]


def test_an_unknown_merge_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no merge 'best'; choose from vote"):
        work(begin(tmp_path / "r", merge="best"), Scripts({}))
    assert len(log.read(tmp_path / "r")) == 1


def test_a_heavy_run_has_a_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one path, not 0"):
        work(begin(tmp_path / "r", paths=0), Scripts({}))


def test_time_ends_the_paths_before_it_ends_the_merge(tmp_path: Path) -> None:
    paths = {n: [say(f"It was {1900 + n}.")] for n in range(1, 5)}
    provider = Scripts(paths, [say("1931, all in all.")], seconds=lambda number: 60.0 if number > 2 else 0.0)
    end = work(begin(tmp_path / "r", paths=4, merge="reflect", budget=Budget(seconds=4.0)), provider)
    assert end.answer == "1931, all in all." and end.seconds < 6.0
    assert ends(tmp_path / "r") == {"1": "stop", "2": "stop", "3": "budget", "4": "budget", "merge": "stop"}


def test_paths_that_all_end_without_an_answer_say_so(tmp_path: Path) -> None:
    silent = [say("", "thinking"), say("", "still thinking")]
    end = work(begin(tmp_path / "r", paths=2), Scripts({1: silent, 2: silent}))
    assert end.reason == "empty" and "wrote no answer" in end.answer
    assert QUESTION not in end.answer


def test_one_question_to_a_person_at_a_time(tmp_path: Path) -> None:
    from openk2.tools.base import tool

    @tool(needs_approval=True)
    def send(text: str) -> str:
        """Send it."""
        return "sent"

    open_now: list[str] = []

    async def approve(call, why: str) -> bool:
        open_now.append(call.id)
        assert len(open_now) == 1
        await asyncio.sleep(0.002)
        open_now.clear()
        return True

    provider = Scripts({n: [call(("send", '{"text": "x"}')), say("1931")] for n in range(1, 5)})
    assert work(begin(tmp_path / "r", paths=4), provider, {"send": send}, approve=approve).answer == "1931"


def test_a_path_is_a_run_to_replay_and_to_fork(tmp_path: Path) -> None:
    work(begin(tmp_path / "r", paths=2), Scripts({1: [call(SUM), say("1931")], 2: [say("1931")]}), TOOLS)
    done = asyncio.run(replay(log.read(tmp_path / "r/paths/1"), TOOLS, tmp_path / "scratch"))
    assert done.same and done.events == done.recorded
    made = fork(tmp_path / "r/paths/1", 1, tmp_path)
    with log.Log.open(made) as opened:
        parts = Parts.open(opened, provider=ScriptedProvider([say("1931")]))
        assert isinstance(parts.worker(opened), Loop)  # not as many paths again
