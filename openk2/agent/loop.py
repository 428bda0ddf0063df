"""The loop: ask the model, write its reply down, run its calls, write their results down, ask again.

It holds no state of its own. Where it stands is read from the log, so a run that was killed goes on by calling `run`
again: finished calls keep their results, a call in flight is repeated only if its tool says that this is safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Any, TypeVar

from openk2.agent import budget as ledger
from openk2.agent import context
from openk2.agent.budget import Budget
from openk2.agent.context import Pending
from openk2.agent.events import (
    Event,
    Note,
    ReplyReceived,
    RunFinished,
    RunReason,
    RunResumed,
    RunStopped,
    ToolFinished,
    ToolStarted,
)
from openk2.agent.log import Log
from openk2.chat.messages import ToolCall
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Provider, Reply, WindowFull
from openk2.tools.base import Tool, ToolResult

E = TypeVar("E", bound=Event)
Watch = Callable[[Event | Delta], None]
Approve = Callable[[ToolCall], Awaitable[bool]]

INTERRUPTED = "interrupted, outcome unknown: this call was running when the process ended. Check before repeating it."
NO_ANSWER = "The model thought about the question but wrote no answer; ask again, or in other words."
NO_ROOM = (
    "No answer was reached before the conversation filled the model's window; ask a narrower question, or use a model"
    " with a longer window."
)
EMPTY_REPLIES = 2  # in a row: the first is asked for again
SECOND_TEMPERATURE = 0.7  # a greedy model would only repeat the empty reply


class Loop:
    """One run being worked on. `watch` sees every event and every delta; `approve` is asked where a tool wants it."""

    def __init__(
        self,
        log: Log,
        provider: Provider,
        tools: Mapping[str, Tool],
        *,
        watch: Watch = lambda _: None,
        approve: Approve | None = None,
    ) -> None:
        self.log, self.provider, self.tools = log, provider, tools
        self.watch, self.approve = watch, approve
        self.budget = Budget(**log.started.budget)  # type: ignore[arg-type]
        self.limits = Limits(**log.started.limits)
        self.partial = ""  # content of the reply that is being written

    async def run(self) -> RunFinished:
        """Work until the answer. Raises CancelledError or UserError after writing down why; the run can go on later."""
        if self.log.finished:
            return self.log.finished
        if len(self.log.events) > 1:
            self._append(RunResumed())
        clock = asyncio.timeout(self.budget.seconds_left(self.log.events))
        try:
            async with clock:
                return await self._steps()
        except TimeoutError:
            if not clock.expired():
                raise
            return self._finish_on_budget()
        except WindowFull:
            if not context.replies(self.log.events):  # the question itself is too long
                raise
            return self._finish("length", context.best_answer(self.log.events) or NO_ROOM)
        except asyncio.CancelledError:
            self._append(RunStopped(why="cancelled"))
            raise
        except Exception as error:
            self._stopped_by(error)
            raise

    async def _steps(self) -> RunFinished:
        while True:
            made = context.replies(self.log.events)
            empty = list(takewhile(lambda reply: context.is_empty(reply.message), reversed(made)))
            if made and not empty and not made[-1].message.tool_calls:
                return self._finish_on_answer(made[-1])
            if self.budget.spent(self.log.events):
                return self._finish_on_budget()
            if len(empty) >= EMPTY_REPLIES:
                return self._finish("empty", context.best_answer(self.log.events) or NO_ANSWER)
            await self._answer_calls()
            await self._ask(again=len(empty))

    async def _ask(self, again: int) -> None:
        """One reply, on disk before anything depends on it."""
        limits = self.limits
        left = self.budget.tokens_left(self.log.events)
        if left is not None:
            limits = replace(limits, max_tokens=min(left, limits.max_tokens or left))
        if again:
            self._append(Note(text="The reply held neither an answer nor a call; asking again."))
            limits = replace(
                limits, temperature=limits.temperature or SECOND_TEMPERATURE, seed=(limits.seed or 0) + again
            )
        specs = [tool.spec() for tool in self.tools.values()]
        conversation = context.messages(self.log.events)
        begin, reply, self.partial = time.monotonic(), None, ""
        stream: Any = self.provider.stream(conversation, specs, limits)
        async with aclosing(stream):
            async for piece in stream:
                if isinstance(piece, Reply):
                    reply = piece
                    break
                if piece.kind == "retry":
                    self.partial = ""
                    self._append(Note(text=piece.text))
                elif piece.kind == "content":
                    self.partial += piece.text
                self.watch(piece)
        if reply is None:
            raise UserError(
                f"The model {self.provider.name} ended its stream without a reply; resume the run to try again."
            )
        self._append(
            ReplyReceived(
                message=reply.message,
                usage=reply.usage,
                finish_reason=reply.finish_reason,
                seconds=round(time.monotonic() - begin, 4),
            )
        )
        self.partial = ""

    async def _answer_calls(self) -> None:
        """Run what has no result yet. Neighbouring idempotent calls run together, all others one after another."""
        waiting = context.pending(self.log.events)
        for together, group in groupby(waiting, key=lambda p: self._idempotent(p.call.name)):
            if together:
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for item in group:
                            tasks.create_task(self._answer(item))
                except BaseExceptionGroup as several:
                    raise several.exceptions[0] from None
            else:
                for item in group:
                    await self._answer(item)

    async def _answer(self, item: Pending) -> None:
        call = item.call
        tool = self.tools.get(call.name)
        begin = time.monotonic()
        if tool is None:
            known = ", ".join(self.tools) or "none"
            result = ToolResult(f"There is no tool {call.name}. The tools are: {known}.", True)
        elif item.begun and not tool.idempotent:
            result = ToolResult(INTERRUPTED, True)
        elif tool.needs_approval and not (self.approve and await self.approve(call)):
            result = ToolResult("The person did not approve this call; it was not run.", True)
        else:
            self._append(
                ToolStarted(reply=item.reply, index=item.index, id=call.id, name=call.name, arguments=call.arguments)
            )
            result = await tool.run(call.arguments)
        self._append(
            ToolFinished(
                reply=item.reply,
                index=item.index,
                id=call.id,
                name=call.name,
                content=result.content,
                is_error=result.is_error,
                seconds=round(time.monotonic() - begin, 4),
            )
        )

    def _idempotent(self, name: str) -> bool:
        return name in self.tools and self.tools[name].idempotent

    def _finish_on_answer(self, reply: ReplyReceived) -> RunFinished:
        reason: RunReason = "stop"
        if reply.finish_reason == "length":
            reason = "budget" if self.budget.spent(self.log.events) else "length"
        return self._finish(reason, reply.message.content.strip())

    def _finish_on_budget(self) -> RunFinished:
        spent = self.budget.spent(self.log.events)
        if spent:
            self._append(spent)
        answer = self.partial.strip() or context.best_answer(self.log.events)
        what = f"{spent.limit:g} {spent.axis}" if spent else "its limit"
        return self._finish("budget", answer or f"No answer was reached within the budget of {what}.")

    def _finish(self, reason: RunReason, answer: str) -> RunFinished:
        events = self.log.events
        return self._append(
            RunFinished(
                reason=reason,
                answer=answer,
                steps=len(context.replies(events)),
                usage=ledger.usage(events),
                seconds=round(ledger.seconds(events, time.time()), 3),
            )
        )

    def _append(self, event: E) -> E:
        event = self.log.append(event)
        self.watch(event)
        return event

    def _stopped_by(self, error: Exception) -> None:
        """Write down why, if the disk still takes it: the error itself may be that it does not."""
        try:
            self._append(RunStopped(why=str(error) or type(error).__name__))
        except UserError:
            return
