"""MCP servers of the settings file as tools of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import called, said  # type: ignore[import-not-found]

from openk2 import Agent
from openk2.agent import log
from openk2.agent.events import ToolFinished
from openk2.cli.main import run
from openk2.providers.scripted import ScriptedProvider, call, say

pytest.importorskip("mcp")
Serve = Callable[..., Any]


def remote(server: Any, request: dict[str, Any]) -> list[Any]:
    results = [m for m in request["messages"] if m["role"] == "tool"]
    if not results:
        return called(("functions.own_search:0", "own_search", '{"query": "capital of Peru"}'))
    return said("Lima." if "Lima" in results[0]["content"] else results[0]["content"])


def configure(home: Path, text: str) -> None:
    config = home / "config" / "openk2" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(text)


def own_server(approve: str) -> dict[str, Any]:
    """This very agent as a server."""
    root = str(Path(__file__).parents[2])
    return {"command": [sys.executable, "-m", "openk2", "mcp"], "env": {"PYTHONPATH": root}, "approve": approve}


def as_toml(table: dict[str, Any]) -> str:
    environment = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table["env"].items())
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if key != "env"]
    return "\n".join([*lines, f"env = {{ {environment} }}"])


def test_a_server_of_the_settings(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(home, f"[mcp.own]\n{as_toml(own_server('never'))}\n[mcp.gone]\ncommand = [\"/no/such/program\"]\n")
    server = serve(remote)
    assert run(["ask", "Capital of Peru?", "--base-url", server.url]) == 0
    out, err = capsys.readouterr()
    assert out == "Lima.\n" and "gone" in err  # the run goes on without a server that is not there
    names = [tool["function"]["name"] for tool in server.requests[0]["tools"]]
    assert "own_search" in names and "own_ask" in names
    result = next(e for e in log.read(next(log.folders(log.runs_dir()))) if isinstance(e, ToolFinished))
    assert result.origin == "outside" and result.name == "own_search"
    assert run(["ask", "Capital of Peru?", "--base-url", server.url, "--no-mcp"]) == 0
    assert "There is no tool own_search" in capsys.readouterr().out


def test_servers_of_an_agent(home: Path) -> None:
    steps = [call(("own_search", '{"query": "capital of Peru"}')), say("Lima.")]
    with Agent(provider=ScriptedProvider(steps), mcp={"own": own_server("never")}, tools=[]) as agent:
        answer = agent.run("Capital of Peru?")
    assert "Lima" in answer.messages[3].content and answer.text == "Lima."


def test_wrong_settings_are_a_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(home, "[mcp.own]\nport = 3\n")
    assert run(["ask", "q", "--base-url", "http://127.0.0.1:9", "--model", "m"]) == 2
    assert "[mcp.own]" in capsys.readouterr().err
