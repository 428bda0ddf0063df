"""Everything a run is made of, as data that its log keeps: a run that is resumed is built from it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openk2 import __version__
from openk2.agent import prompts
from openk2.agent.budget import Budget
from openk2.agent.events import Event, RunStarted, ToolStarted
from openk2.agent.habits import Habits
from openk2.errors import UserError
from openk2.paths import NANO
from openk2.providers.base import Provider
from openk2.tools.base import Tool
from openk2.tools.index import Index

if TYPE_CHECKING:
    from openk2.tools.web import Web

TOOLS = ("search", "open", "find", "calculator", "python", "plan")
JOURNAL = "python.jsonl"  # in the run's folder: what Python has run, to rebuild its state from
STEPS = 300  # replies; what K2 Thinking was measured with
Mode = Literal["chat", "agent", "heavy"]


@dataclass(frozen=True, slots=True)
class Effort:
    """One dial for both kinds of test-time work: thinking tokens a step, and actions; and how an answer is doubted."""

    steps: int
    thinking: int
    revisions: int
    doubt: bool


# `max` is what K2 Thinking was measured with on agentic search: 300 steps, 24k tokens of thinking a step.
EFFORTS = {
    "low": Effort(20, 2048, 0, False),
    "medium": Effort(60, 8192, 1, False),
    "high": Effort(150, 16_384, 2, True),
    "max": Effort(STEPS, 24_576, 3, True),
}
NO_EFFORT = 1  # revisions where nobody turned the dial


async def close(*parts: object) -> None:
    """End what providers and tools keep open: connections, processes."""
    for part in parts:
        if ending := getattr(part, "aclose", None):
            await ending()


@dataclass(frozen=True)
class Setup:
    """`model` is `nano`, a checkpoint folder, a name served at `base_url`, or `SERVICE:NAME`; None takes what is there.

    `api`: what the server speaks, where its host does not tell. `effort` is one of EFFORTS; `steps` overrides its own.
    `price`: US dollars for a million tokens read, read from a cache, written. `fallback`: a model that takes over when
    the first is unavailable. `web`: the web is searched and read beside the documents. `memory`: earlier runs may be
    searched; `private`: this run is never found so. `mcp`: names of servers whose tools it has. `paths`, `merge`: heavy
    mode; when `agree` paths agree the others are ended (None: three quarters of them, 0: never).
    """

    mode: Mode = "agent"
    model: str | None = None
    base_url: str | None = None
    docs: tuple[str, ...] = ()
    steps: int | None = None
    max_tokens: int | None = None
    max_seconds: float | None = None
    max_cost: float | None = None
    effort: str | None = None
    api: str | None = None
    price: tuple[float, float, float] | None = None
    fallback: str | None = None
    tools_extra: tuple[str, ...] = ()
    web: bool = False
    memory: bool = False
    private: bool = False
    mcp: tuple[str, ...] = ()
    paths: int = 8
    merge: str = "agent"
    agree: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Setup:
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        listed = {name: tuple(values[name]) for name in ("docs", "price", "tools_extra", "mcp") if values.get(name)}
        return cls(**{**values, **listed})

    @property
    def served(self) -> bool:
        """Whether the model stands behind a service: at `base_url`, or named `SERVICE:NAME`."""
        return bool(self.base_url) or ":" in (self.model or "")

    @cached_property
    def folder(self) -> Path | None:
        """The checkpoint folder; None for a served model. Raises UserError where the model is not to be found."""
        if self.served:
            return None
        name = self.model or "nano"
        if name == "nano":
            if not (NANO / "config.json").exists():
                raise UserError(
                    "The embedded model is not in this checkout; name a checkpoint folder with --model"
                    " or a server with --base-url."
                )
            return NANO
        folder = Path(name)
        if (folder / "config.json").is_file():
            return folder
        if folder.is_dir():
            raise UserError(f"{folder} is not a checkpoint folder: it has no config.json.")
        raise UserError(
            f"There is no model {name!r}: it is neither `nano` nor a checkpoint folder;"
            " a served model needs --base-url."
        )

    @cached_property
    def profile(self) -> dict[str, Any]:
        """What the checkpoint says of its own use (`openk2.json`): system prompt, tools, temperature."""
        if self.folder is None:
            return {}
        from openk2.model.checkpoint import profile_of

        return profile_of(self.folder)

    def started(self, run: str, question: str, *, parent: str = "") -> RunStarted:
        """The first event of a run with this setup. Raises UserError for a model that cannot do without its tools."""
        if self.mode == "chat" and self.profile.get("tools") and not self.habits.steer:
            raise UserError(
                "This model only answers with its tools; leave --mode chat out, or connect a larger model with --model."
            )
        effort = EFFORTS.get(self.effort or "")
        steps = self.steps or self.steps_of_one * (self.paths + 1 if self.mode == "heavy" else 1)
        budget = Budget(steps, self.max_tokens, effort.thinking if effort else None, self.max_seconds, self.max_cost)
        limits: dict[str, Any] = {} if self.served else {"seed": 0}  # a resumed run samples what it would have sampled
        if self.effort:
            limits["effort"] = self.effort
        return RunStarted(
            run=run,
            question=question,
            system=self.profile.get("system") or prompts.system(self.mode, self.tool_names),
            tools=self.tool_names,
            setup=self.to_json(),
            budget=budget.to_json(),
            limits=limits,
            habits=self.habits.to_json(),
            parent=parent,
            version=__version__,
        )

    @property
    def steps_of_one(self) -> int:
        """The most steps of one run; heavy mode has several, and shares what is given to all of them."""
        effort = EFFORTS.get(self.effort or "")
        return effort.steps if effort else STEPS

    @property
    def habits(self) -> Habits:
        if not self.profile.get("steer", True):
            return Habits(steer=False)
        if self.mode == "chat":
            return Habits()
        effort = EFFORTS.get(self.effort or "")
        return Habits(revisions=effort.revisions if effort else NO_EFFORT, doubt=bool(effort and effort.doubt))

    @property
    def tool_names(self) -> tuple[str, ...]:
        if self.mode == "chat":
            return ()
        wished = (*(["fetch"] if self.web else []), *(["memory"] if self.memory else []))
        return tuple(dict.fromkeys((*(self.profile.get("tools") or TOOLS), *wished, *self.tools_extra)))

    def provider(self) -> Provider:
        """Raises UserError for a checkpoint that cannot be loaded, and for a service that is not known."""
        if self.served:
            from openk2.providers import connect
            from openk2.providers.base import Price

            price = Price(*self.price) if self.price else None
            other = connect(self.fallback) if self.fallback else None
            return connect(self.model, self.base_url, api=self.api, price=price, fallback=other)  # type: ignore[arg-type]
        assert self.folder is not None
        from openk2.providers.local import LocalProvider

        try:
            return LocalProvider(self.folder)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"The checkpoint at {self.folder} cannot be loaded: {error}.") from None

    def index(self, on_skip: Callable[[Path, str], None] | None = None) -> Index | None:
        """The documents that the tools search: the person's own, else the embedded library.

        `on_skip` is told of each file that is left out, and why.
        """
        if self.mode == "chat":
            return None
        if self.docs:
            from openk2.tools.documents import index

            return index([Path(path) for path in self.docs], on_skip=on_skip)
        from openk2 import library

        return library.index()

    def tools(
        self, names: Sequence[str], index: Index | None, workspace: Path, events: Sequence[Event] = ()
    ) -> dict[str, Tool]:
        """The tools called `names`. `events` tells what an earlier process of this run has left behind."""
        if not names:
            return {}
        from openk2.tools import toolset

        ran = any(isinstance(event, ToolStarted) and event.name == "python" for event in events)
        page = self.profile.get("page_chars")
        made = toolset(
            [name for name in names if name != "memory"],
            index=index,
            workspace=workspace,
            page_chars=page,
            journal=workspace.parent / JOURNAL,
            resumed=ran,
            web=self.open_web(workspace.parent) if self.web else None,
            read_only=[Path(path) for path in self.docs],
            private=bool(self.docs),
        )
        if "memory" in names:
            from openk2.agent.memory import memory_tool

            first = events[0] if events else None
            within = first.run.count("/") if isinstance(first, RunStarted) else 0
            made["memory"] = memory_tool([workspace.parent, *workspace.parent.parents][within])
        return {name: made[name] for name in names}

    def open_web(self, run: Path) -> Web:
        """The web for the run in folder `run`; without the key of a search engine its pages are read, not searched."""
        from openk2.tools.web import Web
        from openk2.tools.web_search import engine

        try:
            searching = engine()
        except UserError:
            searching = None
        return Web(searching, pages=run / "pages")
