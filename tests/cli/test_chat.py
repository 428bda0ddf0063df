"""`k2 chat` against a server in this process: turns, commands, steering, stopping."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stub_server import called, delta, said  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.events import RunStopped, ToolFinished, UserSaid
from openk2.cli.keyboard import Typing
from openk2.cli.main import run

Serve = Callable[..., Any]
K2 = [sys.executable, "-P", "-m", "openk2"]


def counted(server: Any, request: dict[str, Any]) -> list[Any]:
    asked = [m["content"] for m in request["messages"] if m["role"] == "user"]
    return said(f"Answer {len(asked)} to: {asked[-1]}", "Hm.")


def calculate(number: int) -> list[Any]:
    return called((f"functions.calculator:{number}", "calculator", f'{{"expression": "{number}+1"}}'))


@pytest.fixture
def talk(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Lines through a pipe; gives the exit code, what was answered and what was said beside it."""

    def run_chat(lines: list[str], *args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
        code = run(["chat", *args])
        out, err = capsys.readouterr()
        return code, out, err

    return run_chat


def newest() -> Path:
    return next(log.folders(log.runs_dir()))


def test_turns_are_one_run_and_the_model_sees_them_all(serve: Serve, talk: Any) -> None:
    server = serve(counted)
    code, out, err = talk(["One?", "", "Two?"], "--base-url", server.url, "--mode", "chat")
    assert (code, out) == (0, "Answer 1 to: One?\nAnswer 2 to: Two?\n")
    assert err.count("(1 step ·") == 2
    roles = [m["role"] for m in server.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert server.requests[1]["messages"][2]["reasoning_content"] == "Hm."
    assert len(list(log.folders(log.runs_dir()))) == 1
    kinds = [event.type for event in log.read(newest())]
    assert kinds == ["run.started", "reply", "run.finished", "user", "reply", "run.finished"]


def test_resume_goes_on_with_the_last_one(serve: Serve, talk: Any) -> None:
    server = serve(counted)
    talk(["One?"], "--base-url", server.url, "--mode", "chat")
    code, out, err = talk(["Two?"], "--resume")
    assert code == 0 and "Answer 2 to: Two?" in out and "› One?" in err
    assert talk(["Three?"], "--resume", newest().name)[1].endswith("Answer 3 to: Three?\n")
    code, _, err = talk(["x"], "--resume", "nothing")
    assert code == 2 and "There is no run 'nothing'" in err


def test_a_change_goes_on_in_a_copy(serve: Serve, talk: Any, home: Path) -> None:
    server, other = serve(counted), serve(counted, models=["other"])
    (home / "notes.txt").write_text("Nothing.")
    lines = ["One?", f"/model other {other.url}", "/effort low", f"/docs {home / 'notes.txt'}", "Two?"]
    code, out, err = talk(lines, "--base-url", server.url, "--model", "stub")
    assert code == 0 and "Answer 2 to: Two?" in out and err.count("goes on as run") == 3
    assert other.requests[0]["model"] == "other" and len(server.requests) == 1
    first = log.read(newest())[0]
    assert first.setup["effort"] == "low" and first.setup["docs"] == [str(home / "notes.txt")]  # type: ignore[attr-defined]
    assert first.parent  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/fly", "There is no command /fly"),
        ("/mode heavy", "/mode takes chat or agent"),
        ("/effort much", "/effort takes one of low"),
        ("/docs /nowhere", "There is no file or folder /nowhere"),
        ("/save x.html", "once something was asked"),
        ("/model a b c", "/model takes a name"),
    ],
)
def test_a_wrong_command_is_a_sentence_and_the_chat_goes_on(
    serve: Serve, talk: Any, line: str, sentence: str
) -> None:
    server = serve(counted)
    code, out, err = talk([line, "One?"], "--base-url", server.url, "--mode", "chat")
    assert code == 0 and sentence in err and "Traceback" not in err and "Answer 1" in out


def test_a_server_that_fails_costs_one_turn(serve: Serve, talk: Any) -> None:
    def answer(server: Any, request: dict[str, Any]) -> Any:
        return (403, "{}") if len(server.requests) == 2 else counted(server, request)

    server = serve(answer)
    code, out, err = talk(["One?", "Two?", "Three?"], "--base-url", server.url, "--mode", "chat")
    assert code == 0 and "Answer 1" in out and "Answer 3 to: Three?" in out and "403" in err


def test_save(serve: Serve, talk: Any, home: Path) -> None:
    server = serve(counted)
    files = [home / name for name in ("a.html", "a.json", "a.jsonl")]
    lines = ["One?", *(f"/save {file}" for file in files), "/save /proc/no/a.html", "/save a.txt", "/run", "/help"]
    code, _, err = talk(lines, "--base-url", server.url, "--mode", "chat")
    assert code == 0 and "cannot be written" in err and "writes .html" in err and "/effort" in err
    assert f"k2 chat --resume {newest().name}" in err
    assert "Answer 1 to: One?" in files[0].read_text()
    assert json.loads(files[1].read_text())["messages"][-1]["content"] == "Answer 1 to: One?"
    assert files[2].read_bytes() == (newest() / log.LOG).read_bytes()


def test_the_embedded_model_answers_each_question_by_itself(talk: Any) -> None:
    code, out, _ = talk(["What is the capital of Peru?", "What is the capital of Chad?"])
    assert code == 0 and "Lima" in out and "N'Djamena" in out
    assert len(list(log.folders(log.runs_dir()))) == 1


def test_heavy_mode_is_not_a_chat(talk: Any) -> None:
    code, _, err = talk(["x"], "--mode", "heavy")
    assert code == 2 and "k2 ask --mode heavy" in err


def test_keys() -> None:
    said_: list[str] = []
    shown: list[str | None] = []
    typing = Typing(said_.append, shown.append)
    for keys in ("ab", "\x7f", "c\r", "gone\x15", "\x1b[A", "é ", "x\n", "\r"):
        typing.feed(keys)
    assert said_ == ["ac", "é x"]
    assert shown[:2] == ["a", "ab"] and shown[-1] is None


# In a terminal.


class Screen:
    def __init__(self, master: int, child: subprocess.Popen[bytes]) -> None:
        self.master, self.child, self.text = master, child, ""
        os.set_blocking(master, False)

    def wait(self, wanted: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < deadline, f"{wanted!r} did not come: {self.text}"
            try:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                time.sleep(0.01)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@contextmanager
def terminal(*command: str) -> Iterator[Screen]:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment, close_fds=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    try:
        yield Screen(master, child)
    finally:
        child.kill()
        child.wait()
        os.close(master)


def looking(server: Any, request: dict[str, Any]) -> list[Any]:
    """Looks something up slowly, and answers what the person said last."""
    results = [m for m in request["messages"] if m["role"] == "tool"]
    if not results:
        return [delta(reasoning_content="Slowly."), 1.5, *called(("functions.calculator:0", "calculator",
                                                                  '{"expression": "6*7"}'))]  # fmt: skip
    asked = [m["content"] for m in request["messages"] if m["role"] == "user"]
    return said(f"Heard: {asked[-1]}")


def test_what_is_typed_while_it_works_is_told_to_the_model(serve: Serve, home: Path) -> None:
    server = serve(looking)
    with terminal(*K2, "chat", "--base-url", server.url) as screen:
        screen.wait("› ")
        screen.type("Look it up.\r")
        screen.wait("Slowly.")
        screen.type("in fresh")
        screen.wait("› in fresh")
        screen.type("\x7f" * 5 + "French\r")
        screen.wait("Heard: in French")
        screen.wait("2 steps")
        screen.type("\x04")
        assert screen.child.wait(30) == 0
    assert [e.text for e in log.read(newest()) if isinstance(e, UserSaid)] == ["in French"]
    assert "Look it up." in (home / "data" / "openk2" / "chat_history").read_text()


def test_commands_typed_while_it_works_wait_for_the_end_of_the_turn(serve: Serve, home: Path) -> None:
    server = serve(looking)
    with terminal(*K2, "chat", "--base-url", server.url) as screen:
        screen.wait("› ")
        screen.type("Look it up.\r")
        screen.wait("Slowly.")
        screen.type("/quit\r")
        screen.wait("when the turn is over")
        screen.wait("Heard: Look it up.")
        assert screen.child.wait(30) == 0
    assert not any(isinstance(event, UserSaid) for event in log.read(newest()))


def test_control_c_stops_the_turn_and_keeps_the_chat(serve: Serve, home: Path) -> None:
    def answer(server: Any, request: dict[str, Any]) -> list[Any]:
        if len(server.requests) == 1:
            return called(("functions.python:0", "python", '{"code": "import time; time.sleep(60)"}'))
        return said(f"{len(request['messages'])} messages.")

    server = serve(answer)
    with terminal(*K2, "chat", "--base-url", server.url) as screen:
        screen.wait("› ")
        screen.type("Sleep.\r")
        screen.wait("time.sleep(60)")
        time.sleep(0.5)
        screen.type("\x03")
        screen.wait("stopped")
        screen.type("And now?\r")
        screen.wait("5 messages.")
        screen.wait("1 step")
        screen.type("/quit\r")
        assert screen.child.wait(30) == 0
    events = log.read(newest())
    results = [event for event in events if isinstance(event, ToolFinished)]
    assert len(results) == 1 and "person stopped" in results[0].content
    assert sum(isinstance(event, RunStopped) for event in events) == 1


def test_a_person_is_asked_before_a_call_and_for_more_budget(serve: Serve, home: Path) -> None:
    def answer(server: Any, request: dict[str, Any]) -> list[Any]:
        results = [m["content"] for m in request["messages"] if m["role"] == "tool"]
        if len(results) < 2:
            return calculate(len(results))
        return said("Done: " + ", ".join(results))

    server = serve(answer)
    with terminal(*K2, "ask", "Count.", "--base-url", server.url, "--steps", "2") as screen:
        screen.wait("The budget of 2 steps is used up.")
        screen.wait("answer now")
        screen.type("perhaps\r")
        screen.type("5\r")
        screen.wait("Done: 1, 2")
        assert screen.child.wait(30) == 0
    assert re.search(r"budget of steps is 7", screen.text)


def test_nobody_is_asked_without_a_terminal(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(lambda s, r: calculate(len(s.requests)))
    assert run(["ask", "Count.", "--base-url", server.url, "--steps", "2"]) == 0
    assert "budget" in capsys.readouterr().err


def test_control_c_in_a_question_stops(serve: Serve, home: Path) -> None:
    server = serve(lambda s, r: calculate(len(s.requests)))
    with terminal(*K2, "ask", "Count.", "--base-url", server.url, "--steps", "2") as screen:
        screen.wait("answer now")
        screen.child.send_signal(signal.SIGINT)
        screen.wait("stopped; `k2 runs resume")
        assert screen.child.wait(30) == 130
