"""shell(): bash in the same box as Python."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openk2.sandbox.box import LONGEST_COMMAND, Box
from openk2.sandbox.policy import Policy
from openk2.tools import toolset


def test_folder_and_exported_variables_are_kept(box: Box):
    assert box.shell("echo hi").text == "hi"
    assert box.shell("mkdir 'a b'; cd 'a b'; export WORD=$'x\\ny'; unexported=1").text == "(no output)"
    assert box.shell('basename "$PWD"; echo "$WORD$unexported"').text == "a b\nx\ny"
    assert box.shell("cd ..; exit 3").text == "(exit code 3)"
    assert box.shell("ls").text == "a b"


def test_it_shares_files_with_python_but_not_its_process(box: Box):
    box.call("x = 1; open('from-python', 'w').write('p')")
    assert box.shell("cat from-python; echo s > from-shell").files == ("from-shell",)
    assert box.call("open('from-shell').read(), x").text == "('s\\n', 1)"


@pytest.mark.parametrize(
    ("command", "end"),
    [("sleep 9", "TimeoutError: the command ran for 0.5 seconds and was stopped."), ("kill -9 $$", "(exit code -9)")],
)
def test_a_stopped_command_leaves_python_alone(box: Box, command: str, end: str):
    box.call("x = 1")
    outcome = box.shell(f"echo before; {command}", 0.5)
    assert outcome.is_error and outcome.text == f"before\n{end}"
    assert box.call("x").text == "1"


def test_background_processes_end_with_the_command(box: Box):
    assert box.shell("(while true; do date +%N > beat; sleep 0.01; done) & sleep 0.1; echo done").text == "done"
    last = (box.workspace / "beat").read_text()
    time.sleep(0.1)
    assert (box.workspace / "beat").read_text() == last


def test_bad_syntax_and_endless_output(box: Box):
    outcome = box.shell("echo )(")
    assert outcome.is_error and "syntax error" in outcome.text
    outcome = box.shell("yes")
    assert outcome.is_error and "printed over 16 MB" in outcome.text
    assert "longer than" in box.shell("#" * (LONGEST_COMMAND + 1)).text and "NUL" in box.shell("a\0b").text
    assert box.shell("cat").text == "(no output)"  # nothing to read


def test_the_tools_share_a_box_and_tell_files(tmp_path: Path):
    tools = toolset(["python", "shell"], workspace=tmp_path / "w", policy=Policy(processes=32))
    assert list(tools["shell"].parameters["properties"]) == ["command"] and not tools["shell"].idempotent

    async def talk() -> list[str]:
        command, code = "printf 1 > one; printf 2 > .hidden", "print(open('one').read())"
        asked = [("shell", "command", command), ("python", "code", code)]
        said = [(await tools[name].run(json.dumps({key: text}))).content for name, key, text in asked]
        await tools["python"].aclose()
        return said

    assert asyncio.run(talk()) == ["(no output)\nFiles: one", "1"]


def test_python_killed_by_the_shell_is_rebuilt(make_box: Callable[..., Box]):
    box = make_box()
    box.call("x = 1; import os; open('pid', 'w').write(str(os.getpid()))")
    box.shell("kill -9 $(cat pid); sleep 0.1")
    assert box.call("x").text.endswith("state rebuilt from 1 earlier call.\n1")
