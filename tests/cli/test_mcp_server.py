"""`k2 mcp` and our own MCP client, against each other: in one process, over a pipe, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("mcp")

from mcp.client import Client

from openk2.agent.events import RunFinished
from openk2.agent.log import Log
from openk2.agent.setup import Setup
from openk2.cli.mcp_server import made
from openk2.paths import NANO
from openk2.tools.mcp import Servers, ServerSettings

pytestmark = pytest.mark.skipif(not (NANO / "config.json").exists(), reason="the embedded model is not here")
QUESTION = "How long is the coastline of Kenya?"


def text(result: Any) -> str:
    return "\n".join(block.text for block in result.content)


def test_in_one_process(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "ruritania.md").write_text("# Ruritania\n\nCoastline: 77 km\n\nArea - total: 1,234 sq km\n")
    told: list[str] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async def run() -> None:
        async with Client(made(Setup(), tmp_path / "runs", [docs])) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == ["ask", "search", "open", "find"]
            assert sorted(tools["ask"].input_schema["properties"]) == ["docs", "mode", "question"]
            found = text(await client.call_tool("search", {"query": "coastline of Kenya", "k": 1}))
            assert found.startswith("In Kenya:\n[kenya:")
            place = re.search(r"kenya:(\d+)", found)
            assert place
            opened = text(await client.call_tool("open", {"id": "kenya", "line": int(place[1])}))
            assert opened.startswith(f"[kenya:{place[1]}] Coastline")
            missing = await client.call_tool("open", {"id": "atlantis"})
            assert missing.is_error and "No document atlantis. Search first." in text(missing)
            answer = await client.call_tool("ask", {"question": QUESTION}, progress_callback=heard)
            assert not answer.is_error and "536" in answer.structured_content["answer"], text(answer)
            assert "\nSources\n[kenya:" in text(answer) and any(message.startswith("search {") for message in told)
            of_mine = {"question": QUESTION.replace("Kenya", "Ruritania"), "docs": [str(docs)]}
            own = await client.call_tool("ask", of_mine)
            assert "77" in own.structured_content["answer"]
            for more, says in (
                ({"docs": ["/etc"]}, "is not below"),
                ({"docs": [str(docs / "../runs")]}, "is not below"),
                ({"docs": [str(docs / "none.md")]}, "no file or folder"),
                ({"question": " "}, "is empty"),
            ):
                refused = await client.call_tool("ask", {"question": QUESTION, **more})
                assert refused.is_error and says in text(refused)
            end = Log.open(tmp_path / "runs" / answer.structured_content["run"]).finished
            assert isinstance(end, RunFinished) and end.answer == answer.structured_content["answer"]

    asyncio.run(run())


def command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "openk2", "mcp", *arguments)


def test_over_a_pipe_with_our_own_client(home: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key.startswith(("XDG_", "OPENK2_"))}
    settings = ServerSettings("k2", command(), env=environment, cwd=str(Path(__file__).parents[2]))

    async def run() -> None:
        servers = await Servers.start([settings], home)
        try:
            assert not servers.problems, servers.problems
            result = await servers.tools["k2_ask"].run(json.dumps({"question": QUESTION}))
            assert not result.is_error and "536" in result.content and "from the server k2" in result.content
        finally:
            await servers.aclose()

    asyncio.run(run())


def test_ctrl_c_ends_it_at_once(home: Path) -> None:
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    pipe = subprocess.PIPE
    root = Path(__file__).parents[2]
    with subprocess.Popen(command(), stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=root) as server:
        assert server.stdin and server.stdout and server.stderr
        server.stdin.write(json.dumps(hello) + "\n")
        server.stdin.flush()
        assert "serverInfo" in server.stdout.readline()
        server.send_signal(signal.SIGINT)  # the client still holds the pipe open
        try:
            assert server.wait(20) == 130 and not server.stderr.read()
        finally:
            server.kill()


def test_over_http_only_with_the_token(home: Path) -> None:
    process = subprocess.Popen(command("--port", "0"), stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stderr
    try:
        url = process.stderr.readline().removeprefix("MCP at ").strip()
        token = process.stderr.readline().rpartition(" ")[2].strip()
        assert url.startswith("http://127.0.0.1:") and len(token) > 20
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert httpx.post(url, json=body).status_code == 401
        assert httpx.post(url, json=body, headers={"Authorization": "Bearer x"}).status_code == 401
        allowed = {"Authorization": f"Bearer {token}"}
        assert httpx.post(url, json=body, headers={**allowed, "Host": "evil.example"}).status_code in (403, 421)
        assert httpx.post(url, json=body, headers={**allowed, "Origin": "https://evil.example"}).status_code == 403

        async def run() -> None:
            settings = ServerSettings("k2", url=url, headers=allowed)
            servers = await Servers.start([settings], home)
            try:
                assert not servers.problems, servers.problems
                result = await servers.tools["k2_find"].run('{"id": "kenya", "pattern": "coastline"}')
                assert "[kenya:" in result.content
            finally:
                await servers.aclose()
            closed = await Servers.start([ServerSettings("k2", url=url)], home)
            assert closed.problems and not closed.tools
            await closed.aclose()

        asyncio.run(run())
    finally:
        process.terminate()
        process.wait(10)


def test_what_is_wrong_is_said_before_anybody_asks(home: Path) -> None:
    wrong = (("--model", "no-such-model", "There is no model"), ("--docs", "/nowhere", "correct --docs"))
    for option, value, says in wrong:
        done = subprocess.run(command(option, value), capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 2 and says in done.stderr and not done.stdout
