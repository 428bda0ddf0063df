"""What a measurement gives: one object for programs and a table for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from openk2 import __version__
from openk2.bench import machine
from openk2.errors import UserError

VERSION = 1  # of the object's form
Row = dict[str, Any]
Cell = Callable[[Row], str]


@dataclass
class Report:
    """`rows` are what was measured, `left_out` what was not and why, `notes` sentences about how to read it."""

    bench: str
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=machine.describe)
    systems: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False  # whether something is wrong, not only slow
    started: float = field(default_factory=time.monotonic)

    def leave_out(self, sentence: str) -> None:
        if sentence not in self.left_out:
            self.left_out.append(sentence)

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def to_json(self) -> dict[str, Any]:
        return {
            "bench": self.bench, "version": VERSION, "openk2": __version__, "machine": self.machine,
            "settings": self.settings, "systems": self.systems, "rows": self.rows, "left_out": self.left_out,
            "notes": self.notes, "failed": self.failed, "seconds": round(time.monotonic() - self.started, 1),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """The object, to a file. Raises UserError when it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} could not be written ({error}); name another file with --out.") from None

    def show(self, columns: Sequence[tuple[str, Cell]], groups: Sequence[str] = (), file: TextIO | None = None) -> None:
        """Print the table: a column is its title and what it says of a row; a line between rows of other `groups`."""
        from rich.console import Console
        from rich.table import Table

        console = Console(file=file, highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = 160  # what a file or another program reads is not cut
        about = self.machine
        cache = f", {size(about['cache_bytes'])} of last-level cache" if about["cache_bytes"] else ""
        console.print(f"k2 bench {self.bench}: {about['processor']}, {about['cores']} cores{cache}; {about['system']}")
        for name, said in self.systems.items():
            console.print(f"{name}: {said}", markup=False)
        table = Table(box=None, padding=(0, 1), header_style="bold")
        for i, (title, _) in enumerate(columns):
            table.add_column(title, justify="left" if i < 2 else "right", no_wrap=True)
        before: list[Any] | None = None
        for row in self.rows:
            group = [row.get(key) for key in groups]
            if before is not None and group != before:
                table.add_row()
            before = group
            table.add_row(*(cell(row) for _, cell in columns))
        console.print(table)
        for sentence in self.notes:
            console.print(sentence, markup=False)
        for sentence in self.left_out:
            console.print(f"left out: {sentence}", markup=False)


def number(value: float | None) -> str:
    """Three significant digits, thousands with commas."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes in units of a thousand."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.4g} TB"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"
