"""What stands on the screen of a run: calls of an earlier process, and ends of runs within it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_chat import K2, terminal  # type: ignore[import-not-found]

from openk2.agent.events import ChildFinished, ReplyReceived, ToolFinished
from openk2.cli.conversation import HELP
from openk2.cli.terminal import Terminal, event_note
from openk2.paths import NANO
from openk2.providers.base import Usage
from openk2.providers.scripted import call


def test_a_call_of_an_earlier_process_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    message = call(("python", '{"code": "print(6 * 7)"}'))
    reply = ReplyReceived(seq=2, message=message, usage=Usage(), finish_reason="tool_calls", seconds=0.1)
    shown = Terminal(live=False)
    shown.recall([reply])
    shown.watch(ToolFinished(reply=2, index=0, id="", name="python", content="42", is_error=False, seconds=0.1))
    assert "→ python(print(6 * 7)) · 100 ms · 42" in capsys.readouterr().err


def test_the_end_of_a_path_without_an_answer() -> None:
    end = ChildFinished(child="5", reason="cancelled", answer="", steps=6, usage=Usage(), seconds=1.0)
    assert event_note(end) == "path 5 ended (cancelled, 6 steps)"


def test_help_fits_a_small_terminal() -> None:
    assert max(map(len, HELP.splitlines())) < 80


@pytest.mark.skipif(not (NANO / "config.json").exists(), reason="the embedded model is not here")
def test_the_live_lines_of_heavy_mode_leave_nothing_behind(home: Path) -> None:
    with terminal(*K2, "ask", "--mode", "heavy", "--paths", "3", "What is the capital of Peru?") as screen:
        screen.wait("Sources")
        assert screen.child.wait(30) == 0
        waited = screen.text.partition("path 1")[0]
    assert waited.rindex("\x1b[2K") > waited.rindex("is reading")
