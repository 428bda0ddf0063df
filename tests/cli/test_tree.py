"""The live tree of heavy mode: what it shows of each path, and that models cannot write to the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from openk2.agent.events import (
    ChildFinished,
    ChildStarted,
    Event,
    Note,
    ReplyReceived,
    RunStopped,
    ToolFinished,
    ToolStarted,
)
from openk2.chat.messages import Message
from openk2.cli.tree import Tree
from openk2.providers.base import Delta, Usage


def screen(tree: Tree, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(tree.render())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def reply(tokens: int) -> ReplyReceived:
    usage = Usage(completion=tokens)
    return ReplyReceived(message=Message("assistant"), usage=usage, finish_reason="stop", seconds=0.1)


def ended(child: str, reason: str, answer: str) -> ChildFinished:
    return ChildFinished(child=child, reason=reason, answer=answer, steps=1, usage=Usage(completion=7), seconds=1.0)


def started(*children: str) -> list[Event]:
    return [ChildStarted(child=child, folder=child) for child in children]


def show(tree: Tree, items: Sequence[tuple[str, Event | Delta]]) -> list[str]:
    for child, item in items:
        tree.watch(child, item)
    return screen(tree)


def test_each_path_has_its_state_steps_tokens_and_what_it_does() -> None:
    tree = Tree(live=True)
    call = ToolStarted(reply=3, index=0, id="", name="search", arguments='{"query": "Alma bridge"}')
    lines = show(
        tree,
        [
            *(("", event) for event in started("1", "2", "3", "4")),
            ("1", reply(40)), ("1", call),
            ("2", Delta("reasoning", "I think ")), ("2", Delta("reasoning", "of 1931")),
            ("3", reply(1234)), ("3", reply(1)), ("", ended("3", "stop", "It was 1931.")),
            ("4", RunStopped(why="The service is down.")), ("", ended("4", "error", "")),
            ("", Note(text="Path 3 gave this answer.")),
        ],
    )  # fmt: skip
    assert lines[0].split()[:6] == ["·", "path", "1", "1", "step", "40"] and "→ search(Alma bridge)" in lines[0]
    assert "I think of 1931" in lines[1]
    assert lines[2].startswith("✓ path 3") and "1,235 tokens" in lines[2] and lines[2].endswith("It was 1931.")
    assert lines[3].startswith("✗ path 4") and lines[3].endswith("The service is down.")
    assert lines[4] == "(Path 3 gave this answer.)"


def test_the_merge_and_the_helpers_stand_in_the_lines_they_belong_to() -> None:
    tree = Tree(live=True)
    lines = show(
        tree,
        [
            *(("", event) for event in started("1", "merge/1/1", "merge/1/2")),
            ("1/2", Delta("content", "half of it")),
            ("merge/1/1", reply(5)), ("merge/1/2", reply(6)), ("", ended("merge/1/1", "stop", "It was 1931.")),
        ],
    )  # fmt: skip
    assert len(lines) == 2 and "helper 2: half of it" in lines[0]
    assert lines[1].startswith("· merge") and "2 steps" in lines[1] and "11 tokens" in lines[1]


def test_text_of_models_cannot_send_control_codes_or_markup() -> None:
    evil = "\x1b[2J\x1b]0;title\x07[red]x[/red]\r\n\u202eabc"
    result = ToolFinished(reply=1, index=0, id="", name="open\x1b[1m", content=evil, is_error=False, seconds=0.0)
    tree = Tree(live=True)
    shown = "\n".join(
        show(
            tree,
            [
                *(("", event) for event in started("1", "2", "3")),
                ("1", Delta("content", evil)), ("2", result), ("", ended("3", "stop", evil)), ("", Note(text=evil)),
            ],
        )
    )  # fmt: skip
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
    assert shown.count("[red]x[/red]") == 4


def test_lines_never_wrap_whatever_is_written() -> None:
    tree = Tree(live=True)
    lines = show(tree, [("1", Delta("reasoning", "word " * 500)), ("2", Delta("content", "語" * 900))])
    assert len(lines) == 2 and all(len(line) <= 100 for line in lines)


def test_without_a_terminal_each_end_is_told_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Tree(live=False) as tree:
        for event in [
            *started("1", "2"),
            ended("1", "stop", "1931"),
            *started("merge"),
            ended("merge", "stop", "It is."),
        ]:
            tree.watch("", event)
        tree.watch("2", Delta("reasoning", "not told"))
        tree.watch("", Note(text="Path 1 gave this answer."))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "path 1: answered after 1 step: 1931",
        "(the paths are being merged)",
        "merge: answered after 1 step: It is.",
        "(Path 1 gave this answer.)",
    ]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Tree(live=True, quiet=True) as tree:
        tree.watch("", ended("1", "stop", "1931"))
    assert capsys.readouterr() == ("", "")


def test_a_resumed_run_begins_with_what_was_done() -> None:
    tree = Tree([*started("1", "2"), ended("1", "stop", "1931")], live=True)
    lines = screen(tree)
    assert lines[0].startswith("✓ path 1") and "1 step" in lines[0] and "7 tokens" in lines[0]
    assert lines[1].startswith("· path 2")


def test_the_live_display_ends_with_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    with Tree(live=True) as tree:
        tree.watch("", ended("1", "stop", "1931"))
    assert "1931" in out.getvalue()
