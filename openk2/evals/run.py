"""Run a suite through the agent as a person would: provider, loop, tools, log; then judge by program."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openk2.agent.events import ToolFinished
from openk2.agent.log import Log
from openk2.agent.loop import Loop
from openk2.agent.setup import Setup, close
from openk2.agent.state import State
from openk2.errors import UserError
from openk2.evals.judge import Verdict, judge, wilson
from openk2.evals.suites import Material, Task, find_suite, tasks
from openk2.providers.base import Provider
from openk2.tools.index import Index

STEPS = 100  # replies a task may take


@dataclass(frozen=True)
class Outcome:
    """What became of a task. `error`: why its run ended without an answer."""

    task: Task
    answer: str
    verdict: Verdict
    cited: bool
    calls: int
    tokens: int
    seconds: float
    error: str = ""


def answer_tasks(setup: Setup, chunk: list[Task]) -> list[Outcome]:
    """Answer each task in a fresh run; the model and the library are loaded once. Raises UserError as they do."""
    provider, index = setup.provider(), setup.index()

    async def answer_all(scratch: Path) -> list[Outcome]:
        try:
            return [await _answer(setup, provider, index, task, scratch / str(n)) for n, task in enumerate(chunk)]
        finally:
            await close(provider)

    with TemporaryDirectory(prefix="k2-eval-") as scratch:
        return asyncio.run(answer_all(Path(scratch)))


async def _answer(setup: Setup, provider: Provider, index: Index | None, task: Task, folder: Path) -> Outcome:
    began, answer, error = time.monotonic(), "", ""
    with Log.create(folder) as log:
        log.append(setup.started(folder.name, task.text))
        tools = setup.tools(log.started.tools, index, log.workspace)
        try:
            answer = (await Loop(log, provider, tools).run()).answer
        except UserError as failure:
            if not State.of(log.events).replies:  # no model, no server: that is no answer to judge
                raise
            error = str(failure)
        finally:
            await close(*tools.values())
        events = list(log.events)
    judgement = judge(task, answer)
    return Outcome(
        task=task,
        answer=answer,
        verdict=judgement.verdict,
        cited=judgement.cited,
        calls=sum(isinstance(event, ToolFinished) for event in events),
        tokens=State.of(events).total.completion,
        seconds=round(time.monotonic() - began, 3),
        error=error,
    )


def summary(name: str, outcomes: list[Outcome]) -> dict[str, Any]:
    """Shares of right, wrong and abstained answers, the 95% interval of the first, and means per task."""
    suite = find_suite(name)
    n = len(outcomes)
    right = sum(o.verdict == "right" for o in outcomes)
    low, high = wilson(right, n)
    return {
        "suite": name, "what": suite.what, "n": n, "right": right / n, "low": low, "high": high, "target": suite.target,
        "wrong": sum(o.verdict == "wrong" for o in outcomes) / n,
        "abstained": sum(o.verdict == "abstained" for o in outcomes) / n,
        "cited": sum(o.cited for o in outcomes if o.verdict == "right") / max(1, right),
        "calls": sum(o.calls for o in outcomes) / n,
        "tokens": sum(o.tokens for o in outcomes) / n,
        "seconds": sum(o.seconds for o in outcomes) / n,
    }  # fmt: skip


def evaluate(
    names: list[str], setup: Setup, material: Material, n: int, seed: int, out: Path | None, processes: int = 1,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run suites; returns one summary each and writes `out/report.json`, `out/report.md` and every answer as JSONL.

    Raises UserError for an unknown suite, for material that is missing, and for a model that cannot be reached.
    """
    for name in names:  # before hours are spent on the others
        find_suite(name)
    results: list[dict[str, Any]] = []
    for name in names:
        todo = list(tasks(name, material, n, seed))
        if not todo:
            raise UserError(f"The suite {name} made no task; ask for at least one with --count.")
        outcomes = _spread(setup, todo, processes)
        result = summary(name, outcomes)
        results.append(result)
        say(line(result))
        if out:
            out.mkdir(parents=True, exist_ok=True)
            with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for outcome in outcomes:
                    file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
            write_report(out, results, setup, seed)
    return results


def _spread(setup: Setup, todo: list[Task], processes: int) -> list[Outcome]:
    if processes <= 1:
        return answer_tasks(setup, todo)
    parts = min(processes, len(todo))
    with ProcessPoolExecutor(parts) as pool:
        answered = pool.map(answer_tasks, [setup] * parts, [todo[i::parts] for i in range(parts)])
        return [outcome for part in answered for outcome in part]


def line(r: dict[str, Any]) -> str:
    mark = "ok" if r["right"] >= r["target"] else "below"
    return (
        f"{r['suite']:<20} n {r['n']:>4}  right {r['right']:6.1%} [{r['low']:.1%}, {r['high']:.1%}]"
        f"  target {r['target']:.0%} {mark:<5}  wrong {r['wrong']:6.1%}  abstained {r['abstained']:6.1%}"
        f"  cited {r['cited']:6.1%}  {r['calls']:.1f} calls  {r['tokens']:.0f} tokens  {r['seconds']:.2f} s"
    )


def write_report(out: Path, results: list[dict[str, Any]], setup: Setup, seed: int) -> None:
    about = {"model": setup.model or "nano", "base_url": setup.base_url, "seed": seed, "suites": results}
    (out / "report.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    rows = [
        "| suite | what | n | right | 95% interval | target | wrong | abstained | cited | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows += [
        f"| {r['suite']} | {r['what']} | {r['n']} | {r['right']:.1%} | {r['low']:.1%} - {r['high']:.1%}"
        f" | {r['target']:.0%} | {r['wrong']:.1%} | {r['abstained']:.1%} | {r['cited']:.1%} | {r['seconds']:.2f} |"
        for r in results
    ]
    head = f"# Evaluation of {about['model']} (seed {seed})\n\n"
    foot = "Wrong: stated as sure. Abstained: said so, or reached no answer. Cited: right answers that cite every line."
    (out / "report.md").write_text(head + "\n".join([*rows, "", foot]) + "\n", encoding="utf-8")
