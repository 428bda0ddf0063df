"""`k2 eval` against a server that answers some tasks right, some wrong, some not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import called, said  # type: ignore[import-not-found]

from openk2.cli.main import run
from openk2.evals.suites import Material, tasks

Serve = Callable[..., Any]


@pytest.fixture
def answers(material: Material) -> dict[str, str]:
    """An answer for each question of the suite: two right, one wrong, one honest, one request refused."""
    made = list(tasks("mawps-fold0", material, 5, 0))
    golds = [made[0].gold, made[1].gold, "123456", "I could not find it.", "refuse"]
    return {task.text: gold for task, gold in zip(made, golds, strict=True)}


def computes_and_answers(answers: dict[str, str]) -> Callable[[Any, dict[str, Any]], Any]:
    def answer(_: Any, request: dict[str, Any]) -> Any:
        messages = request["messages"]
        reply = answers[next(m["content"] for m in messages if m["role"] == "user")]
        if messages[-1]["role"] != "tool":
            computed = json.dumps({"expression": reply if reply[0].isdigit() else "1+1"})
            return called(("functions.calculator:0", "calculator", computed), reasoning="I compute.")
        if reply == "refuse":
            return 400, json.dumps({"error": {"message": "this is not answered here"}})
        return said(f"The answer is {reply}." if reply[0].isdigit() else reply, "That is it.")

    return answer


@pytest.mark.parametrize("processes", ["1", "2"])
def test_report(
    processes: str, serve: Serve, home: Path, data: Path, answers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(computes_and_answers(answers))
    out = home / "report"
    args = ["--base-url", server.url, "--data", str(data), "-n", "5", "--processes", processes, "--out", str(out)]
    assert run(["eval", "mawps-fold0", *args]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert (
        "mawps-fold0" in shown and "right  40.0%" in shown and "wrong  20.0%" in shown and "target 50% below" in shown
    )
    (suite,) = json.loads((out / "report.json").read_text())["suites"]
    assert (suite["right"], suite["wrong"], suite["abstained"], suite["n"]) == (0.4, 0.2, 0.4, 5)
    assert suite["calls"] == 1.0
    outcomes = [json.loads(line) for line in (out / "mawps-fold0.jsonl").read_text().splitlines()]
    verdicts = {outcome["task"]["text"]: outcome["verdict"] for outcome in outcomes}
    assert [verdicts[text] for text in answers] == ["right", "right", "wrong", "abstained", "abstained"]
    assert "not answered here" in next(o["error"] for o in outcomes if o["error"])
    assert "| mawps-fold0 | MAWPS fold 0 as it is | 5 | 40.0% |" in (out / "report.md").read_text()


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.startswith("k2: ") and err.count("\n") == 1
    return err


def test_errors(serve: Serve, home: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("OPENK2_DATA", raising=False)
    server = serve(lambda *_: said("1"))
    assert run(["eval", "chains", "--base-url", server.url]) == 2
    assert "no suite 'chains'; there are lookup" in error_of(capsys)
    assert run(["eval", "mawps-seen", "--base-url", server.url]) == 2
    assert "--data" in error_of(capsys)
    assert run(["eval", "mawps-seen", "--base-url", server.url, "--data", str(home)]) == 2
    assert "lacks mawps.jsonl.gz" in error_of(capsys)
    assert run(["eval", "chain30", "-n", "1", "--model", str(home / "nowhere")]) == 2
    assert "nowhere" in error_of(capsys)
    assert run(["eval", "chain30", "-n", "0", "--base-url", server.url]) == 2


def test_a_server_that_refuses_is_no_result(serve: Serve, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(lambda *_: (401, json.dumps({"error": {"message": "no key"}})))
    assert run(["eval", "chain30", "-n", "2", "--base-url", server.url, "--out", str(home / "out")]) == 2
    assert "key" in error_of(capsys)
    assert not (home / "out").exists()
