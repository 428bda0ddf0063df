"""`k2 synth serve` as clients meet it: the MCP package's own client, and that of this project."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from openk2.synth.task.dials import ALONE
from openk2.synth.task.make import write_worlds
from openk2.synth.task.task import Task, draw_task
from openk2.synth.world.world import World
from openk2.tools.mcp import Servers, ServerSettings
from tests.synth.world_apis import depot_world

SEED = 3
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    write_worlds(folder, iter([depot_world(SEED)]))
    return folder


def words(worlds: Path, *more: str) -> list[str]:
    name = depot_world(SEED).name
    return [sys.executable, "-m", "openk2", "synth", "serve", name, "--worlds", str(worlds), *more]


def a_task() -> tuple[int, Task]:
    """A task that can be fulfilled, and its seed."""
    world = World(depot_world(SEED))
    for seed in range(20):
        task = draw_task(world, seed, ALONE)
        if task is not None and not task.refused:
            return seed, task
    raise AssertionError("no seed has a task")


def shown(result: Any) -> dict[str, Any]:
    return json.loads(result.content[0].text)


def test_the_package_s_client_works_in_a_world_and_state_is_kept(worlds: Path) -> None:
    command, *arguments = words(worlds)

    async def run() -> None:
        place = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
        async with Client(stdio_client(place)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            spec = depot_world(SEED)
            assert list(tools) == [tool.name for tool in spec.tools]
            for tool in spec.tools:
                hints = tools[tool.name].annotations
                assert hints and hints.read_only_hint == tool.reads
            made = await client.call_tool("create_dock", {"name": "north-gate-77", "capacity": 5})
            if made.is_error:  # a rule of the house forbids it: told as a service would
                assert set(shown(made)["error"]) == {"code", "message"}
            else:
                got = shown(await client.call_tool("get_dock", {"dock_id": shown(made)["id"]}))
                assert got["name"] == "north-gate-77" and made.structured_content == shown(made)
            wrong = await client.call_tool("create_dock", {"name": 7})
            assert wrong.is_error and shown(wrong)["error"]["code"] == "InvalidArguments"
            unknown = await client.call_tool("fly", {})
            assert unknown.is_error and shown(unknown)["error"]["code"] == "UnknownTool"

    asyncio.run(run())


def test_our_own_client_reaches_a_task_s_goal_and_the_server_says_so(worlds: Path, tmp_path: Path) -> None:
    seed, task = a_task()
    result = tmp_path / "result.json"
    place = ServerSettings(
        "depot", tuple(words(worlds, "--task", "--seed", str(seed), "--result", str(result))),
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip

    async def run() -> None:
        servers = await Servers.start([place], tmp_path)
        try:
            assert servers.problems == []
            assert {name.removeprefix("depot_") for name in servers.tools} == set(task.tools)
            asks = {name.removeprefix("depot_"): tool.needs_approval for name, tool in servers.tools.items()}
            assert asks == {name: not task.world.tool(name).reads for name in task.tools}
            assert json.loads(result.read_text())["reached"] is False
            for call in task.plan.calls:
                done = await servers.tools[f"depot_{call.tool}"].run(json.dumps(call.args))
                assert not done.is_error, done
            assert json.loads(result.read_text()) == {
                "world": task.world.name, "calls": len(task.plan.calls), "refused": 0, "reached": True,
            }  # fmt: skip
        finally:
            await servers.aclose()

    asyncio.run(run())


def test_the_task_is_told_as_one_would_ask_an_agent(worlds: Path) -> None:
    seed, task = a_task()
    told = subprocess.run(words(worlds, "--tell", "--seed", str(seed)), capture_output=True, text=True, timeout=60)
    assert told.stdout.startswith(task.system) and told.returncode == 0
    assert all(wish.text.lower() in told.stdout.lower() for wish in task.wishes)


@pytest.mark.parametrize("leave", ["interrupt", "close"])
def test_it_ends_when_the_client_leaves_and_says_what_was_done(worlds: Path, leave: str) -> None:
    seed, _ = a_task()
    server = subprocess.Popen(
        words(worlds, "--task", "--seed", str(seed)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(HELLO) + "\n")
    server.stdin.flush()
    assert "serverInfo" in server.stdout.readline()
    if leave == "interrupt":
        server.send_signal(signal.SIGINT)
        server.wait(20)
    told = server.communicate(timeout=20)[1]
    assert "0 calls" in told and "The task's goal is not reached." in told and "Traceback" not in told
