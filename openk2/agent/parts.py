"""What a run works with: its model, its documents, its tools; opened together, closed together."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from openk2.agent.ask_agent import NAME as ASK_AGENT
from openk2.agent.ask_agent import loop_for
from openk2.agent.calls import Approve
from openk2.agent.children import WatchTree, family
from openk2.agent.events import RunFinished
from openk2.agent.heavy import Heavy
from openk2.agent.log import Log
from openk2.agent.loop import Loop, More
from openk2.agent.setup import Setup, close
from openk2.agent.sources import Source, sources
from openk2.errors import UserError
from openk2.providers.base import Provider
from openk2.tools.base import Tool
from openk2.tools.index import Index

if TYPE_CHECKING:
    from openk2.tools.mcp import Servers, ServerSettings

BESIDE = ("memory", ASK_AGENT)  # tools that are not the toolset's


@dataclass
class Parts:
    """`own` are tools of a Python program, which no setup can name; `servers` the MCP servers of the run.

    `notes`: what a person should know of how the rest was opened, as files that were left out.
    """

    setup: Setup
    provider: Provider
    index: Index | None
    own: Mapping[str, Tool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    servers: Sequence[ServerSettings] = ()
    _mcp: Servers | None = None
    _made: dict[Path, dict[str, Tool]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        log: Log,
        *,
        provider: Provider | None = None,
        own: Mapping[str, Tool] | None = None,
        servers: Sequence[ServerSettings] = (),
    ) -> Parts:
        """The parts of the run in `log`. `provider` stands in for the one that its setup names. `servers`: how those
        that its setup names are reached; they are started by `connect`.

        Raises UserError where the model, the documents or a tool cannot be opened.
        """
        setup, own = Setup.from_json(log.started.setup), own or {}
        names = [name for name in log.started.tools if name not in own]
        _check_known(names)
        if provider is None and (setup.model or "").startswith("program:"):
            raise UserError("This run has the model of a Python program; go on with it there: Agent(...).resume(RUN).")
        notes: list[str] = []

        opening: Future[Index | None] = Future()

        def opened() -> None:
            try:
                left_out = lambda path, why: notes.append(f"left out: {path} {why}")  # noqa: E731
                opening.set_result(setup.index(left_out) if _searches(names) else None)
            except BaseException as error:
                opening.set_exception(error)

        # The documents are read while the model loads; a thread that Ctrl-C need not wait for.
        threading.Thread(target=opened, daemon=True).start()
        provider = provider or setup.provider()
        index = opening.result()
        named = [server for server in servers if server.name in setup.mcp]
        lost = sorted(set(setup.mcp) - {server.name for server in named})
        notes += [f"the MCP server {name} is not in the settings any more" for name in lost]
        parts = cls(setup, provider, index, own, notes, named)
        parts._made[log.folder] = parts._make(log)
        return parts

    async def connect(self, log: Log) -> None:
        """Start the MCP servers, in the event loop that the run will use; one that fails is a note."""
        if not self.servers or self._mcp is not None:
            return
        from openk2.tools.mcp import Servers

        self._mcp = await Servers.start(self.servers, log.workspace)
        self.notes += self._mcp.problems
        self._made[log.folder] = self._with_servers(self._made[log.folder])

    def worker(
        self,
        log: Log,
        *,
        watch: WatchTree = lambda _name, _item: None,
        approve: Approve | None = None,
        more: More | None = None,
    ) -> Loop | Heavy:
        """What does the work: in heavy mode several paths and their merge, else one loop."""
        begin = Heavy if self.setup.mode == "heavy" else loop_for
        return begin(log, self.provider, self.tools, watch=watch, approve=approve, more=more)

    def tools(self, log: Log) -> Mapping[str, Tool]:
        """The tools of one run. Those of the run itself are kept, so that Python's variables last from turn to turn;
        those of its children are theirs to close.
        """
        if log.folder in self._made:
            return self._made[log.folder]
        made = self._make(log)
        if log.started.tools:  # a merge may have none
            made = self._with_servers(made)
        return {name: replace(tool, close=None) if name in self.own else tool for name, tool in made.items()}

    def sources(self, log: Log, end: RunFinished) -> list[Source]:
        """The lines that the answer cites, whichever run of the family read them."""
        return sources(end.answer, family(log.folder, log.events), self.index)

    async def close_tools(self) -> None:
        """The provider stays open."""
        for made in self._made.values():
            await close(*(tool for name, tool in made.items() if name not in self.own))
        self._made.clear()
        await close(self._mcp)
        self._mcp = None

    async def aclose(self) -> None:
        await self.close_tools()
        await close(self.provider)

    def _with_servers(self, made: dict[str, Tool]) -> dict[str, Tool]:
        """The tools, and those of the MCP servers behind them."""
        if self._mcp is None:
            return made
        from openk2.tools.many_tools import offered

        theirs = offered(self._mcp.tools, len(made))
        return made | {name: tool for name, tool in theirs.items() if name not in made}

    def _make(self, log: Log) -> dict[str, Tool]:
        names = [name for name in log.started.tools if name not in self.own and name != ASK_AGENT]
        made = {**self.setup.tools(names, self.index, log.workspace, log.events), **self.own}
        return {name: made[name] for name in log.started.tools if name in made}


def _searches(names: list[str]) -> bool:
    from openk2.tools import SEARCHING

    return any(name in SEARCHING for name in names)


def _check_known(names: list[str]) -> None:
    from openk2.tools import ALL

    foreign = [name for name in names if name not in ALL and name not in BESIDE]
    if foreign:
        raise UserError(
            f"This run has the tool {foreign[0]} of a Python program; go on with it there: Agent(...).resume(RUN)."
        )
