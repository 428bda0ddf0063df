"""The agent for Python programs: `Agent(...).run(question) -> Answer`.

Every answer is a run on disk like those of the command line: `k2 runs` shows, resumes, replays and exports it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_args

from openk2.agent.background import Background
from openk2.agent.calls import abandon
from openk2.agent.events import BudgetSpent, Event, RunFinished, RunReason, UserSaid
from openk2.agent.export import messages
from openk2.agent.log import Log, new_id, read, runs_dir
from openk2.agent.parts import Parts
from openk2.agent.setup import Mode, Setup, close
from openk2.agent.sources import Source
from openk2.agent.structured import Form
from openk2.chat.messages import Message, ToolCall
from openk2.errors import UserError
from openk2.providers.base import Delta, Provider, Usage
from openk2.tools.base import Tool, tool
from openk2.tools.mcp import settings as servers_of

T = TypeVar("T")
Approve = Callable[[ToolCall, str], bool | Awaitable[bool]]
More = Callable[[BudgetSpent], float | Awaitable[float | None] | None]


@dataclass(frozen=True)
class Answer(Generic[T]):
    """`text` with its `sources`; `output` where a type was asked for. `reason` says why the run ended.

    `run` is its name for `k2 runs`, `folder` where it stands on disk.
    """

    text: str
    sources: list[Source]
    run: str
    folder: Path
    reason: RunReason
    steps: int
    usage: Usage
    seconds: float
    output: T

    def __str__(self) -> str:
        return self.text

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, thinking and calls included."""
        return messages(read(self.folder))


class Agent:
    """A model with tools, documents and budgets. Safe to use again and again, and to ask several things at once.

    `model` is `nano` (the embedded one, the default), a checkpoint folder, `SERVICE:NAME`, or a name at `base_url`.
    `tools` are names of built-in tools, functions with types and a docstring, and `Tool`s; None takes the usual ones.
    `docs` are files and folders to search. `approve(call, why)` is asked before calls that need a person's word,
    `more(spent)` when a budget is used up; both may be async. `mcp` are MCP servers by name, as the tables of the
    settings file: {"notes": {"url": "https://..."}}. `provider` takes the place of `model`. Budgets and the
    other settings are those of `k2 ask`.

    Raises UserError, here and later, for what the caller can mend.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        tools: Sequence[str | Tool | Callable[..., Any]] | None = None,
        docs: Sequence[str | Path] = (),
        system: str | None = None,
        provider: Provider | None = None,
        approve: Approve | None = None,
        more: More | None = None,
        run_dir: str | Path | None = None,
        mcp: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        places = [Path(path).expanduser().absolute() for path in docs]
        for place in places:
            if not place.exists():
                raise UserError(f"There is no file or folder {place}; correct docs.")
        unknown = sorted(set(settings) - set(Setup.__dataclass_fields__))
        if unknown:
            known = ", ".join(sorted(set(Setup.__dataclass_fields__) - {"docs", "tools_extra", "mcp"}))
            raise UserError(f"An Agent has no setting {unknown[0]!r}; it has {known}.")
        if provider is not None and not (model or base_url):
            model = f"program:{provider.name}"  # so that nothing is taken for the embedded model's
        self._servers = servers_of(mcp) if mcp else []
        names = tuple(server.name for server in self._servers)
        self.setup = Setup(model=model, base_url=base_url, docs=tuple(map(str, places)), mcp=names, **settings)
        if self.setup.mode not in get_args(Mode):
            raise UserError(f"There is no mode {self.setup.mode!r}; choose from {', '.join(get_args(Mode))}.")
        for axis in ("steps", "max_tokens", "max_seconds", "max_cost"):
            limit = getattr(self.setup, axis)
            if limit is not None and not limit > 0:
                raise UserError(f"{axis} is more than 0, or None for no limit of its own; not {limit}.")
        self._names: tuple[str, ...] | None = None
        self._own: dict[str, Tool] = {}
        if tools is not None:
            made = [item if isinstance(item, str | Tool) else tool(item) for item in tools]
            self._own = {item.name: item for item in made if isinstance(item, Tool)}
            self._names = tuple(item if isinstance(item, str) else item.name for item in made)
        self._system, self._given, self._approve, self._more = system, provider, approve, more
        self._root = Path(run_dir).expanduser() if run_dir else None
        self._local: Provider | None = None
        self._served: dict[asyncio.AbstractEventLoop, Provider] = {}
        self._background: Background | None = None

    # For programs without an event loop.

    def run(self, question: str, *, output: type[T] | None = None, tries: int = 3) -> Answer[T]:
        """The answer to `question`. With `output` it is data of that type, asked for at most `tries` times."""
        return self._back().run(self.arun(question, output=output, tries=tries))

    def resume(self, run: str | Path) -> Answer[None]:
        """Go on with a run of this agent's tools and model that was stopped: its name, or its folder."""
        return self._back().run(self.aresume(run))

    def stream(self, question: str) -> Iterator[Event | Delta]:
        """What happens, as it happens; the last is `RunFinished`. Leaving early stops the run; it can be resumed."""
        return self._back().each(self.astream(question))

    def chat(self) -> Chat:
        """A conversation: what is said in it stands in one run."""
        return Chat(self)

    def close(self) -> None:
        """End what is kept open between runs."""
        if self._background is not None:
            self._background.run(self.aclose())
            self._background.close()
            self._background = None

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For programs with one.

    async def arun(self, question: str, *, output: type[T] | None = None, tries: int = 3) -> Answer[T]:
        form = Form(output) if output is not None else None
        if form is not None and not self.setup.habits.steer:
            raise UserError("The embedded model writes no JSON; name a larger one for answers of a type.")
        with self._begin(form.request(question) if form else question) as log:
            return await self._answer(log, form, tries)

    async def aresume(self, run: str | Path) -> Answer[None]:
        folder = Path(run) if Path(run).is_absolute() else self.root / run
        with Log.open(folder) as log:
            return await self._answer(log, None, 1)

    async def astream(self, question: str) -> AsyncIterator[Event | Delta]:
        arrived: asyncio.Queue[Event | Delta | None] = asyncio.Queue()
        with self._begin(question) as log:
            arrived.put_nowait(log.started)
            task = asyncio.create_task(self._work(log, arrived.put_nowait))
            task.add_done_callback(lambda _: arrived.put_nowait(None))
            try:
                while (item := await arrived.get()) is not None:
                    yield item
                await task
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError, UserError):
                    await task

    async def aclose(self) -> None:
        here = asyncio.get_running_loop()
        await close(*filter(None, [self._local, self._served.pop(here, None)]))
        self._local = None

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def root(self) -> Path:
        """The folder of the runs."""
        return self._root or runs_dir()

    # How it is done.

    def _begin(self, question: str) -> Log:
        if not question.strip():
            raise UserError("The question is empty.")
        started = self.setup.started(new_id(), question)
        names = started.tools if self._names is None else self._names
        own = {"system": self._system} if self._system is not None else {}
        started = replace(started, tools=names, **own)
        log = Log.create(self.root / started.run)
        log.append(started)
        return log

    async def _answer(self, log: Log, form: Form[T] | None, tries: int) -> Answer[T]:
        """Work on the run until its answer has the form."""
        for attempt in range(1, tries + 1):
            end, found = await self._work(log)
            if form is None:
                return self._as_answer(log, end, found, cast(T, None))
            try:
                return self._as_answer(log, end, found, form.read(end.answer))
            except ValueError as error:
                if end.reason != "stop" or attempt == tries:
                    raise UserError(
                        f"The model gave no answer of the type ({error}); the run is {log.folder}."
                    ) from None
                log.append(UserSaid(text=form.complaint(str(error))))
        raise UserError("`tries` is a number from 1 on.")

    async def _work(
        self, log: Log, watch: Callable[[Event | Delta], None] = lambda _: None
    ) -> tuple[RunFinished, list[Source]]:
        parts = await asyncio.to_thread(
            Parts.open, log, provider=self._provider(), own=self._own, servers=self._servers
        )
        try:
            await parts.connect(log)
            worker = parts.worker(
                log,
                watch=lambda name, item: None if name else watch(item),
                approve=_awaited(self._approve) if self._approve else None,
                more=_awaited(self._more) if self._more else None,
            )
            end = await worker.run()
            return end, parts.sources(log, end)
        finally:
            await parts.close_tools()

    def _as_answer(self, log: Log, end: RunFinished, found: list[Source], output: T) -> Answer[T]:
        return Answer(
            end.answer, found, log.started.run, log.folder, end.reason, end.steps, end.usage, end.seconds, output
        )

    def _provider(self) -> Provider:
        """One for all runs; of a service one for each event loop, because connections belong to theirs."""
        if self._given is not None:
            return self._given
        if not self.setup.served:
            self._local = self._local or self.setup.provider()
            return self._local
        here = asyncio.get_running_loop()
        for loop in [loop for loop in self._served if loop.is_closed()]:
            del self._served[loop]
        if here not in self._served:
            self._served[here] = self.setup.provider()
        return self._served[here]

    def _back(self) -> Background:
        self._background = self._background or Background()
        return self._background


class Chat:
    """A conversation with an agent. Use it with `with`, or close it: its log is held open."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._log: Log | None = None

    def say(self, text: str) -> Answer[None]:
        return self._agent._back().run(self.asay(text))

    async def asay(self, text: str) -> Answer[None]:
        if self._log is None:
            self._log = self._agent._begin(text)
        else:
            abandon(self._log)  # of a turn that failed
            self._log.append(UserSaid(text=text))
        return await self._agent._answer(self._log, None, 1)

    @property
    def run(self) -> str:
        """The run's name; empty before anything was said."""
        return self._log.started.run if self._log else ""

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _awaited(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A function of the program's, sync or async, as an async one."""

    async def call(*args: Any) -> Any:
        result = function(*args)
        return await result if inspect.isawaitable(result) else result

    return call
