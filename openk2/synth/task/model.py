"""Dialogues in which any model behind a provider is the agent; kept where the rubric and the verifier agree to it.

    k2 synth dialogues --worlds WORLDS --out OUT --count 1000 --model kimi:kimi-k2-thinking

Tasks, users, rubrics and proof are those of the planner's trajectories, and each task is one that the planner has
solved. Several dialogues are under way at once; each is written down the moment it ends, so that a run which is killed
goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openk2.chat.call_ids import canonical
from openk2.errors import UserError
from openk2.providers.base import Limits, Provider, Reply, Usage, WindowFull
from openk2.synth import shards
from openk2.synth.rows import packed_lines
from openk2.synth.task import make as planned
from openk2.synth.task.dialogue import Dialogue, Trajectory, seeded_faults
from openk2.synth.task.verify import problems

SAY_SECONDS = 5.0
CALLS = (3, 10)  # a model may take so many times the planner's calls, and so many more


@dataclass(frozen=True)
class Asking:
    """How a model is asked. `calls`, `tokens` (that it writes): the most of one dialogue. `at_once`: dialogues."""

    provider: Provider
    limits: Limits = Limits()  # noqa: RUF009
    calls: int | None = None
    tokens: int = 200_000
    at_once: int = 8
    say: Callable[[str], None] = print

    def to_json(self) -> dict[str, Any]:
        sampling = {name: getattr(self.limits, name) for name in ("temperature", "top_p", "effort", "thinking_tokens")}
        return {"name": self.provider.name} | {name: v for name, v in sampling.items() if v is not None}


class _Broken(Exception):
    """Why a dialogue cannot go on."""


async def held(talk: Dialogue, asking: Asking, calls: int, seed: int) -> tuple[str, Usage]:
    """Let the model speak until the user wants nothing more: ("", tokens), or why that was not reached.

    Raises UserError where the model cannot be asked.
    """
    usage, made = Usage(), 0
    try:
        while not talk.over:
            limits = replace(asking.limits, seed=seed, max_tokens=asking.tokens - usage.completion)
            reply = await _reply(asking.provider, talk, limits)
            usage += reply.usage
            message = reply.message
            if reply.finish_reason == "length" or usage.completion >= asking.tokens:
                raise _Broken("too many tokens were written")
            if not message.content.strip() and not message.tool_calls:
                raise _Broken("a reply held neither an answer nor a call")
            made += len(message.tool_calls)
            if made > calls:
                raise _Broken("too many calls were made")
            talk.assistant(message)
    except _Broken as why:
        return str(why), usage
    except WindowFull:
        return "the model's window is full", usage
    return "", usage


async def _reply(provider: Provider, talk: Dialogue, limits: Limits) -> Reply:
    stream: Any = provider.stream(talk.messages, talk.specs, limits)
    async with aclosing(stream):
        async for piece in stream:
            if isinstance(piece, Reply):
                return piece
    raise UserError(f"The model {provider.name} ended its stream without a reply; the same command goes on.")


@dataclass(frozen=True)
class Order(planned.Order):
    """The planner's order of tasks, each given `tries` times to a model.

    `folder` is where the shards go. `keep_refused`: what was refused is kept too, in the folder `refused` there.
    """

    tries: int = 1
    keep_refused: bool = False
    folder: str = ""
    asking: Asking = field(kw_only=True)

    def about(self) -> dict[str, Any]:
        return super().about() | {"model": self.asking.to_json(), "tries": self.tries}

    def records(self, numbers: range, dropped: Counter[str]) -> Iterator[Trajectory]:
        file = Path(self.folder) / f"dialogues-{numbers.start:08d}.jsonl"
        done = _read(file)
        missing = [n for n in numbers if n not in done]
        if missing:
            with file.open("a", encoding="utf-8") as journal:
                asyncio.run(self._ask_all(missing, done, lambda line: (journal.write(line), journal.flush())))
        if self.keep_refused:
            (Path(self.folder) / "refused").mkdir(exist_ok=True)
            with packed_lines(Path(self.folder) / "refused" / f"part-{numbers.start // self.size:05d}.jsonl.gz") as out:
                out.writelines(json.dumps(done[n], ensure_ascii=False) + "\n" for n in numbers if "failed" in done[n])
        for n in numbers:
            if why := done[n].get("failed"):
                dropped[why[0].partition(":")[0]] += 1
            else:
                yield done[n]

    async def _ask_all(self, numbers: list[int], done: dict[int, Trajectory], write: Callable[[str], object]) -> None:
        """The dialogues of these numbers into `done`, each written down as it ends."""
        waiting, kept, ended = iter(numbers), 0, 0
        began = told = time.monotonic()

        async def work() -> None:
            nonlocal kept, ended, told
            for n in waiting:
                made = done[n] = await self._dialogue(n)
                write(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")
                kept, ended, now = kept + ("failed" not in made), ended + 1, time.monotonic()
                if now - told >= SAY_SECONDS:
                    told, left = now, (now - began) / ended * (len(numbers) - ended) / 60
                    self.asking.say(f"{ended}/{len(numbers)} dialogues of this shard, {kept} kept, {left:.1f} min left")

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self.asking.at_once):
                    tasks.create_task(work())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            if close := getattr(self.asking.provider, "aclose", None):
                await close()

    async def _dialogue(self, n: int) -> Trajectory:
        """With `failed` (why, the check that fails first) and `score` (share of the checks) where it is refused."""
        found, _ = planned.solved(planned.library(self.worlds), self, n // self.tries)
        if found is None:
            return {"n": n, "failed": ["no task"]}
        world, task, plan = found
        seed = self.seed * 1_000_003 + n
        talk = Dialogue.of_task(world, task, seeded_faults(seed))
        most = self.asking.calls or CALLS[0] * plan["proof"]["calls"] + CALLS[1]
        broken, usage = await held(talk, self.asking, most, seed)
        failures = talk.failures()
        # What only one service understands is left out of the record, and calls are numbered as everywhere.
        talk.messages = [replace(m, native=None, token_ids=()) for m in canonical(talk.messages)]
        made = {"n": n} | talk.record(model=self.asking.to_json() | {"usage": usage.to_json()})
        failed = [broken] if broken else []
        failed += [f"{type(check).__name__}: {found}" for check, found in failures]
        failed = failed or [f"untrue: {why}" for why in problems(made, world)]
        score = 1 - len(failures) / len(talk.rubric)
        return made | ({"failed": failed, "score": round(score, 4)} if failed else {})


def _read(file: Path) -> dict[int, Trajectory]:
    """The dialogues of a journal, by number; a last line that was cut off is taken away."""
    if not file.exists():
        return {}
    lines = file.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        file.write_bytes(b"".join(lines[:-1]))
        del lines[-1]
    return {made["n"]: made for made in map(json.loads, lines)}


def make(order: Order) -> dict[str, Any]:
    """Ask for all dialogues that are not there; returns the manifest. See `shards.make`."""
    folder = Path(order.folder)
    manifest = shards.make(order, folder, say=order.asking.say)
    for journal in folder.glob("dialogues-*.jsonl"):  # they are all in shards now
        journal.unlink()
    return manifest
