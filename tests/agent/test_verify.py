"""The audit finds what no tool has shown, and lets pass what follows from what was shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openk2.agent import context, log
from openk2.agent.answers import key
from openk2.agent.events import Checked, RunStarted
from openk2.agent.loop import Loop
from openk2.agent.state import State
from openk2.agent.verify import DOUBT, audit
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.base import tool

PAGE = "In Chad:\n[chad:22] Area - total: 1.284 million sq km\n[chad:54] Population - total: 19,674,004 (2025 est.)"


@tool(idempotent=True)
def search(query: str, k: int = 3) -> str:
    """Search."""
    return PAGE


@tool
def python(code: str) -> str:
    """Compute."""
    return "15.322433\n0.4217"


def work(folder: Path, replies: list, **habits) -> tuple[str, list[Checked], State]:
    found = call(("search", '{"query": "Chad"}'), ("python", '{"code": "print(1)"}'))
    with log.Log.create(folder) as opened:
        opened.append(RunStarted(run="r", question="How dense was Chad in 2025?", habits=habits))
        tools = {"search": search, "python": python}
        end = asyncio.run(Loop(opened, ScriptedProvider([found, *replies]), tools).run())
        state = State.of(opened.events)
    return end.answer, state.checks, state


GOOD = [
    "In 2025 Chad had 15.3 people per sq km [chad:54] [chad:22].",
    "19,674,004 people, about 19.7 million, or 20 million; 1,284,000 sq km; 15 per sq km.",
    "42.2% of them, or 42%.",
    "1. It is dense.\n2. It has 3 regions.",
    "The density is 15.32 (r4, [r4:1]).",
    "No figure at all.",
]
BAD = {
    "It has 17.9 people per sq km.": "17.9",
    "19,674,005 people.": "19,674,005",
    "15.3 per sq km [chad:55].": "[chad:55]",
    "15.3 per sq km [kenya:1].": "[kenya:1]",
    "It has 12 regions.": "12",
}


@pytest.mark.parametrize("answer", GOOD)
def test_borne_out(answer: str, tmp_path: Path) -> None:
    said, checks, state = work(tmp_path / "r", [say(answer)], revisions=2)
    assert said == answer and [(c.kind, c.ok) for c in checks] == [("audit", True)]
    assert audit(answer, state) == []


@pytest.mark.parametrize("answer", BAD)
def test_not_borne_out_is_sent_back_and_may_be_mended(answer: str, tmp_path: Path) -> None:
    said, checks, state = work(tmp_path / "r", [say(answer), say(GOOD[0])], revisions=2)
    assert said == GOOD[0] and [c.ok for c in checks] == [False, True]
    assert BAD[answer] in checks[0].text
    assert context.messages(state)[-2].content == checks[0].text


def test_an_answer_is_sent_back_at_most_so_often(tmp_path: Path) -> None:
    said, checks, _ = work(tmp_path / "r", [say(f"It is {n}77.") for n in range(1, 9)], revisions=2)
    assert said == "It is 377." and [c.ok for c in checks] == [False, False]


def test_doubt_is_asked_once_after_the_audit(tmp_path: Path) -> None:
    replies = [say("17.9"), say("It is 15.3."), call(("python", '{"code": "2"}')), say("It is 15.3, checked.")]
    said, checks, _ = work(tmp_path / "r", replies, revisions=3, doubt=True)
    assert said == "It is 15.3, checked."
    assert [(c.kind, c.ok) for c in checks] == [("audit", False), ("doubt", False), ("audit", True)]
    assert checks[1].text == DOUBT


def test_without_work_or_habit_nothing_is_checked(tmp_path: Path) -> None:
    assert work(tmp_path / "a", [say("It is 999.")])[1] == []
    with log.Log.create(tmp_path / "b") as opened:
        opened.append(RunStarted(run="r", question="q", habits={"revisions": 2}))
        tools = {"search": search}
        assert asyncio.run(Loop(opened, ScriptedProvider([say("It is 999.")]), tools).run()).answer == "It is 999."


def test_a_figure_beyond_all_numbers_ends_no_run() -> None:
    assert audit("It is 1e999 kg.", State.of([RunStarted(seq=1, run="r", question="How heavy?")])) == []
    assert key("It is 1.5e999 kg.", "How heavy?").words == {"kg"}
