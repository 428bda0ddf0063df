"""What a person is asked at the terminal, and the settings of a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import called, said  # type: ignore[import-not-found]

from openk2 import Agent
from openk2.agent import log
from openk2.agent.events import BudgetSpent
from openk2.chat.messages import ToolCall
from openk2.cli import keyboard
from openk2.cli.consent import Consent
from openk2.cli.main import run
from openk2.cli.terminal import Terminal
from openk2.providers.scripted import ScriptedProvider, say

Serve = Callable[..., Any]
CALL = ToolCall("functions.send:0", "send", '{"text": "hi\\u001b[2J"}')
OTHER = ToolCall("functions.erase:1", "erase", "{}")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str | None]]:
    def lines(*said_: str | None) -> list[str | None]:
        left = list(said_)

        async def read_line() -> str | None:
            return left.pop(0)

        monkeypatch.setattr(keyboard, "read_line", read_line)
        return left

    return lines


def test_yes_no_and_always(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    consent = Consent(Terminal(live=False))
    left = typed("perhaps", "y", "n", "", None, "ALWAYS", "no")

    async def ask(call: ToolCall) -> bool:
        return await consent.approve(call, "It sends.")

    async def several() -> list[bool]:
        return [await ask(CALL) for _ in range(4)] + [await ask(CALL), await ask(CALL), await ask(OTHER)]

    assert asyncio.run(several()) == [True, False, False, False, True, True, False]
    assert left == []
    err = capsys.readouterr().err
    assert "It sends." in err and "send(hi[2J)" in err and "\x1b" not in err


def test_yes_to_all_asks_nothing(typed: Any) -> None:
    typed()
    assert asyncio.run(Consent(Terminal(live=False), yes=True).approve(CALL, "It sends."))


@pytest.mark.parametrize(
    ("lines", "more"),
    [
        (["y"], 300.0), (["n"], None), ([None], None), ([""], None), (["lots", "20"], 20.0), (["-3"], None),
        (["inf"], None),
    ],
)
def test_more_budget(typed: Any, lines: list[str | None], more: float | None) -> None:
    typed(*lines)
    spent = BudgetSpent(axis="steps", limit=300, used=300)
    assert asyncio.run(Consent(Terminal(live=False)).more(spent)) == more


def test_all_settings_from_the_file(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(lambda *_: said("x"))
    config = home / "config" / "openk2" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'base_url = "{server.url}"\neffort = "low"\nmax_cost = 0.5\nprice = [0.6, 0.15, 2.5]\n'
        'tools = ["read_file", "list_files"]\nmemory = true\nprivate = true\nsteps = 7\n'
    )
    assert run(["ask", "q", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["usage"]["money"] == pytest.approx((10 * 0.6 + 5 * 2.5) / 1e6)
    started = log.read(next(log.folders(log.runs_dir())))[0]
    assert {"read_file", "list_files", "memory"} <= set(started.tools)  # type: ignore[attr-defined]
    assert started.budget["money"] == 0.5 and started.budget["steps"] == 7  # type: ignore[attr-defined]
    assert started.setup["private"] and started.setup["effort"] == "low"  # type: ignore[attr-defined]


def test_a_budget_of_money_ends_a_run(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(server: Any, request: dict[str, Any]) -> list[Any]:
        if request.get("tool_choice") == "none":
            return said("Best so far.")
        number = len(server.requests)
        return called((f"functions.calculator:{number}", "calculator", f'{{"expression": "{number}"}}'))

    server = serve(answer)
    command = ["ask", "q", "--base-url", server.url, "--json", "--max-cost", "0.002", "--price", "0,10"]
    assert run(command) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["finish_reason"] == "budget" and got["usage"]["money"] <= 0.002
    assert run(command[:-2]) == 2 and "--price" in capsys.readouterr().err  # a limit without a price is none


def test_an_unknown_tool_is_said_before_anything_is_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ask", "q", "--tools", "fly"]) == 2
    assert "There is no tool 'fly'" in capsys.readouterr().err and not log.runs_dir().exists()


def test_a_run_of_a_program_is_gone_on_with_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def weather(place: str) -> str:
        """The weather."""
        return "rain"

    with Agent("m", base_url="http://127.0.0.1:9", tools=[weather]) as agent:
        agent._begin("Weather?").close()
    assert run(["runs", "resume", "last"]) == 2
    assert "the tool weather of a Python program" in capsys.readouterr().err
    with Agent(provider=ScriptedProvider([say("x")]), tools=[]) as agent:
        agent._begin("Weather?").close()
    assert run(["runs", "resume", "last"]) == 2
    assert "the model of a Python program" in capsys.readouterr().err
