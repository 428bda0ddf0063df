"""Heavy mode: several independent runs of the same question, and one answer made of them.

Each path is a whole run of its own in `RUN/paths/N/`; the merge is one in `RUN/merge/`. The parent's log says which
began and how each ended. All draw on one budget, of which the merge's share is kept back. When enough paths agree and
their tools bear the answer out, the others are ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast, get_args

from openk2.agent import merge as merging
from openk2.agent import prompts
from openk2.agent.answers import Trajectory, agreement, groups, key
from openk2.agent.ask_agent import loop_for
from openk2.agent.budget import Budget, Ledger
from openk2.agent.calls import Approve
from openk2.agent.children import (
    ToolsFor,
    WatchTree,
    begin,
    ended,
    family,
    finish,
    keep_back,
    record,
    seconds,
    unsaid,
    used,
)
from openk2.agent.events import (
    BudgetRaised,
    BudgetSpent,
    ChildFinished,
    Note,
    RunFinished,
    RunReason,
    RunResumed,
    RunStarted,
    RunStopped,
)
from openk2.agent.log import Log, read
from openk2.agent.loop import NO_ANSWER, NO_ROOM, STUCK, Loop, More
from openk2.agent.setup import Setup
from openk2.agent.sources import keep_known, shown_lines
from openk2.agent.state import Spending, State, limits
from openk2.chat.messages import ToolCall
from openk2.errors import UserError
from openk2.providers.base import Provider
from openk2.tools.base import Tool

SEEDS = 1000  # between two paths: a run uses those after its own where it has to ask again
WARM = 0.7  # temperature of the paths after the first where the model would be greedy: greedy paths are all the same


@dataclass(slots=True)
class Path:
    """One path being worked on."""

    number: int
    loop: Loop


class Heavy:
    """`Loop` many times over: `await Heavy(log, provider, tools).run()` works on the run in `log` until its answer.

    How many paths and which merge stand in the setup that the log holds. `tools` makes the tools of one run over its
    own workspace. `watch` sees every event and delta with the name of the child that it belongs to: "" the run itself,
    "1" to "8" the paths, "merge". `approve` and `more` are as for a `Loop`; one question is asked at a time.
    """

    def __init__(
        self,
        log: Log,
        provider: Provider,
        tools: ToolsFor,
        *,
        watch: WatchTree = lambda _name, _item: None,
        approve: Approve | None = None,
        more: More | None = None,
    ) -> None:
        self.log, self.provider, self.tools, self.watch_tree = log, provider, tools, watch
        self.state = State.of(log.events)
        self.watch = partial(watch, "")
        self.setup = Setup.from_json(log.started.setup)
        self.steer = self.state.habits.steer
        self.kind = self.setup.merge
        if self.kind not in merging.KINDS:
            raise UserError(f"There is no merge {self.kind!r}; choose from {', '.join(merging.KINDS)}.")
        if self.setup.paths < 1:
            raise UserError(f"Heavy mode needs at least one path, not {self.setup.paths}.")
        if not self.steer and self.kind != "vote":
            self.kind = "evidence"  # the model follows no instructions beside its own kind of question
        self._approve, self._more = approve, more
        self._asking = asyncio.Lock()
        self._declined: set[str] = set()
        self._settled = False  # who agreed is said already
        self._seed = int(log.started.limits.get("seed") or 0)

    async def run(self) -> RunFinished:
        """Work until the answer. Raises CancelledError or UserError after writing down why; the run can go on later."""
        if self.log.finished:
            return self.log.finished
        if len(self.log.events) > 1:
            record(self, RunResumed())
        try:
            self._open_ledgers()
            paths = await self._walk()
            return self._finish(paths, await self._merge(paths))
        except asyncio.CancelledError:
            record(self, RunStopped(why="cancelled"))
            raise
        except BaseExceptionGroup as several:
            raise self._stopped_by(_first(several)) from None
        except Exception as error:
            raise self._stopped_by(error) from None

    # The paths.

    async def _walk(self) -> list[Trajectory]:
        """All paths to their end, or until enough agree."""
        done: dict[int, Trajectory] = {}
        failed: dict[int, UserError] = {}
        open_paths: list[Path] = []
        for number in range(1, self.setup.paths + 1):
            event = self.state.children.get(str(number))
            if isinstance(event, ChildFinished):
                done[number] = self._trajectory(number, event.reason, event.answer)
        try:
            await self._work(open_paths, done, failed)
            for number, error in failed.items() if done else ():
                done[number] = self._ended(number, "error", "")
                record(self, Note(text=f"Path {number} failed: {error}"))
        finally:
            for path in open_paths:
                path.loop.log.close()
        if not done:
            raise failed[min(failed)]
        return [done[number] for number in sorted(done)]

    async def _work(self, open_paths: list[Path], done: dict[int, Trajectory], failed: dict[int, UserError]) -> None:
        running: dict[asyncio.Task[RunFinished], Path] = {}
        todo = [number for number in range(1, self.setup.paths + 1) if number not in done]
        keep_back(self.paths_ledger, len(todo) * self.steer)
        self.paths_ledger.sharers = max(1, len(todo))
        settled = agreement(list(done.values()), self.setup.paths, self.setup.agree)
        try:
            for number in todo:
                try:
                    path = self._open(number)
                except UserError as error:
                    failed[number] = error
                    keep_back(self.paths_ledger, -int(self.steer))
                    continue
                open_paths.append(path)
                running[asyncio.create_task(finish(path.loop))] = path
                if not settled:
                    await asyncio.sleep(0)  # it asks while the next is being opened
            while running:
                if agree := agreement(list(done.values()), self.setup.paths, self.setup.agree):
                    why = f"{_listed(agree)} of {self.setup.paths} agree, and what their tools have shown bears it out."
                    await self._end_early(running, why, done)
                    return
                ready, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    path = running.pop(task)
                    keep_back(self.paths_ledger, -unsaid(path.loop))
                    self.paths_ledger.sharers = max(1, len(running))
                    error = task.exception()
                    if isinstance(error, UserError):
                        failed[path.number] = error
                    elif error is not None:
                        raise error
                    else:
                        end = task.result()
                        done[path.number] = self._ended(path.number, end.reason, _said(end), path.loop.state)
        finally:
            await _cancel(running)

    async def _end_early(self, running: dict[asyncio.Task[Any], Path], why: str, done: dict[int, Trajectory]) -> None:
        self._settled = True
        record(self, Note(text=why))
        for path in running.values():
            record(path.loop, Note(text=f"Ended before its answer: {why}"))
        await _cancel(running)
        for task, path in running.items():
            if not task.cancelled() and task.exception() is None:  # it had just answered
                end = task.result()
                done[path.number] = self._ended(path.number, end.reason, _said(end), path.loop.state)
            else:
                done[path.number] = self._ended(path.number, "cancelled", "", path.loop.state)
        running.clear()

    def _open(self, number: int) -> Path:
        log = begin(self, str(number), f"paths/{number}", self._path_started(number))
        try:
            return Path(number, self._loop(str(number), log, self.paths_ledger))
        except BaseException:
            log.close()
            raise

    def _path_started(self, number: int) -> RunStarted:
        """As the run itself, but for the seed and, after the first, some warmth where the model would be greedy."""
        started = self.log.started
        asked = dict(started.limits)
        if "seed" in asked:
            asked["seed"] = self._seed + SEEDS * (number - 1)
        if number > 1 and not asked.get("temperature") and self._greedy():
            asked["temperature"] = WARM
        return replace(
            started,
            run=f"{started.run}/paths/{number}",
            parent=started.run,
            setup=self._own_setup(),
            budget=self._own_budget(),
            limits=asked,
        )

    def _greedy(self) -> bool:
        return not self.setup.served and not self.setup.profile.get("temperature", 0.0)

    def _own_setup(self) -> dict[str, Any]:
        """A child is one run, which may be resumed, replayed and forked by itself."""
        return {**self.log.started.setup, "mode": "agent"}

    def _own_budget(self) -> dict[str, Any]:
        """A child is limited by the ledger of its parent, and by the steps of a single run."""
        thinking = Budget.from_json(self.log.started.budget).thinking
        return Budget(self.setup.steps_of_one, thinking=thinking).to_json()

    def _loop(self, name: str, log: Log, ledger: Ledger, more_tools: Mapping[str, Tool] | None = None) -> Loop:
        return loop_for(
            log,
            self.provider,
            self.tools,
            more_tools=more_tools,
            watch=lambda child, item: self.watch_tree(f"{name}/{child}" if child else name, item),
            approve=self._approved if self._approve else None,
            more=self._give_more if self._more else None,
            ledger=ledger,
        )

    def _trajectory(self, number: int, reason: str, answer: str, state: State | None = None) -> Trajectory:
        state = state or State.of(read(self.log.folder / f"paths/{number}"))
        return Trajectory(number, self.log.started.question, reason, answer, state)

    def _ended(self, number: int, reason: str, answer: str, state: State | None = None) -> Trajectory:
        path = self._trajectory(number, reason, answer, state)
        record(self, ended(str(number), path.state, reason, answer))
        return path

    # The merge.

    async def _merge(self, paths: Sequence[Trajectory]) -> merging.Said:
        answered = [path for path in paths if path.answer]
        if not answered:
            first = next((path for path in paths if path.state.finished), paths[0])
            said = first.state.finished.answer if first.state.finished else "No path came to an answer."
            return merging.Said(said, first.reason)
        self.ledger.sharers = len(answered) if self.kind == "rsa" else 1
        settled = len(answered) == 1 or agreement(paths, self.setup.paths, self.setup.agree)
        return await merging.merge("vote" if settled else self.kind, paths, self._ask, seed=self._seed)

    async def _ask(
        self, name: str, question: str, *, tools: Mapping[str, Tool] | None = None, seed: int = 0
    ) -> merging.Said:
        """A child of the merge, which may have ended in an earlier process."""
        event = self.state.children.get(name)
        if isinstance(event, ChildFinished):
            return merging.Said(event.answer, event.reason)
        started = self.log.started
        asked = dict(started.limits)
        if "seed" in asked:
            asked["seed"] = self._seed + seed
        log = begin(
            self,
            name,
            name,
            replace(
                started,
                run=f"{started.run}/{name}",
                parent=started.run,
                question=question,
                setup=self._own_setup(),
                system=started.system if tools else prompts.CHAT,
                tools=started.tools if tools else (),
                budget=self._own_budget(),
                limits=asked,
                outside=self.state.outside,
                private=self.state.private,
            ),
        )
        with log:
            loop = self._loop(name, log, self.ledger, tools)
            end = await finish(loop)
        answer = _said(end)
        record(self, ended(name, loop.state, end.reason, answer))
        return merging.Said(answer, end.reason)

    def _finish(self, paths: Sequence[Trajectory], said: merging.Said) -> RunFinished:
        known = {place for place in shown_lines(family(self.log.folder, self.log.events)) if not _is_handle(place[0])}
        answer, dropped = keep_known(said.answer, known)
        if dropped:
            record(self, Note(text=f"{dropped} citations of lines that no path has shown were left out."))
        if not self._settled and any(path.answer for path in paths):
            record(self, Note(text=_who_agreed(paths, answer)))
        reason = cast(RunReason, said.reason if said.reason in get_args(RunReason) else "stop")
        spent = self.state.spent
        return record(
            self,
            RunFinished(
                reason=reason,
                answer=answer,
                steps=spent.steps,
                usage=spent.usage,
                seconds=round(self.ledger.seconds, 3),
            ),
        )

    # The budget, and what a person is asked.

    def _open_ledgers(self) -> None:
        """One for the whole run, and one for the paths that keeps the merge's share out of their reach."""
        budget = Budget.from_json(limits(self.log.started, self.state.raised))
        worked = seconds(self.log)
        spent, walked = used(self.log.folder), self._walked()
        self.ledger = Ledger(
            budget,
            Spending(spent.steps, spent.usage, worked),
            saves=int(self.steer and self.kind in merging.SHARES),
        )
        self.paths_ledger = Ledger(
            _share(budget, merging.SHARES.get(self.kind, 0.0)),
            Spending(walked.steps, walked.usage, worked),
            parent=self.ledger,
        )

    def _walked(self) -> Spending:
        """What the paths alone have used."""
        whole = Spending()
        for number in range(1, self.setup.paths + 1):
            below = used(self.log.folder / f"paths/{number}")
            whole.steps, whole.usage = whole.steps + below.steps, whole.usage + below.usage
        return whole

    async def _approved(self, call: ToolCall, why: str) -> bool:
        assert self._approve is not None
        async with self._asking:
            return await self._approve(call, why)

    async def _give_more(self, spent: BudgetSpent) -> float | None:
        """A child has met the end of a budget: raise that of the whole run, if the person gives more."""
        assert self._more is not None
        axis = spent.axis
        async with self._asking:
            limit, of_paths = getattr(self.ledger.budget, axis), getattr(self.paths_ledger.budget, axis)
            if limit is None or axis in self._declined:
                return None
            if spent.limit not in (limit, of_paths):  # its own end, or that of all before another child asked
                return None if axis == "steps" and spent.limit == self.setup.steps_of_one else 1.0
            added = await self._more(replace(spent, limit=limit, used=round(getattr(self.ledger, axis), 6)))
            if not added or added <= 0:
                self._declined.add(axis)
                return None
            record(self, BudgetRaised(axis=axis, limit=limit + added))
            self.ledger.budget = replace(self.ledger.budget, **{axis: limit + added})
            self.paths_ledger.budget = _share(self.ledger.budget, merging.SHARES.get(self.kind, 0.0))
            return added

    def _stopped_by(self, error: BaseException) -> BaseException:
        """Write down why, if the disk still takes it: the error itself may be that it does not."""
        with suppress(UserError):
            record(self, RunStopped(why=str(error) or type(error).__name__))
        return error


async def _cancel(tasks: Mapping[asyncio.Task[Any], Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    error = several.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _share(budget: Budget, kept: float) -> Budget:
    """The budget without the part `kept` back; of steps at least one is left on each side, if there are two."""

    def less(value: float | None) -> float | None:
        return None if value is None else value * (1 - kept)

    steps = budget.steps
    if steps is not None and kept:
        steps = max(1, steps - max(1, round(steps * kept)))
    tokens = None if budget.tokens is None else int(budget.tokens * (1 - kept))
    return replace(budget, steps=steps, tokens=tokens, seconds=less(budget.seconds), money=less(budget.money))


def _said(end: RunFinished) -> str:
    """What a child answered; empty where its end says in words of ours that it came to no answer."""
    none = end.answer in (NO_ANSWER, NO_ROOM, STUCK) or end.answer.startswith("No answer was reached within")
    return "" if none else end.answer


def _is_handle(id: str) -> bool:
    """Handles of outputs mean something in their own run alone."""
    return id[:1] == "r" and id[1:].isdigit()


def _listed(paths: Sequence[Trajectory]) -> str:
    numbers = [str(path.number) for path in sorted(paths, key=lambda path: path.number)]
    return f"Paths {', '.join(numbers[:-1])} and {numbers[-1]}" if len(numbers) > 1 else f"Path {numbers[0]}"


def _who_agreed(paths: Sequence[Trajectory], answer: str) -> str:
    final = key(answer, paths[0].question)
    same = [path for group in groups(paths) for path in group if path.key.same(final)]
    return f"{_listed(same)} gave this answer." if same else "No path gave this answer in these words."
