"""What earlier runs asked and answered, searched by the tool `memory`.

The runs folder is the truth; the index beside the caches is made of it when it is first asked, and brought up to date
each time. A run made with `--private` is never in it, nor is one that has no answer.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from openk2.agent import log
from openk2.agent.events import Event, RunFinished, RunStarted, UserSaid
from openk2.errors import UserError
from openk2.paths import cache_dir
from openk2.tools.base import Tool, ToolError, tool
from openk2.tools.index import STOP_WORDS, words

ANSWER_CHARS = 1200  # of an answer that is shown
SHOWN = 5


def memory_tool(run: Path) -> Tool:
    """The tool for the run in folder `run`: it searches the runs beside it, not itself."""

    @tool(idempotent=True, private=True, timeout=60.0)
    def memory(query: str) -> str:
        """Search what you were asked in earlier runs, and what you answered.

        Args:
            query: A few words of what it was about.
        """
        return search(run.parent, query, without=run.name)

    return memory


def search(root: Path, query: str, *, without: str = "") -> str:
    """Earlier questions and answers that fit `query` best, as text. Raises ToolError where nothing can be searched."""
    terms = [word for word in words(query) if word not in STOP_WORDS] or words(query)
    if not terms:
        raise ToolError("The query has no words; say what the earlier run was about.")
    try:
        with closing(_open(root)) as base:
            _bring_up_to_date(base, root)
            rows = base.execute(
                "SELECT run, asked, question, answer FROM turns WHERE turns MATCH ? AND run != ? "
                "ORDER BY bm25(turns, 0, 0, 2, 1) LIMIT ?",
                (" OR ".join(f'"{term}"' for term in terms), without, SHOWN),
            ).fetchall()
    except sqlite3.Error as error:
        raise ToolError(f"Earlier runs cannot be searched ({error}).") from None
    if not rows:
        return "No earlier run fits."
    return "\n\n".join(_shown(*row) for row in rows)


def _shown(run: str, asked: float, question: str, answer: str) -> str:
    day = time.strftime("%Y-%m-%d", time.localtime(asked))
    cut = answer if len(answer) <= ANSWER_CHARS else answer[:ANSWER_CHARS] + "…"
    return f"({run}, {day}) Asked: {question}\nAnswered: {cut}"


def _open(root: Path) -> sqlite3.Connection:
    name = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    path = cache_dir() / "memory" / f"{name}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    base = sqlite3.connect(path, timeout=10.0)
    path.chmod(0o600)
    base.execute("CREATE TABLE IF NOT EXISTS seen (run TEXT PRIMARY KEY, stamp TEXT)")
    base.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS turns USING fts5(run UNINDEXED, asked UNINDEXED, question, answer)"
    )
    return base


def _bring_up_to_date(base: sqlite3.Connection, root: Path) -> None:
    """Read the runs that are new or have grown, forget those that are gone."""
    stamps = {folder.name: _stamp(folder) for folder in log.folders(root)}
    known = dict(base.execute("SELECT run, stamp FROM seen"))
    with base:
        for run in known.keys() - stamps.keys():
            base.execute("DELETE FROM turns WHERE run = ?", (run,))
            base.execute("DELETE FROM seen WHERE run = ?", (run,))
        for run, stamp in stamps.items():
            if known.get(run) == stamp:
                continue
            base.execute("DELETE FROM turns WHERE run = ?", (run,))
            try:
                events = log.read(root / run)
            except UserError:  # a damaged log is no reason to forget the others
                events = []
            base.executemany("INSERT INTO turns VALUES (?, ?, ?, ?)", [(run, *turn) for turn in _turns(events)])
            base.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (run, stamp))


def _stamp(folder: Path) -> str:
    status = (folder / log.LOG).stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _turns(events: list[Event]) -> Iterator[tuple[float, str, str]]:
    """When, question and answer of each turn that came to an answer."""
    if not events or not isinstance(events[0], RunStarted) or events[0].setup.get("private"):
        return
    asked, question = events[0].ts, [events[0].question]
    for event in events[1:]:
        if isinstance(event, UserSaid):
            asked = asked if question else event.ts
            question.append(event.text)
        elif isinstance(event, RunFinished):
            yield asked, "\n".join(question), event.answer
            question = []
