"""Settings beside the flags: environment variables (OPENK2_MODEL and so on) and one TOML file.

A flag beats the environment, which beats `~/.config/openk2/config.toml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.errors import UserError
from openk2.paths import config_dir

if TYPE_CHECKING:
    from openk2.tools.mcp import ServerSettings

TEXTS = ("model", "base_url", "api", "fallback", "mode", "effort", "merge", "price", "tools", "run_dir")
NUMBERS = ("steps", "max_tokens", "max_seconds", "max_cost", "paths", "agree")
SWITCHES = ("no_mcp", "web", "memory", "private", "yes", "quiet")
NAMES = (*TEXTS, "docs", *NUMBERS, *SWITCHES)
TABLES = ("mcp",)  # what other commands read of the file
PARAMETERS = {"tools": "tools_extra"}  # where an option's value has another name in the program


def config_path() -> Path:
    return config_dir() / "config.toml"


def read() -> dict[str, Any]:
    """The TOML file's settings; empty where there is no file."""
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from None
    import tomllib

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from None
    if unknown := sorted(set(values) - {*NAMES, *TABLES}):
        raise UserError(f"{path} has the unknown setting {unknown[0]!r}; known are {', '.join(NAMES)}.")
    if isinstance(values.get("docs"), str):
        values["docs"] = [values["docs"]]
    for name in ("tools", "price"):
        if isinstance(values.get(name), list):
            values[name] = ",".join(map(str, values[name]))
    texts = [(name, values[name]) for name in TEXTS if name in values]
    docs = values.get("docs", [])
    texts += [("docs", entry) for entry in (docs if isinstance(docs, list) else [docs])]
    for name, value in texts:
        if not isinstance(value, str):
            raise UserError(f"{path} has {value!r} for {name}; write a text in quotes.")
    return {PARAMETERS.get(name, name): value for name, value in values.items()}


def servers() -> list[ServerSettings]:
    """The MCP servers of the file."""
    table = read().get("mcp", {})
    if not table:
        return []
    from openk2.tools.mcp import settings

    if not isinstance(table, dict):
        raise UserError(f"{config_path()} has {table!r} for mcp; servers are tables, as [mcp.notes].")
    return settings(table)


class Command(click.Command):
    """A command whose options, where no flag or variable sets them, come from the TOML file."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if not {"-h", "--help"} & set(args):
            extra.setdefault("default_map", read())
        return super().make_context(info_name, args, parent, **extra)


def run_dir_option(function: Any) -> Any:
    return click.option(
        "--run-dir",
        envvar="OPENK2_RUN_DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where runs are kept (default: the user's data folder).",
    )(function)
