"""Heavy mode as it works: one line a path, then the merge and who agreed.

On a terminal the lines are drawn over again; otherwise each end is told once, on stderr. Text of models cannot send
control codes to the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from openk2.agent.events import (
    ChildFinished,
    ChildStarted,
    Event,
    Note,
    ReplyReceived,
    RunStopped,
    ToolFinished,
    ToolStarted,
)
from openk2.cli.terminal import call_text, clip, one_line
from openk2.providers.base import Delta

TAIL = 400  # characters of what is being written that are kept
FRAMES = 8  # a second
SIGNS = {"stop": ("✓", "green"), "error": ("✗", "red"), "cancelled": ("–", "dim"), "": ("·", "dim")}
ENDS = {"stop": "answered", "error": "failed", "cancelled": "ended, others agree", "budget": "budget used up"}


@dataclass(slots=True)
class Row:
    """A path, or the merge with all that belongs to it."""

    label: str
    steps: int = 0
    tokens: int = 0
    reason: str = ""  # how it ended
    doing: str = ""
    written: str = ""
    kind: str = ""  # of what is being written

    def take(self, item: Event | Delta, helper: str) -> None:
        if isinstance(item, Delta):
            if item.kind in ("reasoning", "content"):
                between = " " if self.kind != item.kind else ""
                self.written, self.kind = (self.written + between + item.text)[-TAIL:], item.kind
                self.doing = helper + one_line(self.written)
            return
        self.written = ""
        if isinstance(item, ReplyReceived):
            self.steps += 1
            self.tokens += item.usage.completion
        elif isinstance(item, ToolStarted):
            self.doing = f"{helper}→ {call_text(item.name, item.arguments)}"
        elif isinstance(item, ToolFinished):
            self.doing = f"{helper}→ {call_text(item.name, '{}')[:-2]}: {one_line(item.content[:TAIL])}"
        elif isinstance(item, RunStopped) and item.why != "cancelled":
            self.doing = one_line(item.why)


class Tree:
    """Watches a `Heavy`, as a context: the live lines end with it. `events`: what an earlier process has done."""

    def __init__(self, events: Iterable[Event] = (), *, quiet: bool = False, live: bool | None = None) -> None:
        self.quiet = quiet
        self.live = (sys.stdout.isatty() if live is None else live) and not quiet
        self.rows: dict[str, Row] = {}
        self.notes: list[str] = []
        self._display: Any = None
        for event in events:
            self._own(event, told=False)

    def __enter__(self) -> Tree:
        if self.live:
            from rich.console import Console
            from rich.live import Live

            console = Console(highlight=False, markup=False, emoji=False)
            self._display = Live(get_renderable=self.render, console=console, refresh_per_second=FRAMES)
            self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def watch(self, child: str, item: Event | Delta) -> None:
        """What `Heavy` is given."""
        if not child:
            self._own(item)
            return
        name, _, below = child.partition("/")
        row = self._row(name)
        row.take(item, f"helper {below}: " if below and name != "merge" else "")

    def render(self) -> Any:
        """The lines as they stand now."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for width, justify in ((1, "left"), (8, "left"), (10, "right"), (14, "right")):
            table.add_column(width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        table.expand = True
        for row in list(self.rows.values()):
            sign, style = SIGNS.get(row.reason, ("!", "yellow"))
            steps, tokens = _steps(row.steps), f"{row.tokens:,} tokens"
            what = Text(row.doing, style="" if row.reason == "stop" else "dim")
            table.add_row(Text(sign, style), Text(row.label, style="bold"), Text(steps), Text(tokens), what)
        return Group(table, *(Text(f"({note})", style="yellow") for note in list(self.notes)))

    def _own(self, item: Event | Delta, *, told: bool = True) -> None:
        """An event of the run itself."""
        if isinstance(item, ChildStarted):
            row = self._row(item.child.partition("/")[0])
            if told and item.child == "merge":
                self._tell("the paths are being merged")
            row.doing = ""
        elif isinstance(item, ChildFinished):
            name, _, below = item.child.partition("/")
            row = self._row(name)
            if not told:
                row.steps, row.tokens = row.steps + item.steps, row.tokens + item.usage.completion
            row.doing = one_line(item.answer) or row.doing
            if below:  # one of many replies of the merge
                return
            row.reason = item.reason
            if told:
                how = ENDS.get(item.reason, item.reason)
                self._tell(f"{row.label}: {how} after {_steps(item.steps)}: {clip(row.doing, 120)}")
        elif isinstance(item, Note):
            self.notes.append(one_line(item.text))
            if told:
                self._tell(one_line(item.text))

    def _row(self, name: str) -> Row:
        return self.rows.setdefault(name, Row(f"path {name}" if name.isdigit() else name))

    def _tell(self, text: str) -> None:
        if not self.live and not self.quiet:
            sys.stderr.write(f"({text})\n" if not text.startswith(("path", "merge")) else f"{text}\n")
            sys.stderr.flush()


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"
