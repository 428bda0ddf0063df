"""The embedded model by the command line: the whole way of a question, offline, killed and resumed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killing import check_no_finished_call_ran_again, kill_and_go_on  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.paths import NANO

# OPENK2_TEST_MODEL: another checkpoint folder to put through the same.
MODEL = os.environ.get("OPENK2_TEST_MODEL", "nano")
pytestmark = pytest.mark.skipif(
    MODEL == "nano" and not (NANO / "config.json").exists(), reason="the embedded model is not in this checkout"
)
K2 = [sys.executable, "-P", "-m", "openk2"]
QUESTION = "Which of Kenya, Ghana and Chad has the most people per square kilometre?"
KILLS = 20


def ask(runs: Path, *flags: str) -> list[str]:
    return [
        *K2,
        "ask",
        QUESTION,
        "--model",
        MODEL,
        "--steps",
        "20",
        "--max-tokens",
        "1500",
        "--run-dir",
        str(runs),
        *flags,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that nobody disturbs."""
    done = subprocess.run(ask(tmp_path_factory.mktemp("runs"), "--json"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_answer_is_right_and_rests_on_lines_it_read(whole: dict[str, Any]) -> None:
    assert whole["answer"] and whole["finish_reason"] in ("stop", "budget")
    if MODEL == "nano":
        assert "Ghana: 148.1" in whole["answer"]
        assert sum(bool(source["text"]) and source["seen"] for source in whole["sources"]) >= 4


def test_every_cited_line_was_read(whole: dict[str, Any]) -> None:
    assert len(whole["sources"]) >= 2
    assert all(source["text"] and source["seen"] for source in whole["sources"])


def test_no_torch_on_the_way(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-X", "importtime", *ask(tmp_path, "--json", "--steps", "2")[2:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "openk2.engine" in done.stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "tokenizers"}


def test_chat_mode_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(ask(tmp_path, "--mode", "chat"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "only answers with its tools" in done.stderr and not done.stdout


def test_killed_at_twenty_random_moments(whole: dict[str, Any], tmp_path: Path) -> None:
    dice = random.Random(7)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        runs = tmp_path / f"runs{rounds}"

        def go_on(runs: Path = runs) -> list[str]:
            begun = (next(log.folders(runs)) / log.LOG).read_bytes().count(b"\n") > 0  # else nothing can be resumed
            resume = [*K2, "runs", "resume", "last", "--json", "--run-dir", str(runs)]
            return resume if begun else ask(runs, "--json")

        out, killed = kill_and_go_on(
            ask(runs, "--json"),
            KILLS - kills,
            ready=lambda runs=runs: bool(list(log.folders(runs))),
            delay=lambda: dice.uniform(0.2, whole["seconds"] + 1.0),
            again=go_on,
        )
        kills += killed
        got = json.loads(out)
        answers = (got["answer"], got["sources"], got["steps"], got["messages"])
        if not any("interrupted" in m["content"] for m in got["messages"] if m["role"] == "tool"):
            assert answers == (whole["answer"], whole["sources"], whole["steps"], whole["messages"])
        check_no_finished_call_ran_again(log.read(next(log.folders(runs))))
