"""toolset(): the built-in tools by name, and the python tool through the tool contract."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.sandbox.policy import Policy
from openk2.tools import BUILT_IN, FILES, ToolResult, toolset
from openk2.tools.index import Document, Index
from openk2.tools.web import Web

INDEX = Index.memory([Document("a", "A", ("one line",))])


def test_all_by_name(tmp_path: Path):
    tools = toolset(["find", "python", "calculator"], index=INDEX, workspace=tmp_path)
    assert list(tools) == ["find", "python", "calculator"]
    assert tuple(toolset(index=INDEX, workspace=tmp_path)) == BUILT_IN
    assert tuple(toolset()) == ("calculator",)
    arguments = {name: list(tool.parameters["properties"]) for name, tool in toolset(index=INDEX).items()}
    assert arguments == {
        "calculator": ["expression"], "search": ["query", "k"], "open": ["id", "line"], "find": ["id", "pattern"],
    }  # fmt: skip


def test_the_fixed_names_and_arguments(tmp_path: Path):
    tools = toolset([*FILES, "plan", "search", "open", "find", "fetch"], index=INDEX, workspace=tmp_path, web=Web())
    arguments = {name: list(tool.parameters["properties"]) for name, tool in tools.items()}
    assert arguments == {
        "read_file": ["path", "line"], "write_file": ["path", "content"], "edit_file": ["path", "old", "new"],
        "list_files": ["path", "pattern"], "grep": ["pattern", "path", "files_like", "ignore_case"], "plan": ["steps"],
        "search": ["query", "k"], "open": ["id", "line"], "find": ["id", "pattern"], "fetch": ["url"],
    }  # fmt: skip
    own = toolset(["search", "open", "find"], index=INDEX)
    for name in ("open", "find"):
        assert own[name].parameters["required"] == tools[name].parameters["required"]
    assert not any(tool.private or tool.untrusted or tool.egress for tool in own.values())
    assert all(tool.private for tool in toolset(["search", "open", "find"], index=INDEX, private=True).values())


def test_the_embedded_models_tools_are_told_as_it_learnt_them(tmp_path: Path):
    """nano was trained on these bytes: name, description and schema of each tool."""
    told = [tool.spec().to_wire()["function"] for tool in toolset(index=INDEX, workspace=tmp_path).values()]
    learnt = (Path(__file__).parent / "nano_tools.json").read_text("utf-8")
    assert json.dumps(told, ensure_ascii=False) == learnt.strip()


def test_python_of_a_resumed_run(tmp_path: Path):
    python = toolset(["python"], workspace=tmp_path, resumed=True)["python"]
    assert asyncio.run(python.run('{"code": "1"}')).content.startswith("The Python process was restarted")
    assert asyncio.run(python.run('{"code": "1"}')).content == "1"


def test_what_cannot_be_built_is_said():
    with pytest.raises(UserError, match="no built-in tool cook"):
        toolset(["cook"])
    with pytest.raises(UserError, match="needs documents"):
        toolset(["search"])
    with pytest.raises(UserError, match="needs a workspace"):
        toolset(["python"])
    with pytest.raises(UserError, match="needs a workspace"):
        toolset(["edit_file"])
    with pytest.raises(UserError, match="fetch needs the web, which is off"):
        toolset(["fetch"], index=INDEX)
    with pytest.raises(UserError, match="search needs documents"):
        toolset(["search"], web=Web())


def test_closing_python_ends_its_process(tmp_path: Path):
    python = toolset(["python"], workspace=tmp_path)["python"]

    async def closed() -> str:
        await python.run('{"code": "x = 1"}')
        await python.aclose()
        return (await python.run('{"code": "x"}')).content

    assert asyncio.run(closed()) == "NameError: name 'x' is not defined"


def test_python(tmp_path: Path):
    python = toolset(["python"], workspace=tmp_path)["python"]
    assert list(python.parameters["properties"]) == ["code"] and not python.idempotent
    assert asyncio.run(python.run(json.dumps({"code": "x = 6\nprint(x)\nx * 7"}))) == ToolResult("6\n42")
    assert asyncio.run(python.run(json.dumps({"code": "x + y"}))) == ToolResult(
        "NameError: name 'y' is not defined", True
    )
    assert (asyncio.run(python.run('{"program": 1}'))).is_error


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03, 0.3])
def test_python_can_be_cancelled(tmp_path: Path, after: float):
    python = toolset(["python"], workspace=tmp_path, policy=Policy(timeout=60))["python"]

    async def cancelled() -> ToolResult:
        call = asyncio.create_task(python.run(json.dumps({"code": "while True: pass"})))
        await asyncio.sleep(after)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return await python.run(json.dumps({"code": "1"}))

    start = time.monotonic()
    content = asyncio.run(cancelled()).content
    assert content.endswith("1") and (after == 0.0 or content.startswith("The Python process was restarted"))
    assert time.monotonic() - start < 30


def test_importing_tools_is_cheap():
    code = "import sys, openk2.tools.calculator; print({'torch', 'pydantic', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
