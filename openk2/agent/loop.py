"""The loop: ask the model, write its reply down, run its calls, write their results down, ask again.

Where it stands is read from the log, so a run that was killed goes on by calling `run` again: finished calls keep their
results, a call in flight is repeated only if its tool says that this is safe. What else a step may need stands in
files of its own: `asking` (one reply), `calls` (running them), `guard` (circles), `ladder` (the window), `verify` (the
answer), `budget`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from openk2.agent import context, guard, ladder, prompts, verify
from openk2.agent.asking import Asking, Purpose
from openk2.agent.budget import Budget, Ledger, Spent
from openk2.agent.calls import Approve, Calls
from openk2.agent.events import (
    BudgetRaised,
    BudgetSpent,
    Event,
    RunFinished,
    RunReason,
    RunResumed,
    RunStopped,
    UserSaid,
)
from openk2.agent.log import Log
from openk2.agent.results import with_results
from openk2.agent.state import State, limits
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Provider, WindowFull
from openk2.tools.base import Tool

E = TypeVar("E", bound=Event)
Watch = Callable[[Event | Delta], None]
More = Callable[[BudgetSpent], Awaitable[float | None]]

NO_ANSWER = "The model thought about the question but wrote no answer; ask again, or in other words."
NO_ROOM = (
    "No answer was reached before the conversation filled the model's window; ask a narrower question, or use a model"
    " with a longer window."
)
NOT_FOUND = (
    "I could not find that in the documents: no line has these words. Ask in words that stand there, or connect a"
    " larger model: k2 ask --base-url URL --model NAME"
)
STUCK = "No answer was reached: the run went in circles. Ask in other words, or use a stronger model."
EMPTY_REPLIES = 2  # in a row: the first is asked for again


class Loop:
    """One run being worked on.

    `watch` sees every event and every delta. `approve` is asked where a call needs a person's word; without it such
    calls are refused. `more` is asked when a budget is spent: what it returns is added. `ledger` is the budget of what
    this run is a part of.
    """

    def __init__(
        self,
        log: Log,
        provider: Provider,
        tools: Mapping[str, Tool],
        *,
        watch: Watch = lambda _: None,
        approve: Approve | None = None,
        more: More | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.log, self.provider, self.watch, self.more, self.parent = log, provider, watch, more, ledger
        self.state = State.of(log.events)
        self.tools = with_results(tools, lambda: self.state) if tools else {}
        self.calls = Calls(self.tools, lambda: self.state, self._append, approve)
        specs = [tool.spec() for tool in self.tools.values()]
        self.asking = Asking(provider, specs, self.state, self._append, lambda piece: self.watch(piece))
        self._said: list[str] = []

    def steer(self, text: str) -> None:
        """Say something to the model while it works; it reads it before its next reply."""
        self._said.append(text)

    async def run(self) -> RunFinished:
        """Work until the answer. Raises CancelledError or UserError after writing down why; the run can go on later."""
        if self.log.finished:
            return self.log.finished
        if len(self.log.events) > 1 and not isinstance(self.log.events[-1], UserSaid):
            self._append(RunResumed())
        self._open_ledger()
        try:
            while True:
                clock = asyncio.timeout(self.ledger.seconds_left())
                try:
                    async with clock:
                        return await self._steps()
                except (Spent, TimeoutError) as end:
                    if isinstance(end, TimeoutError) and not clock.expired():
                        raise
                    spent = end if isinstance(end, Spent) else self._out_of_time()
                if not await self._raised(spent):
                    return await self._end_on_budget(spent)
        except asyncio.CancelledError:
            self._append(RunStopped(why="cancelled"))
            raise
        except Exception as error:
            self._stopped_by(error)
            raise

    async def _steps(self) -> RunFinished:
        state = self.state
        while True:
            await self.calls.answer()
            while self._said:
                self._append(UserSaid(text=self._said.pop(0)))
            if answer := state.answered:
                if answer.purpose == "answer":  # a process ended before it could say so
                    return self._finish("budget", state.best_answer())
                if answer.finish_reason == "length":  # by its own limit, or by what the budget had left
                    self.ledger.check(context.tokens(state), self.provider.price)
                if check := verify.next_check(state):
                    self._append(check)
                if state.answered and not self._said:
                    return self._finish("length" if answer.finish_reason == "length" else "stop", state.best_answer())
                continue
            if state.stuck:
                return self._finish("stuck", state.best_answer() or STUCK)
            if state.empty_replies >= EMPTY_REPLIES:
                return self._finish("empty", state.best_answer() or NO_ANSWER)
            if guard.empty_handed(state):
                return self._finish("stop", NOT_FOUND)
            if circle := guard.look(state):
                self._append(circle)
                continue
            if ladder.due(state, self.provider.window) and not await self._make_room():
                return self._finish("length", state.best_answer() or NO_ROOM)
            try:
                await self._ask()
            except WindowFull:
                if not state.replies:  # the question itself is too long
                    raise
                if not await self._make_room(forced=True):
                    return self._finish("length", state.best_answer() or NO_ROOM)

    async def _ask(self, purpose: Purpose = "step", word: str = "") -> None:
        await self.asking.reply(self.ledger, self.limits, purpose, word)

    async def _make_room(self, *, forced: bool = False) -> bool:
        """Put something away; False where nothing is left that could be."""
        cut = ladder.next_rung(self.state, self.provider.window, forced=forced)
        if cut is None:
            return False
        if cut.kind == "notes":
            try:
                await self._ask("notes", ladder.NOTES)
            except WindowFull:
                return await self._make_room(forced=True)
            last = self.state.last
            notes = last.message.content.strip() if last and last.purpose == "notes" else ""
            cut = replace(cut, notes=notes) if notes else replace(cut, kind="fresh")
        elif cut.kind == "fresh":
            cut = replace(cut, notes=next((old.notes for old in reversed(self.state.cuts) if old.notes), ""))
        self._append(cut)
        return True

    # How a run ends.

    def _open_ledger(self) -> None:
        assert self.state.started is not None
        self.budget = Budget.from_json(limits(self.state.started, self.state.raised))
        self.limits = Limits(**self.state.started.limits)
        if self.budget.thinking is not None:
            self.limits = replace(self.limits, thinking_tokens=self.budget.thinking)
        spent = replace(self.state.spent)
        self.ledger = Ledger(self.budget, spent, parent=self.parent, saves=self.state.habits.steer and bool(self.tools))

    def _out_of_time(self) -> Spent:
        try:
            self.ledger.check_time()
        except Spent as spent:
            return spent
        return Spent("seconds", self.budget.seconds or 0.0, self.ledger.seconds)

    async def _raised(self, spent: Spent) -> bool:
        """Whether the person gives more of what is spent."""
        if self.more is None:
            return False
        added = await self.more(spent.event())
        if not added or added <= 0:
            return False
        if getattr(self.budget, spent.axis, None) == spent.limit:  # else it is a parent's, and raised there
            self._append(BudgetRaised(axis=spent.axis, limit=spent.limit + added))
            self._open_ledger()
        return True

    async def _end_on_budget(self, spent: Spent) -> RunFinished:
        """The best answer that is there, or one last reply for it from what was kept back."""
        self._append(spent.event())
        said = self.asking.partial.strip()
        self.calls.give_up()
        if self.state.habits.steer and self.tools and self.state.replies:
            try:
                async with asyncio.timeout(self.ledger.seconds_left(last=True)):
                    await self._ask("answer", prompts.LAST_CALL)
            except (Spent, TimeoutError, WindowFull):
                said = self.asking.partial.strip() or said
            else:
                said = ""
                self.calls.give_up()
        answer = said or self.state.best_answer()
        return self._finish("budget", answer or f"No answer was reached within the budget of {spent}.")

    def _finish(self, reason: RunReason, answer: str) -> RunFinished:
        state = self.state
        return self._append(
            RunFinished(
                reason=reason,
                answer=answer,
                steps=state.spent.steps,
                usage=state.spent.usage,
                seconds=round(self.ledger.seconds, 3),
            )
        )

    def _append(self, event: E) -> E:
        event = self.log.append(event)
        self.state.fold(event)
        self.watch(event)
        return event

    def _stopped_by(self, error: Exception) -> None:
        """Write down why, if the disk still takes it: the error itself may be that it does not."""
        try:
            self._append(RunStopped(why=str(error) or type(error).__name__))
        except UserError:
            return
