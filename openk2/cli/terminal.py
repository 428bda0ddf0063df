"""What a person sees of a run: thinking dimmed, one line a call, the answer, its sources.

On a terminal all of it goes to stdout. Otherwise stdout gets the answer and its sources alone, as plain text, and
stderr the progress. Text of models and documents cannot send control codes to the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from openk2.agent.events import (
    BudgetRaised,
    Checked,
    ChildFinished,
    ChildStarted,
    ContextCut,
    Event,
    Guarded,
    Note,
    ReplyReceived,
    RunFinished,
    ToolFinished,
    ToolStarted,
    UserSaid,
)
from openk2.agent.sources import Source
from openk2.providers.base import Delta

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PREVIEW = 32  # characters of a result beside its call, at least
NOTES = {
    "budget": "The budget is used up; this is the best answer so far.",
    "length": "The model's limit of tokens was reached; the answer may be cut.",
    "stuck": "The run went in circles and was ended.",
}
CUTS = {"hide": "old outputs are put away", "notes": "it wrote notes and goes on from them", "fresh": "it begins again"}
PIPE_WIDTH = 160  # characters of a line that goes to a file or another program
SOURCE_WIDTH = 300  # characters of a source's line


def plain(text: str) -> str:
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    return " ".join(plain(text).split())


def clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def call_text(name: str, arguments: str) -> str:
    """A call as Python would write it: `search("density", k=3)`; what is not a JSON object stands as it came."""
    try:
        values = json.loads(arguments)
        if not isinstance(values, dict):
            raise ValueError
    except ValueError:
        return one_line(f"{name}({arguments})")
    shown = [value.strip() if isinstance(value, str) else json.dumps(value) for value in values.values()]
    return one_line(f"{name}({', '.join(shown)})")


def seconds_text(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def money_text(dollars: float) -> str:
    return f"${dollars:.2f}" if dollars >= 0.1 else f"${dollars:.4f}"


def event_note(item: Event) -> str | None:
    """What is said in brackets of an event that is neither text nor a call."""
    if isinstance(item, Note):
        return item.text
    if isinstance(item, ChildStarted):
        name = f"path {item.child}" if item.child.isdigit() else item.child
        return f"{name} begins" + (f": {one_line(item.task)}" if item.task else "")
    if isinstance(item, ChildFinished):
        said = f": {clip(one_line(item.answer), 200)}" if item.answer.strip() else ""
        name = f"path {item.child}" if item.child.isdigit() else item.child
        return f"{name} ended ({item.reason}, {item.steps} steps){said}"
    if isinstance(item, ContextCut):
        return f"The conversation was near the end of the window: {CUTS[item.kind]}."
    if isinstance(item, Guarded):
        return f"It went in circles ({item.kind}): {item.action}."
    if isinstance(item, Checked) and not item.ok:
        if item.kind == "doubt":
            return "The answer is being doubted."
        first = item.text.partition("\n- ")[2].partition("\n")[0]
        return f"The answer was sent back: {first}"
    if isinstance(item, BudgetRaised):
        limit = "without limit" if item.limit is None else f"{item.limit:g}"
        return f"The budget of {item.axis} is {limit} now."
    return None


class Terminal:
    """Watches a loop. `live` shows the answer as it is written; else it is printed once, at the end.

    While a person types (`typing`), what comes waits and is shown when the line is done.
    """

    def __init__(self, *, quiet: bool = False, live: bool | None = None) -> None:
        self.quiet = quiet
        self.live = sys.stdout.isatty() if live is None else live
        self._calls: dict[tuple[int, int], str] = {}
        self._shown = ""  # kind of the text that is open at the end of the screen
        self._fleeting = False
        self._written = ""  # content of the present reply that is on the screen
        self._typed: str | None = None
        self._waiting: list[Event | Delta] = []
        self._console: Any = None
        if self.live:
            from rich.console import Console

            self._console = Console(highlight=False, markup=False, emoji=False)
            if not self._console.is_terminal:
                self._console.width = PIPE_WIDTH

    def watch(self, item: Event | Delta) -> None:
        if self._typed is not None:
            self._waiting.append(item)
        elif isinstance(item, Delta):
            self._delta(item)
        elif isinstance(item, ReplyReceived):
            self.end()
            if item.message.tool_calls:
                self._written = ""
            self.recall([item])
        elif isinstance(item, ToolStarted):
            self.wait(call_text(item.name, item.arguments))
        elif isinstance(item, ToolFinished):
            self._call_line(item)
            self.wait("")
        elif isinstance(item, UserSaid):
            self._written = ""
        elif note := event_note(item):
            self.note(note)

    def recall(self, events: Iterable[Event]) -> None:
        """Calls of an earlier process, whose results may come in this one."""
        for event in events:
            if isinstance(event, ReplyReceived):
                for index, call in enumerate(event.message.tool_calls):
                    self._calls[event.seq, index] = call_text(call.name, call.arguments)

    def watch_tree(self, name: str, item: Event | Delta) -> None:
        """Of the runs within the run their begin and end are shown, which are events of its own."""
        if not name:
            self.watch(item)

    def say(self, text: str) -> None:
        """Something the person must read, also where the rest is quiet."""
        self.end()
        self._raw("\n".join(one_line(line) for line in text.split("\n")), "yellow", "\n")

    def prompt(self, text: str) -> None:
        """The beginning of a line that the person ends."""
        self.end()
        self._raw(text, "bold", "")

    def typing(self, text: str | None) -> None:
        """What the person has typed of a line so far; None: they are done, and what waited is shown."""
        if text is not None:
            if self._typed is None:
                self.end()
            self._console.file.write("\r\x1b[2K")
            self._raw(f"› {plain(text)[-self._width() + 4 :]}", "bold", "")
            self._typed = text
            return
        if self._typed is not None:
            self._console.file.write("\r\x1b[2K")
        self._typed, waiting, self._waiting = None, self._waiting, []
        for item in waiting:
            self.watch(item)

    def line(self, text: str, style: str) -> None:
        """Lines of their own."""
        self.end()
        self._raw(plain(text), style, "\n")

    def note(self, text: str) -> None:
        self._line(f"({one_line(text)})", "yellow")

    def wait(self, text: str) -> None:
        """A line that stands until the next output: what is being waited for."""
        if self.live and not self.quiet and self._console.is_terminal:
            self.end()
            self._raw(clip(f"  ⋯ {text}", self._width() - 1), "dim", "")
            self._fleeting = True

    def finish(self, end: RunFinished, sources: Sequence[Source]) -> None:
        """The answer and what it rests on. An answer that is on the screen already is not printed again."""
        self.end()
        if self._written.strip() != end.answer:
            self._out(plain(end.answer), "")
        if sources:
            self._out("\nSources", "bold")
            for source in sources:
                self._out(f"  {source_text(source)}", "")
        if note := NOTES.get(end.reason):
            self._line(f"({note})", "yellow")

    def _delta(self, delta: Delta) -> None:
        if delta.kind == "retry":
            self._written = ""
        if delta.kind == "wait":
            self.wait(delta.text)
            return
        if self.quiet or delta.kind in ("call", "retry") or (delta.kind == "content" and not self.live):
            return
        if self._shown != delta.kind:
            self.end()
            delta = Delta(delta.kind, delta.text.lstrip())
            if not delta.text:
                return
        self._clear()
        if delta.kind == "content":
            if self._shown != "content" and not self._written:
                self._raw("", "", "\n")
            self._written += delta.text
        self._shown = delta.kind
        self._raw(plain(delta.text), "dim" if delta.kind == "reasoning" else "", "")

    def _call_line(self, event: ToolFinished) -> None:
        call = self._calls.pop((event.reply, event.index), f"{event.name}(…)")
        took = seconds_text(event.seconds)
        preview = one_line(event.content)
        room = max(self._width() - len(took) - 11, 2 * PREVIEW)
        call = clip(call, room - min(len(preview), PREVIEW))
        preview = clip(preview, room - len(call))
        self._line(
            f"  {'✗' if event.is_error else '→'} {call} · {took} · {preview}", "red" if event.is_error else "cyan"
        )

    def _line(self, text: str, style: str) -> None:
        if not self.quiet:
            self.end()
            self._raw(text, style, "\n")

    def end(self) -> None:
        """Close the line that is open on the screen."""
        self._clear()
        if self._shown:
            self._raw("", "", "\n")
            self._shown = ""

    def _clear(self) -> None:
        if self._fleeting:
            self._console.file.write("\r\x1b[2K")
            self._fleeting = False

    def _width(self) -> int:
        return self._console.width if self.live else PIPE_WIDTH

    def _raw(self, text: str, style: str, end: str) -> None:
        if self.live:
            self._console.print(text, style=style or None, end=end, soft_wrap=True)
            self._console.file.flush()
        else:
            sys.stderr.write(text + end)
            sys.stderr.flush()

    def _out(self, text: str, style: str) -> None:
        if self.live:
            self._console.print(text, style=style or None, soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")


def source_text(source: Source) -> str:
    mark = f"[{source.id}:{source.line}]"
    if source.text is None:
        return f"{mark} (no such line: the citation is wrong)"
    title = "" if source.title == source.id else f"{one_line(source.title)} - "
    unseen = "" if source.seen else " (not read in this run)"
    return f"{mark} {title}{clip(one_line(source.text), SOURCE_WIDTH)}{unseen}"
