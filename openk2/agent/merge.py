"""One answer out of many: five ways behind one function.

vote      the answer that most paths gave; free
evidence  the answer with most votes and most paths whose tools bear it out; free
reflect   one more reply over all answers, shuffled (K2 Thinking's heavy mode)
agent     an agent over the logs of the paths (`aggregate`)
rsa       recursive self-aggregation: rounds in which each new answer is made of a few of the last (2509.26626)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from openk2.agent.aggregate import path_tools, prompt
from openk2.agent.answers import Trajectory, borne_out, groups, key
from openk2.agent.verify import audit
from openk2.tools.base import Tool

KINDS = ("vote", "evidence", "reflect", "agent", "rsa")
SHARES = {"reflect": 1 / 8, "agent": 1 / 6, "rsa": 1 / 2}  # of the budget, kept back for the merge

MEMBERS = 4  # answers that one reply of rsa reads
ROUNDS = 3
ANSWER_CHARS = 12_000  # of one answer in a prompt

REFLECT = """\
{count} attempts at the question below were made, each by itself. Some may be wrong, and most may be.

Question:
{question}

{answers}

Compare them. Where they agree, ask whether they agree for a good reason; where they differ, find the step at which \
they part and decide which is right; when all are wrong, work the answer out anew. Then write the final answer to the \
question and nothing about the attempts. Keep the [id:line] marks of the facts that you keep; make up none."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a run for the merge came to; `answer` is empty where it gave none."""

    answer: str
    reason: str


class Ask(Protocol):
    """Runs a child that is called `name`: one reply, or with `tools` an agent. `seed` is added to that of the run."""

    async def __call__(
        self, name: str, question: str, *, tools: Mapping[str, Tool] | None = None, seed: int = 0
    ) -> Said: ...


async def merge(kind: str, paths: Sequence[Trajectory], ask: Ask, *, seed: int = 0) -> Said:
    """The answer that `paths` come to; those without an answer say nothing, those that were ended may hold evidence.

    A merge that gives no answer, as when its budget ends, falls back on `evidence`.
    """
    answered = [path for path in paths if path.answer]
    if kind == "vote":
        return vote(answered)
    said = Said("", "")
    if kind == "reflect":
        said = await ask("merge", _reflection([path.answer for path in answered], answered[0].question, seed))
    elif kind == "agent":
        said = await ask("merge", prompt(paths, seed), tools=path_tools(paths))
    elif kind == "rsa":
        said = await _recursive(answered, ask, seed)
    return said if said.answer else evidence(paths, said.reason)


def vote(paths: Sequence[Trajectory]) -> Said:
    """The largest group; of equal ones the group with the answer that its tools bear out best."""
    best = min(groups(paths), key=lambda group: (-len(group), _doubts(_speaker(group)), group[0].number))
    return Said(_speaker(best).answer, _speaker(best).reason)


def evidence(paths: Sequence[Trajectory], reason: str = "") -> Said:
    """Votes, and beside them every path, of whatever answer, whose tools bear the answer out."""

    def weight(group: list[Trajectory]) -> int:
        said = _speaker(group)
        return len(group) + sum(borne_out(said.answer, said.question, path.state) for path in paths)

    best = min(groups(paths), key=lambda group: (-weight(group), _doubts(_speaker(group)), group[0].number))
    return Said(_speaker(best).answer, reason or _speaker(best).reason)


def _speaker(group: Sequence[Trajectory]) -> Trajectory:
    """Of those that say the same, the one whose words its own tools bear out best."""
    return min(group, key=lambda path: (not path.sound, _doubts(path), path.number))


def _doubts(path: Trajectory) -> int:
    return len(audit(path.answer, path.state))


def _reflection(answers: Sequence[str], question: str, seed: int) -> str:
    shuffled = list(answers)
    random.Random(seed).shuffle(shuffled)
    parts = [f"Attempt {number}:\n{answer[:ANSWER_CHARS]}" for number, answer in enumerate(shuffled, 1)]
    return REFLECT.format(count=len(answers), question=question, answers="\n\n".join(parts))


async def _recursive(paths: Sequence[Trajectory], ask: Ask, seed: int) -> Said:
    """Each round makes as many answers as there were paths, each of a few random ones; the last round is counted."""
    question, population, last = paths[0].question, [path.answer for path in paths], ""
    for step in range(1, ROUNDS + 1):
        async with asyncio.TaskGroup() as tasks:
            asked = []
            for place in range(1, len(paths) + 1):
                dice = random.Random(f"{seed} {step} {place}")
                chosen = dice.sample(population, min(MEMBERS, len(population)))
                text = _reflection(chosen, question, seed)
                asked.append(tasks.create_task(ask(f"merge/{step}/{place}", text, seed=1000 * step + place)))
        said = [task.result() for task in asked]
        last = said[-1].reason
        if not any(item.answer for item in said):
            break
        population = [item.answer for item in said if item.answer]
    keys = [key(answer, question) for answer in population]
    votes = [sum(mine.same(other) for other in keys) for mine in keys]
    return Said(population[votes.index(max(votes))], last)
