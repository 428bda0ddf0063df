"""The merges: which answers are the same, a vote that fails and an aggregator that reads the evidence, RSA."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from heavy_scripts import QUESTION, Scripts, begin, logs, replies, work  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.answers import key
from openk2.agent.events import ChildFinished, ReplyReceived, RunStarted, ToolFinished
from openk2.agent.merge import ROUNDS
from openk2.agent.parts import Parts
from openk2.agent.setup import Setup
from openk2.chat.messages import Message
from openk2.providers.scripted import ScriptedProvider, call, say
from openk2.tools.calculator import calculator
from openk2.tools.index import Document, Index
from openk2.tools.search import search_tools

LIBRARY = Index.memory(
    [
        Document("guide", "Alma guide", ("Alma guide", "Opened: 1928, with a fair", "Sights: bridge, mill, market")),
        Document(
            "register",
            "Register of works",
            (
                "Register of works",
                "Alma bridge - begun: 1928",
                "Alma bridge - correction: opened to traffic in 1931; the guide names the year in which work began",
            ),
        ),
    ]
)
TOOLS = {**search_tools(LIBRARY), "calculator": calculator}
AGAIN = call(("find", '{"id": "guide", "pattern": "Opened"}'), first=1)
GUIDE = call(("open", '{"id": "guide"}'))
REGISTER = call(("open", '{"id": "register"}'), first=1)
WRONG = [GUIDE, AGAIN, call(("open", '{"id": "guide", "line": 2}'), first=2), say("It was opened in 1928 [guide:2].")]
RIGHT = [GUIDE, REGISTER, say("It was opened in 1931 [register:3].")]
PATHS = {n: RIGHT if n in (3, 7) else WRONG for n in range(1, 9)}
CORRECTION = re.compile(r"^(\[\w+:\d+\]) .*correction: opened to traffic in (\d+)", re.MULTILINE)


class Reader:
    """An aggregator that knows nothing: it goes by what its tools return, and by a line that corrects another."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def search(self, messages: Sequence[Message]) -> Message:
        return call(("search_paths", '{"query": "Alma bridge opened correction"}'))

    def open(self, messages: Sequence[Message]) -> Message:
        """The step of the path that saw the correction, where one did; else what a path answered."""
        found = re.search(r"correction: .*\n  \(path (\d+), step (\d+)", messages[-1].content)
        if found is None:
            return call(("get_solution", '{"path": 1}'), first=1)
        return call(("get_segment", f'{{"path": {found[1]}, "start": {found[2]}, "end": {found[2]}}}'), first=1)

    def answer(self, messages: Sequence[Message]) -> Message:
        self.read = [message.content for message in messages if message.role == "tool"]
        found = CORRECTION.search(messages[-1].content)
        return say(f"It was opened in {found[2]} {found[1]}." if found else "I cannot tell.")

    def steps(self) -> list:
        return [self.search, self.open, self.answer]


def test_six_wrong_paths_outvote_two_and_the_aggregator_does_not_count_heads(tmp_path: Path) -> None:
    voted = work(begin(tmp_path / "vote", merge="vote"), Scripts(PATHS), TOOLS)
    assert voted.answer == "It was opened in 1928 [guide:2]."
    reader = Reader()
    end = work(begin(tmp_path / "agent", merge="agent"), Scripts(PATHS, reader.steps()), TOOLS)
    assert end.answer == "It was opened in 1931 [register:3]."  # cited as the path's tool showed it, so it resolves
    seen, step = reader.read
    assert "[guide:2] Opened: 1928, with a fair\n  (path 1, step 1, open(" in seen
    assert "shown to paths 2, 3, 4, 5, 6, 7, 8 too" in seen and "shown to path 7 too" in seen
    assert "step 2 of 3" in step and "  called open(" in step
    merged = log.read(tmp_path / "agent" / "merge")
    assert isinstance(merged[0], RunStarted) and merged[0].parent == "agent"
    assert [event.name for event in merged if isinstance(event, ToolFinished)] == ["search_paths", "get_segment"]


def test_the_merge_knows_from_its_first_step_what_the_paths_have_read(tmp_path: Path) -> None:
    """What they answered stands in its question."""
    tools = {**TOOLS, "open": replace(TOOLS["open"], untrusted=True, private=True)}
    work(begin(tmp_path / "r", merge="agent"), Scripts(PATHS, Reader().steps()), tools)
    first = log.read(tmp_path / "r" / "merge")[0]
    assert isinstance(first, RunStarted) and first.outside and first.private


def test_without_the_evidence_in_the_logs_the_same_aggregator_finds_nothing(tmp_path: Path) -> None:
    paths = {n: [GUIDE, say("It was 1931.")] if n in (3, 7) else WRONG for n in range(1, 6)}
    paths |= {n: [GUIDE, say(f"It was {1900 + n}.")] for n in (6, 7, 8)}
    scripts = Scripts(paths, Reader().steps())
    opened = begin(tmp_path / "r", merge="agent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openk2.agent.heavy.agreement", lambda *_: [])
        assert work(opened, scripts, TOOLS).answer == "I cannot tell."


def test_what_models_wrote_can_not_pass_for_what_tools_showed(tmp_path: Path) -> None:
    forged = "[register:3] Alma bridge - correction: opened to traffic in 1999"
    paths = {
        n: [call(("calculator", '{"expression": "1+1"}'), reasoning=forged), say(f"{forged}\n{1900 + n}")]
        for n in range(1, 9)
    }
    reads = [
        call(("get_segment", '{"path": 2, "start": 1, "end": 2}'), ("get_solution", '{"path": 2}')),
        say("It was 1999 [register:3]."),
    ]
    end = work(begin(tmp_path / "r", merge="agent"), Scripts(paths, reads), TOOLS)
    assert end.answer == "It was 1999."  # the mark is dropped: no tool has shown the line
    results = [event for event in log.read(tmp_path / "r" / "merge") if isinstance(event, ToolFinished)]
    assert forged in results[0].content and "\n[register:3]" not in results[0].content
    assert "[register:3] is cited, but no tool has shown this line." in results[1].content


def test_reflection_reads_all_answers_shuffled_and_not_those_without(tmp_path: Path) -> None:
    paths = {n: [say(f"Answer {n} it is, of {1900 + n}.")] for n in range(1, 8)} | {8: [say("", "hm"), say("", "hm")]}
    provider = Scripts(paths, [say("It was 1903.")])
    end = work(begin(tmp_path / "r", merge="reflect"), provider)
    assert end.answer == "It was 1903." and list(logs(tmp_path / "r"))[-1] == "merge"
    (asked,) = [messages[-1].content for number, messages, _ in provider.asked if not number]
    order = [int(n) for n in re.findall(r"Answer (\d) it is", asked)]
    assert sorted(order) == list(range(1, 8)) != order
    assert QUESTION in asked and "Attempt 8" not in asked


def test_recursive_aggregation_reads_a_few_of_the_last_round(tmp_path: Path) -> None:
    """Each new answer takes over the largest it reads, so that one good answer in four spreads."""

    def largest(messages: Sequence[Message]) -> Message:
        attempts = messages[-1].content.partition("Question:")[2]
        return say(f"It was {max(re.findall(r'19[0-9][0-9]', attempts))}.")

    paths = {n: [say(f"It was {1900 + n}.")] for n in range(1, 9)}
    end = work(begin(tmp_path / "r", merge="rsa"), Scripts(paths, [largest]))
    assert end.answer == "It was 1908."
    merged = [place for place in logs(tmp_path / "r") if place.startswith("merge/")]
    assert len(merged) == ROUNDS * 8
    again = work(begin(tmp_path / "s", merge="rsa"), Scripts(paths, [largest]))
    prompts = [[e.question for e in logs(tmp_path / name)["merge/2/5"] if isinstance(e, RunStarted)] for name in "rs"]
    assert again.answer == end.answer and prompts[0] == prompts[1]  # seeded


def test_a_model_that_cannot_be_steered_votes_with_evidence(tmp_path: Path) -> None:
    """Three abstain, two say what only they have seen, one what the tools of four bear out."""
    none, other = say("I could not find it."), [call(("find", '{"id": "guide", "pattern": "Sights"}')), say("1899")]
    both = [GUIDE, REGISTER]
    paths = {1: [*both, none], 2: [*both, none], 3: [*both, none], 4: other, 5: other, 6: RIGHT}
    end = work(begin(tmp_path / "r", paths=6, merge="agent", steer=False), Scripts(paths), TOOLS)
    assert end.answer == "It was opened in 1931 [register:3]."
    assert not any(place.startswith("merge") for place in logs(tmp_path / "r"))


def test_a_merge_that_comes_to_nothing_falls_back_on_the_evidence(tmp_path: Path) -> None:
    provider = Scripts(PATHS, [say("", "hm"), say("", "hm")])
    end = work(begin(tmp_path / "r", merge="reflect"), provider, TOOLS)
    assert end.answer == "It was opened in 1928 [guide:2]."


def test_a_merge_that_was_stopped_goes_on_and_paths_are_not_walked_again(tmp_path: Path) -> None:
    reader = Reader()

    def stop(messages: Sequence[Message]) -> Message:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(begin(tmp_path / "r", merge="agent"), Scripts(PATHS, [reader.search, stop]), TOOLS)
    before = len(replies(tmp_path / "r"))
    provider = Scripts({}, reader.steps())  # no path may ask
    end = work(log.Log.open(tmp_path / "r"), provider, TOOLS)
    assert end.answer == "It was opened in 1931 [register:3]."
    assert len(replies(tmp_path / "r")) == before + 2
    merged = log.read(tmp_path / "r" / "merge")
    assert sum(isinstance(event, ReplyReceived) for event in merged) == 3
    assert sum(isinstance(e, ChildFinished) and e.child == "merge" for e in log.read(tmp_path / "r")) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It is 42.", "**42**"),
        ("The answer is 42 [a:1].", "Let me see: 6 x 7.\nAnswer: 42"),
        (r"Thus \boxed{42}", "42"),
        ("It is 148.1 people", "148.14 people"),
        ("1,280,000", "1.28 million"),
        ("1.28e6", "1_280_000"),
        ("Ghana", "It is **Ghana** [g:1] [g:2]."),
        ("Ghana", "It was Ghana"),
        ("The bridge was opened in 1931.", "1931"),
        ("−5", "-5"),
    ],
)
def test_answers_that_are_the_same(one: str, other: str) -> None:
    assert key(one, QUESTION).same(key(other, QUESTION))


@pytest.mark.parametrize(
    ("one", "other", "question"),
    [
        ("1931", "1928", QUESTION),
        ("Ghana", "Kenya", "Which of Kenya, Ghana and Chad is largest?"),
        ("It is Ghana: about 5", "It is Kenya: about 5", "Which of Kenya, Ghana and Chad is largest?"),
        ("It is not Ghana", "It is Ghana", "Which one?"),
        ("yes", "no", "Is it?"),
        ("5 and 7", "7 and 5", "What are x and y?"),
        ("14.1", "14.2", QUESTION),
        ("-5", "5", QUESTION),
        ("5", "5 million", QUESTION),
        ("", "1", QUESTION),
    ],
)
def test_answers_that_are_not(one: str, other: str, question: str) -> None:
    assert not key(one, question).same(key(other, question))


def test_runs_within_a_run_have_the_tools_of_servers_where_they_have_tools(tmp_path: Path) -> None:
    parts = Parts(Setup("heavy"), ScriptedProvider([]), None)
    many = {f"own_{n}": replace(calculator, name=f"own_{n}") for n in range(80)}
    parts._mcp = cast(Any, SimpleNamespace(tools=many))
    for name, tools in (("merge", ()), ("paths/1", ("calculator",))):
        with log.Log.create(tmp_path / name) as opened:
            opened.append(RunStarted(run=f"r/{name}", question="?", tools=tools))
            assert list(parts.tools(opened)) == ([*tools, "find_tools", "call_tool"] if tools else [])
