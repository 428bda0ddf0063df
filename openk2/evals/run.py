"""Run a suite through the agent as a person would: provider, loop, tools, log; then judge by program."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openk2.agent.log import Log
from openk2.agent.loop import Loop
from openk2.agent.setup import Setup
from openk2.errors import UserError
from openk2.evals.judge import judge, wilson
from openk2.evals.suites import SUITES, Material, Task, tasks

STEPS = 100  # replies a task may take


@dataclass(frozen=True)
class Outcome:
    task: Task
    answer: str
    verdict: str
    cited: bool
    calls: int
    tokens: int
    seconds: float


def answer_tasks(setup: Setup, chunk: list[Task], keep: Path | None = None) -> list[Outcome]:
    """Answer each task in a fresh run; the model and the library are loaded once. With `keep` the logs stay there."""
    provider, index = setup.provider(), setup.index()
    outcomes = []
    with TemporaryDirectory(prefix="k2-eval-") as scratch:
        for number, task in enumerate(chunk):
            folder = (keep or Path(scratch)) / f"run-{os.getpid()}-{number}"
            with Log.create(folder) as log:
                log.append(setup.started(folder.name, task.text))
                tools = setup.tools(log.started.tools, index, log.workspace)
                began = time.monotonic()
                end = asyncio.run(_run(Loop(log, provider, tools), tools))
                verdict = judge(task, end.answer)
                calls = sum(1 for event in log.events if type(event).__name__ == "ToolFinished")
                outcomes.append(
                    Outcome(
                        task, end.answer, verdict.verdict, verdict.cited, calls,
                        end.usage.completion, round(time.monotonic() - began, 3),
                    )
                )  # fmt: skip
    return outcomes


async def _run(loop: Loop, tools: dict[str, Any]) -> Any:
    try:
        return await loop.run()
    finally:
        for tool in tools.values():
            if close := getattr(tool, "aclose", None):
                await close()


def summary(name: str, outcomes: list[Outcome]) -> dict[str, Any]:
    what, target, _ = SUITES[name]
    n = len(outcomes)
    right = sum(o.verdict == "right" for o in outcomes)
    low, high = wilson(right, n)
    return {
        "suite": name, "what": what, "n": n, "right": right / n, "low": low, "high": high, "target": target,
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
    """Run suites; returns one summary each and writes `out/report.json`, `out/report.md` and every answer as JSONL."""
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise UserError(f"There is no suite {unknown[0]!r}; there are {', '.join(SUITES)}, and all.")
    results = []
    for name in names:
        todo = list(tasks(name, material, n, seed))
        if not todo:
            raise UserError(f"The suite {name} made no task from this material.")
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
    chunks = [todo[i::processes] for i in range(processes)]
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(processes) as pool:
        for future in as_completed([pool.submit(answer_tasks, setup, chunk) for chunk in chunks if chunk]):
            outcomes += future.result()
    return outcomes


def line(r: dict[str, Any]) -> str:
    mark = "ok" if r["right"] >= r["target"] else "below"
    return (
        f"{r['suite']:<20} n {r['n']:>4}  right {r['right']:6.1%} [{r['low']:.1%}, {r['high']:.1%}]  target {r['target']:.0%} {mark:<5}"
        f"  wrong {r['wrong']:6.1%}  abstained {r['abstained']:6.1%}  cited {r['cited']:6.1%}"
        f"  {r['calls']:.1f} calls  {r['tokens']:.0f} tokens  {r['seconds']:.2f} s"
    )


def write_report(out: Path, results: list[dict[str, Any]], setup: Setup, seed: int) -> None:
    about = {"model": setup.model or "nano", "base_url": setup.base_url, "seed": seed, "suites": results}
    (out / "report.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    rows = [
        "| suite | what | n | right | 95% interval | target | wrong | abstained | right with all citations | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {r['suite']} | {r['what']} | {r['n']} | {r['right']:.1%} | {r['low']:.1%} - {r['high']:.1%} | {r['target']:.0%}"
        f" | {r['wrong']:.1%} | {r['abstained']:.1%} | {r['cited']:.1%} | {r['seconds']:.2f} |"
        for r in results
    ]
    head = f"# Evaluation of {about['model']} (seed {seed})\n\n"
    (out / "report.md").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
