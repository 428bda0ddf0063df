"""`ask_agent(task)`: a part of the work given to a run of its own, whose answer comes back with its sources.

The helper has the tools of the run that asks, a fresh memory and a slice of its budget; its log is `RUN/children/N/`.
A call that was interrupted goes on where its helper stopped.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from openk2.agent.budget import Budget, Ledger
from openk2.agent.calls import Approve
from openk2.agent.children import (
    Host,
    ToolsFor,
    WatchTree,
    begin,
    charge,
    ended,
    finish,
    keep_back,
    record,
    unsaid,
    used,
)
from openk2.agent.events import ChildFinished, ChildStarted
from openk2.agent.log import Log
from openk2.agent.loop import Loop, More
from openk2.agent.sources import cited, shown_lines
from openk2.chat.messages import ToolCall
from openk2.errors import UserError
from openk2.providers.base import Provider
from openk2.tools.base import Tool, ToolError, tool

NAME = "ask_agent"
DEPTH = 2  # helpers of helpers, no further
SLICE = 4  # a helper gets this part of what is left
LEAST_STEPS = 2

_LINE = re.compile(r"^\[", re.MULTILINE)


def loop_for(
    log: Log,
    provider: Provider,
    tools: ToolsFor,
    *,
    more_tools: Mapping[str, Tool] | None = None,
    watch: WatchTree = lambda _name, _item: None,
    approve: Approve | None = None,
    more: More | None = None,
    ledger: Ledger | None = None,
    depth: int = 0,
) -> Loop:
    """The loop of a run with all its tools, `ask_agent` among them where the log names it."""
    if approve is not None and depth == 0:
        approve = _one_at_a_time(approve)
    helpers = Helpers(provider, tools, watch, approve, depth) if NAME in log.started.tools and depth < DEPTH else None
    own = {NAME: helpers.tool()} if helpers else {}
    loop = Loop(
        log,
        provider,
        {**tools(log), **own, **(more_tools or {})},
        watch=lambda item: watch("", item),
        approve=approve,
        more=more,
        ledger=ledger,
    )
    if helpers:
        helpers.attach(loop)
    return loop


def tool_of(ask: Callable[[str], Awaitable[str]]) -> Tool:
    """The tool over what asks a helper."""

    @tool(name=NAME, idempotent=True)
    async def ask_agent(task: str) -> str:
        """Give a part of the work to a helper: an agent with the same tools that knows nothing but the task.

        It returns an answer with the lines it rests on. Several calls in one reply work at the same time.

        Args:
            task: The whole task, with every name and figure that it needs.
        """
        return await ask(task)

    return replace(ask_agent, timeout=None)


class Helpers:
    """The helpers of one run."""

    def __init__(
        self, provider: Provider, tools: ToolsFor, watch: WatchTree, approve: Approve | None, depth: int
    ) -> None:
        self._provider, self._tools, self._watch, self._approve = provider, tools, watch, approve
        self._depth = depth
        self._host: Loop | None = None
        self._taken: set[str] = set()

    def attach(self, loop: Loop) -> None:
        """The run that asks. Helpers whose answers it has are not given to later calls."""
        self._host = loop
        results = loop.state.results
        answered = Counter(
            _task(reply.message.tool_calls[index].arguments)
            for reply in loop.state.replies
            for index in range(len(reply.message.tool_calls))
            if (reply.seq, index) in results and reply.message.tool_calls[index].name == NAME
        )
        for event in loop.log.events:
            if isinstance(event, ChildStarted) and answered[event.task] > 0:
                answered[event.task] -= 1
                self._taken.add(event.child)

    def tool(self) -> Tool:
        return tool_of(self.ask)

    async def ask(self, task: str) -> str:
        host = self._host
        assert host is not None
        if not task.strip():
            raise ToolError("The task is empty; write what the helper is to find out.")
        name = self._name(host, task)
        known = host.state.children.get(name)
        if isinstance(known, ChildFinished):
            return known.answer
        budget = _slice(host.ledger)
        if budget.steps is not None and budget.steps < LEAST_STEPS:
            raise ToolError("The budget of this run leaves no room for a helper; do it yourself.")
        started = replace(
            host.log.started,
            run=f"{host.log.started.run}/children/{name}",
            parent=host.log.started.run,
            question=task,
            budget=budget.to_json(),
            outside=host.state.outside,
            private=host.state.private,
        )
        folder = f"children/{name}"
        before = used(host.log.folder / folder)
        with begin(host, name, folder, started, task) as log:
            charge(host.ledger, before)
            loop = loop_for(
                log,
                self._provider,
                self._tools,
                watch=lambda child, item: self._watch(f"{name}/{child}" if child else name, item),
                approve=self._approve,
                ledger=host.ledger,
                depth=self._depth + 1,
            )
            keep_back(host.ledger, int(loop.state.habits.steer))
            try:
                end = await finish(loop)
            except UserError:
                record(host, ended(name, loop.state, "error", ""))  # what it used counts
                raise
            finally:
                keep_back(host.ledger, -unsaid(loop))
            answer = with_lines(end.answer, log)
        record(host, ended(name, loop.state, end.reason, answer))
        return answer

    def _name(self, host: Host, task: str) -> str:
        """A helper that was begun for such a call and not used, else a new one. Nobody else gets it meanwhile."""
        begun = [event for event in host.log.events if isinstance(event, ChildStarted)]
        failed = {e.child for e in host.log.events if isinstance(e, ChildFinished) and e.reason == "error"}
        gone = self._taken | failed
        mine = next((event.child for event in begun if event.task == task and event.child not in gone), None)
        name = mine or str(1 + max((int(child) for child in {*self._taken, *(e.child for e in begun)}), default=0))
        self._taken.add(name)
        return name


def _one_at_a_time(approve: Approve) -> Approve:
    """Helpers work at the same time; the person is asked one thing after another."""
    asking = asyncio.Lock()

    async def ask(call: ToolCall, why: str) -> bool:
        async with asking:
            return await approve(call, why)

    return ask


def with_lines(answer: str, log: Log) -> str:
    """The answer, and below it the lines that it cites, as the helper's tools have shown them."""
    shown = shown_lines(log.events)
    answer = _LINE.sub(" [", answer)  # only what tools have shown stands as a line
    lines = [f"[{id}:{line}] {shown[id, line]}" for id, line in cited(answer) if (id, line) in shown]
    return "\n".join([answer, "", *lines]) if lines else answer


def _slice(ledger: Ledger) -> Budget:
    """A part of what the run that asks, and what it is a part of, have left; None is without limit."""

    def part(axis: str) -> float | None:
        left: list[float] = []
        at: Ledger | None = ledger
        while at is not None:
            limit = getattr(at.budget, axis)
            left += [] if limit is None else [max(0.0, limit - getattr(at, axis))]
            at = at.parent
        return min(left) / SLICE if left else None

    steps, tokens = part("steps"), part("tokens")
    return Budget(
        steps=None if steps is None else int(steps),
        tokens=None if tokens is None else int(tokens),
        thinking=ledger.budget.thinking,
        seconds=part("seconds"),
        money=part("money"),
    )


def _task(arguments: str) -> str:
    try:
        data: Any = json.loads(arguments)
    except ValueError:
        return ""
    return str(data.get("task", "")) if isinstance(data, dict) else ""
