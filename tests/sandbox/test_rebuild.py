"""The journal: a Python process that was lost comes back with its variables, and what could not be repeated is said."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openk2.errors import UserError
from openk2.sandbox.box import RESTARTED, Box
from openk2.sandbox.journal import Journal
from openk2.sandbox.policy import Policy
from openk2.sandbox.worker import execute

Make = Callable[..., Box]
REBUILT = "The Python process was restarted; state rebuilt from {} earlier call{}."


def executor(box: Box) -> int:
    """The process that holds the state: the youngest of the box between two calls."""
    assert box._running
    return max(box._running.members())


def kill(box: Box) -> None:
    os.kill(pid := executor(box), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while box._running and pid in box._running.members() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_killed_at_twenty_random_points_of_thirty_calls(make_box: Make):
    """Each call depends on those before. The state afterwards is that of a session that nobody killed."""
    calls = ["values, total = [1], 0", "def step(x): return (x * 31 + total) % 1009", "class Kept: items = {}"]
    calls += [
        f"values.append(step(values[-1])); total += values[-1]\nKept.items[{i}] = sorted({{str(v) for v in values}})"
        for i in range(27)
    ]
    namespace: dict[str, object] = {}
    points = random.Random(5).sample(range(1, 30), 20)
    box = make_box()
    for number, code in enumerate(calls):
        assert execute(code, namespace)[0] == "(no output)"
        if number in points:
            kill(box)
            said = REBUILT.format(number, "s" * (number != 1))
            assert box.call(code).text == said
        else:
            assert box.call(code).text == "(no output)"
    question = "values, total, Kept.items"
    assert box.call(question).text == execute(question, namespace)[0]


def test_after_the_whole_host_is_gone(make_box: Make, tmp_path: Path):
    journal = tmp_path / "python.jsonl"
    with Box(tmp_path / "w", Policy(), journal=journal) as box:
        box.call("x = 40")
        box.shell("mkdir -p deep; cd deep; export COLOUR=blue")
    assert journal.stat().st_mode & 0o777 == 0o600
    with journal.open("ab") as file:
        file.write(b'{"code": "torn')  # the host was killed while it wrote
    with Box(tmp_path / "w", Policy(), journal=journal) as box:
        assert box.call("x + 2").text == REBUILT.format(1, "") + "\n42"
        assert box.shell("basename $PWD; echo $COLOUR").text == "deep\nblue"
        assert box.call("x").text == "40"  # said once
    assert json.loads(journal.read_bytes().splitlines()[0])["code"] == "x = 40"


def test_the_journal_stays_out_of_reach(tmp_path: Path):
    with pytest.raises(UserError, match="outside the workspace"):
        Box(tmp_path, journal=tmp_path / "python.jsonl")
    (tmp_path / "j").write_text("not a journal\n")
    with pytest.raises(UserError, match="is not a journal"):
        Journal(tmp_path / "j")
    (tmp_path / "l").symlink_to(tmp_path / "j")
    with pytest.raises(UserError, match="cannot be used"):
        Journal(tmp_path / "l")


def test_effects_are_not_repeated(make_box: Make):
    box = make_box()
    box.call("for i in range(3):\n    with open('log', 'a') as f: f.write(f'{i}\\n')\n    last = i")
    box.call("import os, time, tempfile\nos.remove('log'); os.makedirs('kept'); open('kept/a', 'w').write('one')")
    box.call("open('kept/a', 'w').write('two'); time.sleep(0.0); size = os.path.getsize('kept/a')")
    box.call("with tempfile.NamedTemporaryFile('w') as t: name = t.write('abc')")
    box.shell("echo three > kept/a")
    kill(box)
    before = time.monotonic()
    # The size is that of the file which is there now.
    assert box.call("last, size, name").text == REBUILT.format(4, "s") + "\n(2, 6, 3)"
    assert time.monotonic() - before < 5
    assert (box.workspace / "kept" / "a").read_text() == "three\n" and not (box.workspace / "log").exists()
    code = "open('now', 'w').write('written'); os.mkdir('made'); os.remove('now'); time.sleep"
    assert box.call(code).text.startswith("<built-in")
    assert (box.workspace / "made").is_dir() and not (box.workspace / "now").exists()


def test_names_imported_while_rebuilding_act_afterwards(make_box: Make):
    box = make_box()
    box.call("from os import mkdir, remove\nfrom time import sleep, monotonic\nfrom io import open as opened")
    kill(box)
    box.call("mkdir('real'); opened('file', 'w').write('x'); begin = monotonic(); sleep(0.2)")
    assert (box.workspace / "real").is_dir() and (box.workspace / "file").read_text() == "x"
    assert box.call("monotonic() - begin >= 0.2").text == "True"


def test_what_cannot_be_repeated_is_named(make_box: Make):
    box = make_box()
    box.call("import subprocess\nfirst = 1\nmade = subprocess.run(['echo', 'hi']).returncode\nlast = made + 1")
    box.call("log = open('log', 'w')\nlog.write('x')")
    kill(box)
    text = box.call("first").text
    assert text == (
        REBUILT.format(2, "s") + " Missing: last, made. Not repeated: a statement of call 1 (starts a process);"
        " a statement of call 1 (raises NameError); 1 file that stayed open for writing (closed now).\n1"
    )
    assert box.call("log.write('lost?')").text == "ValueError: I/O operation on closed file."


def test_a_call_that_raised_is_repeated_up_to_there(make_box: Make):
    box = make_box()
    box.call("a = 1; b = open('later').read(); c = 3")
    box.call("open('later', 'w').write('now it is there')")
    box.call("d = [1]\nd.append(\n  1 / 0)\ne = 5")
    box.call("f = (")
    kill(box)
    assert box.call("a, d, [n for n in 'bcef' if n in globals()]").text == REBUILT.format(4, "s") + "\n(1, [1], [])"


def test_out_of_time(make_box: Make):
    box = make_box(policy=Policy(rebuild=0.5))
    box.call("import time\nfirst, wait = 1, lambda: time.monotonic() < begin + 2\nbegin = time.monotonic()")
    box.call("while wait():\n    try: 1\n    except BaseException: pass\nsecond = 2")
    box.call("third = 3")
    kill(box)
    begin = time.monotonic()
    text = box.call("first").text
    assert text.endswith(" Missing: second, third. Not repeated: calls 2 to 3 (no time left).\n1"), text
    assert time.monotonic() - begin < 4


def test_a_replay_that_kills_gives_up(make_box: Make):
    box = make_box()
    box.call("import os, ctypes\nx = 1\nif os.path.exists('fatal'): ctypes.string_at(0)")
    box.call("open('fatal', 'w')")
    kill(box)
    assert box.call("'x' in globals()").text == f"{RESTARTED}\nFalse"
    assert box.call("y = 2").text == "(no output)"
    kill(box)
    assert box.call("y").text == REBUILT.format(2, "s") + "\n2"  # from after the loss


def test_future_imports_and_libraries(make_box: Make):
    box = make_box()
    box.call("from __future__ import annotations\nimport json as j, os.path\ndef f(x: Nowhere): return j.dumps(x)")
    kill(box)
    assert box.call("f([1]), os.path.sep").text == REBUILT.format(1, "") + "\n('[1]', '/')"
