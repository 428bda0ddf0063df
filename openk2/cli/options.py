"""The options of every command that begins a run, and the setup that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.cli import settings
from openk2.errors import UserError

if TYPE_CHECKING:
    from openk2.agent.setup import Setup

MODES = ("chat", "agent", "heavy")
EFFORTS = ("low", "medium", "high", "max")
MERGES = ("agent", "vote", "evidence", "reflect", "rsa")


def _price(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[float, float, float] | None:
    if value is None:
        return None
    try:
        prices = tuple(float(part) for part in value.split(","))
    except ValueError:
        prices = ()
    if len(prices) == 2:
        prices = (prices[0], prices[0], prices[1])
    if len(prices) != 3 or not all(0 <= price < float("inf") for price in prices):
        raise UserError(f"--price is US dollars for a million tokens: IN,CACHED,OUT as in 0.6,0.15,2.5; not {value!r}.")
    return prices  # type: ignore[return-value]


def _names(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def _option(*names: str, **declared: Any) -> Callable[[Any], Any]:
    variable = "OPENK2_" + names[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **declared)


_SETUP = (
    _option("--mode", type=click.Choice(MODES), default="agent", show_default=True,
            help="agent uses tools, chat only answers, heavy takes several paths at once and merges them."),
    _option("--docs", multiple=True, type=click.Path(), metavar="PATH",
            help="Files or folders to search instead of the embedded library; may be given several times."),
    _option("--model", help="nano (embedded), a checkpoint folder, SERVICE:NAME, or a name at --base-url."),
    _option("--base-url", help="An OpenAI-compatible server, as http://localhost:8000/v1."),
    _option("--api", type=click.Choice(["chat", "responses", "anthropic"]),
            help="What the server speaks, where its host does not tell."),
    _option("--fallback", metavar="MODEL", help="SERVICE:NAME that takes over when the model is unavailable."),
    _option("--effort", type=click.Choice(EFFORTS), help="How much to think, act and doubt."),
    _option("--steps", type=click.IntRange(1), help="Most replies of the model. [300]"),
    _option("--max-tokens", type=click.IntRange(1), help="Most tokens it may write."),
    _option("--max-seconds", type=click.FloatRange(0, min_open=True), help="Most seconds to work."),
    _option("--max-cost", type=click.FloatRange(0, min_open=True), metavar="DOLLARS", help="Most US dollars to spend."),
    _option("--price", metavar="IN,CACHED,OUT", callback=_price,
            help="US dollars for a million tokens, where the price is not known or another."),
    _option("--web", is_flag=True, help="Search and read the web beside the documents."),
    _option("--tools", "tools_extra", metavar="NAMES", callback=_names, help="More tools, separated by commas."),
    _option("--no-mcp", is_flag=True, help="Without the MCP servers of the settings file."),
    _option("--memory", is_flag=True, help="Let it search your earlier runs."),
    _option("--private", is_flag=True, help="Never let a later run find this one."),
    _option("--paths", type=click.IntRange(1), default=8, show_default=True, help="Paths of heavy mode."),
    _option("--merge", type=click.Choice(MERGES), default="agent", show_default=True,
            help="How heavy mode makes one answer of them."),
    _option("--agree", type=click.IntRange(0),
            help="So many paths that agree end the others; 0: never. [three quarters of them]"),
)  # fmt: skip


def together(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """One decorator that gives a command all of `options`, in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


setup_options = together(_SETUP)


def yes_option(function: Any) -> Any:
    return _option("--yes", is_flag=True, help="Allow every call that would ask you first.")(function)


def documents(given: tuple[str, ...]) -> tuple[str, ...]:
    """Absolute paths: a run may be resumed from another folder. Raises UserError for one that is not there."""
    places = [Path(path).expanduser().absolute() for path in given]
    for name, place in zip(given, places, strict=True):
        if not name or not place.exists():  # an empty path would be the folder we stand in
            raise UserError(f"There is no file or folder {name or repr(name)}; correct --docs.")
    return tuple(map(str, places))


def model_name(name: str | None, base_url: str | None) -> str | None:
    """A checkpoint folder as an absolute path; every other name as it is."""
    if name and name != "nano" and not base_url and Path(name).expanduser().is_dir():
        return str(Path(name).expanduser().absolute())
    return name


def setup_of(
    *, docs: tuple[str, ...], model: str | None, base_url: str | None, no_mcp: bool = False, **given: Any
) -> Setup:
    """The setup of the options; `given` are fields of Setup by their names."""
    from openk2.agent.parts import BESIDE
    from openk2.agent.setup import Setup
    from openk2.tools import ALL

    for name in given.get("tools_extra", ()):
        if name not in ALL and name not in BESIDE:
            raise UserError(f"There is no tool {name!r}; --tools takes {', '.join((*ALL, *BESIDE))}.")
    setup = Setup(docs=documents(docs), model=model_name(model, base_url), base_url=base_url, **given)
    if no_mcp or setup.mode == "chat" or not setup.habits.steer:  # the embedded model knows its own tools alone
        return setup
    return replace(setup, mcp=tuple(server.name for server in settings.servers()))
