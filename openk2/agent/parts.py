"""What a run works with: its model, its documents, its tools; opened together, closed together."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from openk2.agent.calls import Approve
from openk2.agent.log import Log
from openk2.agent.loop import Loop, More, Watch
from openk2.agent.setup import Setup, close
from openk2.errors import UserError
from openk2.providers.base import Provider
from openk2.tools.base import Tool
from openk2.tools.index import Index


@dataclass
class Parts:
    """`notes`: what a person should know of how they were opened, as files that were left out."""

    provider: Provider
    index: Index | None
    tools: dict[str, Tool]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, log: Log, *, provider: Provider | None = None, own: Mapping[str, Tool] | None = None) -> Parts:
        """The parts of the run in `log`. `provider` stands in for the one its setup names; `own` are tools of a
        Python program, which no setup can name.

        Raises UserError where the model, the documents or a tool cannot be opened.
        """
        setup, own = Setup.from_json(log.started.setup), own or {}
        names = [name for name in log.started.tools if name not in own]
        _check_known(names)
        notes: list[str] = []

        def opened() -> Index | None:
            if not _searches(names):
                return None
            return setup.index(lambda path, why: notes.append(f"left out: {path} {why}"))

        with ThreadPoolExecutor(1) as pool:  # the documents are read while the model loads
            opening = pool.submit(opened)
            provider = provider or setup.provider()
            index = opening.result()
        made = {**setup.tools(names, index, log.workspace, log.events), **own}
        return cls(provider, index, {name: made[name] for name in log.started.tools}, notes)

    def worker(
        self,
        log: Log,
        *,
        watch: Watch = lambda _: None,
        approve: Approve | None = None,
        more: More | None = None,
    ) -> Loop:
        """What does the work: in heavy mode several paths and their merge, else one loop."""
        return Loop(log, self.provider, self.tools, watch=watch, approve=approve, more=more)

    async def aclose(self) -> None:
        await close(self.provider, *self.tools.values())


def _searches(names: list[str]) -> bool:
    from openk2.tools import SEARCHING

    return any(name in SEARCHING for name in names)


def _check_known(names: list[str]) -> None:
    from openk2.tools import ALL

    foreign = [name for name in names if name not in ALL and name != "memory"]
    if foreign:
        raise UserError(
            f"This run has the tool {foreign[0]} of a Python program; go on with it there: Agent(...).resume(RUN)."
        )
