"""The box as its user sees it: state, texts, restarts, and refusal where there is no boundary."""

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from openk2.sandbox import bwrap, landlock, processes
from openk2.sandbox.box import RESTARTED, Box, NoBoundary
from openk2.sandbox.worker import execute

SAME = [
    "1 + 1", "print('a'); 'b'", "x = 5", "", "print(1, end='')", "y", "1 +", "print('a'); 1 / 0", "raise SystemExit(3)",
    "input()", "import sys; print('err', file=sys.stderr)", "print('é\\x00\\n\\n')", "def f(): return f()\nf()",
    "import math\nmath.pi", "class E(Exception): pass\nraise E('x')",
]  # fmt: skip


def test_the_text_is_that_of_execute(box: Box):
    namespace: dict[str, object] = {}
    for code in SAME:
        outcome = box.call(code)
        assert (outcome.text, outcome.is_error) == execute(code, namespace), code


def test_state_is_kept(box: Box):
    box.call("import math\nvalues = [1]\ndef double(x): return 2 * x")
    box.call("values.append(double(4))")
    assert box.call("values").text == "[1, 8]"
    box.call("open('note.txt', 'w').write('kept')")
    assert (box.workspace / "note.txt").read_text() == "kept"
    assert (
        box.call(
            "import pickle, dataclasses\n@dataclasses.dataclass\nclass P: x: int\npickle.loads(pickle.dumps(P(3)))"
        ).text
        == "P(x=3)"
    )


def test_numpy_where_it_is_installed(box: Box):
    pytest.importorskip("numpy")
    assert box.call("import numpy as np\nnp.arange(6).reshape(2, 3).sum(axis=0)").text == "array([3, 5, 7])"


def test_subprocesses_and_files(box: Box):
    assert box.call("import subprocess\nsubprocess.run(['echo', 'hi']); print('there')").text == "hi\nthere"
    code = "import shutil, tempfile, os\nopen('a','w').write('x'); shutil.copy2('a', 'b'); os.makedirs('d/e')\n"
    assert box.call(code + "os.rename('a', 'd/e/a'); sorted(os.listdir())").text == "['b', 'd']"
    assert box.call("with tempfile.NamedTemporaryFile() as f: print(f.write(b'abc'))").text == "3"
    box.call("from concurrent.futures import ThreadPoolExecutor")
    assert box.call("with ThreadPoolExecutor(4) as p: print(sum(p.map(abs, range(9))))").text == "36"


@pytest.mark.parametrize("end", ["import os; os._exit(3)", "import ctypes; ctypes.string_at(0)"])
def test_a_crash_is_told_and_the_next_call_starts_anew(box: Box, end: str):
    box.call("x = 1")
    outcome = box.call(f"print('before')\n{end}")
    assert outcome.is_error and outcome.text.startswith("before\nThe Python process ")
    assert box.call("x").text == "The Python process was restarted; state rebuilt from 1 earlier call.\n1"
    assert box.call("x = 2").text == "(no output)"


def test_long_output_keeps_both_ends(box: Box):
    text = box.call("for i in range(100_000): print(i)").text
    assert text.startswith("0\n1\n") and text.endswith("\n99999") and "bytes left out" in text
    assert len(text) < box.policy.output + 100


def test_what_a_thread_prints_later_is_nobodys_answer(box: Box):
    code = "import threading, time\nt = threading.Timer(0.3, lambda: print('late', flush=True)); t.start()"
    assert box.call(code).text == "(no output)"
    time.sleep(1.5)
    assert box.call("'mine'").text == "'mine'"


def test_it_can_be_killed_from_another_thread(box: Box):
    box.start()
    threading.Timer(0.2, box.kill).start()
    start = time.monotonic()
    assert box.call("while True: pass").is_error
    assert time.monotonic() - start < 15
    assert box.call("3").text == f"{RESTARTED}\n3"


def living(pids: Iterable[int]) -> set[int]:
    """Which of them still run; one that init has not yet reaped does not."""
    return {process.pid for process in processes.table().values() if process.pid in set(pids) and not process.dead}


def left_after(seconds: float, pids: Iterable[int]) -> set[int]:
    """Which of them still run after so long, at most."""
    deadline = time.monotonic() + seconds
    while (left := living(pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def test_nothing_is_left(make_box: Callable[..., Box]):
    box = make_box()
    box.call("1")
    running = box._running
    assert running
    pids = set(running.members())
    assert pids
    box.close()
    assert not left_after(10, pids)


def test_the_box_ends_when_the_host_is_killed(tier: str, tmp_path: Path):
    import signal
    import subprocess
    import sys

    code = (
        "import pathlib, sys, time\nfrom openk2.sandbox.box import Box\n"
        f"box = Box(pathlib.Path({str(tmp_path / 'w')!r}), tier={tier!r}); box.start()\n"
        "print(*box._running.members(), flush=True); box.call('while True: pass')"
    )
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert host.stdout
    pids = [int(pid) for pid in host.stdout.readline().split()]
    assert pids
    time.sleep(0.2)
    os.kill(host.pid, signal.SIGKILL)
    host.wait()
    assert not left_after(10, pids)


def test_without_a_boundary_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bwrap, "binary", lambda: None)
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(NoBoundary, match="bwrap is not installed"):
        Box(tmp_path / "w").call("open('ran', 'w')")
    assert not (tmp_path / "w" / "ran").exists()
