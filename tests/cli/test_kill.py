"""`k2 ask` killed with -9 at random moments, then `k2 runs resume`: the same answer, no finished call repeated."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from killing import check_no_finished_call_ran_again, kill_and_go_on  # type: ignore[import-not-found]
from stub_server import called, said  # type: ignore[import-not-found]

from openk2.agent import log
from openk2.agent.events import ToolFinished

K2 = [sys.executable, "-P", "-m", "openk2"]
KILLS = 8
STEPS = 6
CODE = "with open('effects.txt', 'a') as f: n = f.write('{step}\\\\n')\\nprint({step} * 111)"


def answer(server: Any, request: dict[str, Any]) -> list[Any]:
    step = sum(m["role"] == "assistant" for m in request["messages"])
    if step >= STEPS:  # and again, as no tool has shown the line
        return [0.02, *said("The sum is done [kenya:1].", "Enough.")]
    code = CODE.format(step=step)
    pair = (("python", f'{{"code": "{code}"}}'), ("search", f'{{"query": "population of Kenya {step}"}}'))
    calls = [(f"functions.{name}:{2 * step + i}", name, text) for i, (name, text) in enumerate(pair)]
    return [0.02, *called(*calls, reasoning=f"Step {step}.")]


def test_killed_and_resumed(serve: Callable[..., Any], home: Path) -> None:
    server = serve(answer)
    dice = random.Random(1)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        kills += one_run(server, home / f"runs{rounds}", KILLS - kills, dice)
        check(next(log.folders(home / f"runs{rounds}")))


def one_run(server: Any, runs: Path, kills: int, dice: random.Random) -> int:
    """Each process is killed some time after its first request; returns how many were."""
    where = ["--run-dir", str(runs)]
    seen = len(server.requests)

    def resume() -> list[str]:
        nonlocal seen
        seen = len(server.requests)
        return [*K2, "runs", "resume", "last", *where]

    out, killed = kill_and_go_on(
        [*K2, "ask", "Add up.", "--base-url", server.url, *where],
        kills,
        ready=lambda: len(server.requests) > seen,
        delay=lambda: dice.uniform(0.0, 0.4),
        again=resume,
    )
    assert out.startswith("The sum is done [kenya:1].\n\nSources\n  [kenya:1] Kenya")
    return killed


def check(folder: Path) -> None:
    events = log.read(folder)
    finished = Counter((e.reply, e.index) for e in events if isinstance(e, ToolFinished))
    assert len(finished) == 2 * STEPS and set(finished.values()) == {1}
    check_no_finished_call_ran_again(events)
    effects = Counter((folder / log.WORKSPACE / "effects.txt").read_text().split())
    assert max(effects.values()) == 1, "python code ran twice"
    results = [e.content for e in events if isinstance(e, ToolFinished) and e.name == "python"]
    for step, text in enumerate(results):
        ran = rf"(The Python process was restarted.*\n)?{step * 111}\nFiles: effects.txt"
        assert re.fullmatch(rf"{ran}|interrupted, outcome unknown.*", text)
    assert len(effects) + sum(text.startswith("interrupted") for text in results) >= STEPS
