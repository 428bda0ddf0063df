"""The command line, against a server in this process."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import called, delta, said  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.events import RunStopped
from openk2.cli.main import run

Serve = Callable[..., Any]
FACTS = "Kenya has 47 counties.\nIts capital is Nairobi.\n"
K2 = [sys.executable, "-P", "-m", "openk2"]


@pytest.fixture
def docs(home: Path) -> Path:
    folder = home / "notes"
    folder.mkdir()
    (folder / "kenya.txt").write_text(FACTS)
    return folder


def searcher(server: Any, request: dict[str, Any]) -> list[Any]:
    """Searches, computes, and cites the line that it found."""
    tools = [m for m in request["messages"] if m["role"] == "tool"]
    if not tools:
        return called(
            ("functions.search:0", "search", '{"query": "capital of Kenya"}'),
            ("functions.calculator:1", "calculator", '{"expression": "47*2"}'),
            reasoning="I look it up.",
        )
    mark = re.search(r"\[[^\]]+\](?= .*capital)", tools[0]["content"])
    assert mark and tools[1]["content"] == "94"
    return said(f"Nairobi {mark[0]}.", "Found.")


def ask(*args: str) -> int:
    return run(["ask", *args])


def error_of(capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    err = capsys.readouterr().err
    assert err.startswith("k2: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_answer_with_its_sources(serve: Serve, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(searcher)
    assert ask("What is the capital of Kenya?", "--docs", str(docs), "--base-url", server.url) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"Nairobi \[kenya:2\]\.\n\nSources\n  \[kenya:2\] .*Its capital is Nairobi\.\n", out)
    assert "I look it up." in err and "→ search(capital of Kenya) ·" in err and "→ calculator(47*2) ·" in err
    assert "\x1b" not in out + err


def test_json_is_one_object(serve: Serve, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(searcher)
    assert ask("Capital?", "--docs", str(docs), "--base-url", server.url, "--json", "--steps", "5") == 0
    out, err = capsys.readouterr()
    got = json.loads(out)
    assert err == "" and out.count("\n") == 1
    assert (got["answer"], got["finish_reason"], got["steps"]) == ("Nairobi [kenya:2].", "stop", 2)
    source = got["sources"][0]
    assert (source["id"], source["line"], source["text"], source["seen"]) == (
        "kenya",
        2,
        "Its capital is Nairobi.",
        True,
    )
    assert [m["role"] for m in got["messages"]] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert (
        got["usage"]["completion"] == 10
        and got["seconds"] > 0
        and log.folders(log.runs_dir()).__next__().name == got["run"]
    )


def test_a_wrong_citation_is_shown_as_wrong(serve: Serve, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(lambda *_: said("So it is [kenya:99] and [kenya:1]."))
    assert ask("?", "--docs", str(docs), "--base-url", server.url, "--quiet") == 0
    out, err = capsys.readouterr()
    assert "[kenya:99] (no such line: the citation is wrong)" in out
    assert re.search(r"\[kenya:1\] .*47 counties\. \(not read in this run\)", out) and err == ""


def test_chat_has_no_tools(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(lambda *_: said("Hello."))
    assert ask("Hi", "there", "--mode", "chat", "--base-url", server.url) == 0
    assert capsys.readouterr().out == "Hello.\n"
    assert "tools" not in server.requests[0] and server.requests[0]["messages"][-1]["content"] == "Hi there"


def test_control_codes_of_a_model_do_not_reach_the_terminal(
    serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda *_: said("a\x1b[2Jb\x07 \u202ec", "t\x1b]0;x\x07"))
    assert ask("q", "--mode", "chat", "--base-url", server.url) == 0
    out, err = capsys.readouterr()
    assert out == "a[2Jb c\n" and "\x1b" not in err


def test_budget_ends_with_the_best_so_far(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(
        lambda s, _: called((f"functions.calculator:{len(s.requests)}", "calculator", '{"expression": "1"}'))
    )
    assert ask("q", "--base-url", server.url, "--steps", "3", "--json") == 0
    got = json.loads(capsys.readouterr().out)
    assert (got["finish_reason"], got["steps"]) == ("budget", 3)
    assert got["answer"] == "No answer was reached within the budget of 3 steps."


@pytest.mark.parametrize(
    ("args", "said_so"),
    [
        ([], "The question is empty"),
        (["  "], "The question is empty"),
        (["q", "--docs", "/nowhere/at/all"], "There is no file or folder /nowhere/at/all"),
        (["q", "--docs", ""], "There is no file or folder ''; correct --docs"),
        (["q", "--docs", "/proc/1/root/notes"], "/proc/1/root/notes"),
        (["q", "--model", "kimi"], "There is no model 'kimi'"),
        (["q", "--base-url", "http://127.0.0.1:9/v1", "--model", "m"], "No server answers at http://127.0.0.1:9/v1"),
        (["q", "--base-url", "localhost"], "is not a base URL"),
        (["q", "--steps", "0"], "--steps"),
        (["q", "--mode", "deep"], "--mode"),
        (["q", "--price", "cheap"], "--price is US dollars for a million tokens"),
        (["q", "--wrong"], "No such option"),
        (["q", "--model", "m", "--base-url", "http://127.0.0.1:9", "--run-dir", "/proc/none"], "/proc/none"),
    ],
)
def test_bad_input_is_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], args: list[str], said_so: str
) -> None:
    assert ask(*args) == 2
    assert said_so in error_of(capsys)


def test_question_from_standard_input(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda *_: said("Hello."))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9?\n"), "utf-8"))
    assert ask("-", "--mode", "chat", "--base-url", server.url) == 0
    assert server.requests[0]["messages"][-1]["content"] == "caf\ufffd?"
    assert capsys.readouterr().out == "Hello.\n"


def test_docs_from_the_settings(
    serve: Serve, docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One path as a string; several in the variable as in PATH; `~` is the home."""
    server = serve(searcher)
    config = docs.parent / "config" / "openk2" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'docs = "{docs}"\nbase_url = "{server.url}"\n')
    assert ask("Capital?") == 0
    more = docs.parent / "more notes"
    more.mkdir()
    (more / "chad.txt").write_text("Chad has lakes.")
    monkeypatch.setenv("HOME", str(docs.parent))
    monkeypatch.setenv("OPENK2_DOCS", f"{docs}:~/more notes")
    assert ask("Capital?") == 0
    assert capsys.readouterr().out.count("Nairobi [kenya:2]") == 2


def test_bad_checkpoints(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "model"
    folder.mkdir()
    assert ask("q", "--model", str(folder)) == 2
    assert "is not a checkpoint folder" in error_of(capsys)
    (folder / "config.json").write_text("{")
    assert ask("q", "--model", str(folder)) == 2
    assert str(folder) in error_of(capsys)


def test_unknown_verb_and_bad_settings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fly"]) == 2
    assert "No such command 'fly'" in error_of(capsys)
    config = home / "config" / "openk2" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("modle = 'x'")
    assert ask("q") == 2
    assert "unknown setting 'modle'" in error_of(capsys)
    for line in ("run_dir = 5", "docs = 5", "docs = ['a', 5]"):
        config.write_text(line)
        assert ask("q") == 2
        assert "write a text in quotes" in error_of(capsys)
    config.write_text("model = ")
    assert ask("q") == 2
    assert "is not valid TOML" in error_of(capsys)


def test_flag_beats_environment_beats_file(
    serve: Serve, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda *_: said("x"), models=["a", "b"])
    config = home / "config" / "openk2" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'model = "file"\nbase_url = "{server.url}"\nmode = "chat"\nmax_tokens = 77\n')
    assert ask("q") == 0
    monkeypatch.setenv("OPENK2_MODEL", "environment")
    assert ask("q") == 0
    assert ask("q", "--model", "flag") == 0
    assert [r["model"] for r in server.requests] == ["file", "environment", "flag"]
    assert server.requests[0]["max_tokens"] == 77
    capsys.readouterr()


def test_a_run_goes_on_where_its_server_failed(
    serve: Serve, docs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    def answer(server: Any, request: dict[str, Any]) -> Any:
        if len(server.requests) == 2 and broken[0]:
            return 403, "{}"
        return searcher(server, request)

    server = serve(answer)
    assert ask("Capital?", "--docs", str(docs), "--base-url", server.url, "--run-dir", str(docs.parent / "runs")) == 2
    err = capsys.readouterr().err
    command = re.search(r"`k2 (runs resume \S+ --run-dir \S+)` goes on", err)
    assert command
    broken[0] = False
    assert run(command[1].split()) == 0
    assert "Nairobi [kenya:2]." in capsys.readouterr().out
    assert len(server.requests) == 3
    assert run(command[1].split()) == 0  # a finished run gives its answer again and asks nobody
    assert "Nairobi [kenya:2]." in capsys.readouterr().out and len(server.requests) == 3


def test_list_and_show(serve: Serve, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(searcher)
    assert run(["runs", "list"]) == 0
    assert "There are no runs in" in capsys.readouterr().err
    assert ask("Capital?", "--docs", str(docs), "--base-url", server.url) == 0
    capsys.readouterr()
    assert run(["runs", "list"]) == 0
    assert re.search(r"stop +2 steps +\d+\.\d s  Capital\?\n$", capsys.readouterr().out)
    assert run(["runs", "show"]) == 0
    out = capsys.readouterr().out
    assert out.count("Nairobi [kenya:2].") == 1 and "I look it up." in out and "search(capital of Kenya)" in out
    assert "Sources" in out and "\x1b" not in out
    assert run(["runs", "show", "last", "--json"]) == 0
    kinds = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert kinds[0] == "run.started" and kinds[-1] == "run.finished"
    assert run(["runs", "show", "nothing"]) == 2
    assert "There is no run 'nothing'" in error_of(capsys)


def test_control_c_stops_cleanly_and_names_the_way_on(serve: Serve, home: Path) -> None:
    server = serve(lambda s, _: [delta(reasoning_content="hm"), 30.0] if len(s.requests) == 1 else said("At last."))
    command = [*K2, "ask", "q", "--base-url", server.url, "--run-dir", str(home / "runs")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not server.requests and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    found = re.search(r"k2: stopped; `k2 (runs resume .*)` goes on", err)
    assert found and "Traceback" not in err
    assert isinstance(log.read(next(log.folders(home / "runs")))[-1], RunStopped)
    done = subprocess.run([*K2, *found[1].split()], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "At last.\n")


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    child = subprocess.Popen(f"{' '.join(K2)} --help | true", shell=True, stderr=subprocess.PIPE)
    assert child.communicate(timeout=60)[1] == b""


def test_a_fault_of_ours_is_one_sentence_with_a_file(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("openk2.agent.setup.Setup.started", fail)
    assert ask("q", "--base-url", "http://127.0.0.1:9") == 1
    err = error_of(capsys)
    path = re.search(r"Details are in (\S+)", err)
    assert path and "boom" in err and "RuntimeError: boom" in Path(path[1]).read_text()


def test_full_disk_is_said(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert ask("q", "--base-url", "http://127.0.0.1:9", "--model", "m") == 2
    assert "disk is full" in error_of(capsys)


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True).stdout.split())


def test_help_imports_nothing_heavy(home: Path) -> None:
    loaded = modules_after("from openk2.cli.main import run\nrun(['--help'])")
    assert "click" in loaded
    assert not loaded & {"numpy", "httpx", "pydantic", "rich", "torch", "asyncio", "tiktoken", "safetensors"}


def test_the_way_of_a_question_imports_no_torch(home: Path) -> None:
    rooms = ("cli.ask", "cli.work", "cli.runs", "agent.loop", "providers.openai", "providers.local", "tools.python")
    code = "\n".join(f"import openk2.{room}" for room in (*rooms, "tools.search", "tools.documents", "library"))
    loaded = modules_after(code)
    assert "openk2.library" in loaded, "a room of the path cannot be imported"
    assert not loaded & {"torch", "transformers", "tokenizers", "matplotlib"}


def test_help_is_quick(home: Path) -> None:
    """In processor time, which does not grow while other programs wait for the same cores."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    spent = []
    for _ in range(5):
        before = used()
        subprocess.run([*K2, "--help"], capture_output=True, check=True)
        spent.append(used() - before)
    assert min(spent) < 0.2
