"""`k2 runs resume` with more budget, or a word: what was used before still counts, until there is an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openk2.agent.events import ReplyReceived, RunFinished, RunStarted, RunStopped
from openk2.agent.log import Log
from openk2.agent.loop import Loop
from openk2.cli.runs import raise_budgets
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.calculator import calculator

STEPS = [call(("calculator", f'{{"expression": "{n}+1"}}')) for n in range(20)]


def go_on(log: Log, steps: list) -> RunFinished:
    return asyncio.run(Loop(log, ScriptedProvider(steps), {"calculator": calculator}).run())


def begin(folder: Path) -> Log:
    log = Log.create(folder)
    log.append(RunStarted(run="r", question="q", budget={"steps": 4, "tokens": 60}))
    return log


def replies(log: Log) -> int:
    return sum(isinstance(event, ReplyReceived) for event in log.events)


def test_more_of_one_budget_gives_no_other_anew(tmp_path: Path) -> None:
    with begin(tmp_path / "r") as log:
        assert (go_on(log, STEPS).reason, replies(log)) == ("budget", 4)
        raise_budgets(log, {"steps": 7}, None)
        assert (go_on(log, STEPS).reason, replies(log)) == ("budget", 7)
        raise_budgets(log, {"steps": 100}, None)
        end = go_on(log, STEPS)
        assert end.reason == "budget" and end.usage.completion <= 60  # the tokens of the beginning


def test_a_word_after_a_stop_gives_no_budget_anew(tmp_path: Path) -> None:
    with begin(tmp_path / "r") as log:
        with pytest.raises(Exception, match="script"):
            go_on(log, STEPS[:2])
        assert isinstance(log.events[-1], RunStopped)
        raise_budgets(log, {}, "Be quick.")
        assert (go_on(log, STEPS).reason, replies(log)) == ("budget", 4)


def test_a_word_after_an_answer_is_a_new_question(tmp_path: Path) -> None:
    with begin(tmp_path / "r") as log:
        assert go_on(log, [*STEPS[:2], say("one")]).answer == "one"
        raise_budgets(log, {}, "And now?")
        end = go_on(log, [*STEPS[:2], say("one"), *STEPS[2:4], say("two")])
        assert (end.answer, end.steps) == ("two", 3)
