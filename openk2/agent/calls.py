"""The calls of a reply, run: checked first, asked about where a person has a say, written down before and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import groupby
from typing import Any, Literal, Protocol, TypeVar

from openk2.agent import policy, prompts
from openk2.agent.events import Approval, Event, ToolFinished, ToolStarted
from openk2.agent.log import Log
from openk2.agent.state import Pending, State
from openk2.chat.messages import ToolCall
from openk2.errors import UserError
from openk2.tools.base import Tool, ToolResult

E = TypeVar("E", bound=Event)
Approve = Callable[[ToolCall, str], Awaitable[bool]]

INTERRUPTED = "interrupted, outcome unknown: this call was running when the run was stopped. Check before repeating it."
REFUSED = "The person did not approve this call; it was not run."
NOBODY = "This call needs a person's approval and nobody can be asked here; it was not run. Go on without it."
STOPPED = "The person stopped this turn before the call was done."
TOO_LATE = "The budget of the run ended before this call was done."


class Append(Protocol):
    def __call__(self, event: E, /) -> E: ...


class Calls:
    """Answers the calls that wait for a result. `append` writes an event to the log."""

    def __init__(
        self, tools: Mapping[str, Tool], state: Callable[[], State], append: Append, approve: Approve | None
    ) -> None:
        self._tools, self._state, self._append, self._approve = tools, state, append, approve
        self._asking = asyncio.Lock()  # one question at a time

    async def answer(self) -> None:
        """Run what has no result yet. Neighbours that may run beside others run together, the rest one by one."""
        for together, group in groupby(self._state().pending(), key=lambda item: self._beside_others(item.call.name)):
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

    def give_up(self) -> None:
        """Say of every call without a result that it was too late for it."""
        for item in self._state().pending():
            self._finish(item, ToolResult(INTERRUPTED if item.begun else TOO_LATE, True), 0.0)

    async def _answer(self, item: Pending) -> None:
        call, begin = item.call, time.monotonic()
        tool = self._tools.get(call.name)
        last = self._state().last
        if tool is None:
            known = ", ".join(self._tools) or "none"
            result, invalid = ToolResult(f"There is no tool {call.name}. The tools are: {known}.", True), True
        elif item.begun and not tool.idempotent:
            result, invalid = ToolResult(INTERRUPTED, True), False
        elif isinstance(values := tool.check(call.arguments), ToolResult):
            cut_off = last is not None and last.finish_reason == "length"
            result, invalid = ToolResult(prompts.CUT_OFF, True) if cut_off else values, True
        elif refusal := await self._refusal(item, tool, values):
            result, invalid = ToolResult(refusal, True), False
        else:
            self._append(
                ToolStarted(reply=item.reply, index=item.index, id=call.id, name=call.name, arguments=call.arguments)
            )
            result, invalid = await tool.call(values), False
        self._finish(item, result, time.monotonic() - begin, invalid=invalid)

    def _finish(self, item: Pending, result: ToolResult, seconds: float, *, invalid: bool = False) -> None:
        tool = self._tools.get(item.call.name)
        ran = (item.reply, item.index) in self._state().begun
        self._append(
            ToolFinished(
                reply=item.reply,
                index=item.index,
                id=item.call.id,
                name=item.call.name,
                content=result.content,
                is_error=result.is_error,
                seconds=round(seconds, 4),
                invalid=invalid,
                origin="" if tool is None or not ran else _origin(tool, result),
                source=result.source,
                files=result.files,
            )
        )

    async def _refusal(self, item: Pending, tool: Tool, values: dict[str, Any]) -> str | None:
        """What the model is told of a call that a person did not allow; None: it may run."""
        key = (item.reply, item.index)
        async with self._asking:
            state = self._state()
            given = state.approvals.get(key)
            if given is None:
                try:
                    why = policy.reason(tool, values, state)
                except UserError as error:
                    return str(error)
                if why is None:
                    return None
                if self._approve is None:
                    return NOBODY
                allowed = await self._approve(item.call, why)
                given = self._append(Approval(reply=item.reply, index=item.index, allowed=allowed, why=why))
            return None if given.allowed else REFUSED

    def _beside_others(self, name: str) -> bool:
        tool = self._tools.get(name)
        return tool is not None and (tool.idempotent or tool.parallel)


def abandon(log: Log) -> None:
    """Calls of a turn that was stopped are not made later, when something else was asked."""
    for item in State.of(log.events).pending():
        log.append(
            ToolFinished(
                reply=item.reply,
                index=item.index,
                id=item.call.id,
                name=item.call.name,
                content=STOPPED,
                is_error=True,
                seconds=0.0,
            )
        )


def _origin(tool: Tool, result: ToolResult) -> Literal["", "outside", "private", "both"]:
    outside = tool.untrusted or result.source.startswith(("http://", "https://"))
    if outside and tool.private:
        return "both"
    return "outside" if outside else "private" if tool.private else ""
