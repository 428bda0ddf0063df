"""A run as one page to read: no script, nothing loaded from anywhere, every text of models and tools escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from openk2.agent.children import family, steps_of
from openk2.agent.events import (
    Approval,
    BudgetRaised,
    BudgetSpent,
    Checked,
    ChildFinished,
    ChildStarted,
    ContextCut,
    Event,
    Guarded,
    Note,
    ReplyReceived,
    RunFinished,
    RunStarted,
    RunStopped,
    ToolFinished,
    UserSaid,
)
from openk2.agent.log import WORKSPACE, read
from openk2.agent.sources import Source, sources
from openk2.agent.state import State
from openk2.chat.messages import ToolCall
from openk2.errors import UserError
from openk2.providers.base import Usage

STYLE = Path(__file__).with_suffix(".css")
PREVIEW = 140  # characters in a folded line
IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
IMAGE_BYTES = 2_000_000
DEPTH = 3  # runs within runs that are shown
# What nobody sees and what turns the text around: shown as nothing, as in the terminal.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARK = re.compile(r"\[([^\[\]\n]*?\w:\d[^\[\]\n]*)\]")
_PLACE = re.compile(r"([\w.\-]+):(\d+)")


def page(folder: Path, events: Sequence[Event]) -> str:
    """The whole page for the run in `folder`."""
    style = STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    first = events[0]
    assert isinstance(first, RunStarted)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(_clip(first.question))}</title><style>{style}</style></head>\n<body><main>\n"
        f"{_head(first, events)}\n{''.join(_body(folder, events))}</main></body></html>\n"
    )


def text(value: str) -> str:
    """Any string as harmless text of the page."""
    return escape(_INVISIBLE.sub("", value))


def _head(first: RunStarted, events: Sequence[Event]) -> str:
    state, setup = State.of(events), first.setup
    reason = state.finished.reason if state.finished else "not finished"
    within = sum(isinstance(event, ChildStarted) for event in events)
    parts = [
        setup.get("model") or setup.get("base_url") or "nano",
        setup.get("mode") or "agent",
        f"{within} runs within it" if within else "",
        f"{steps_of(events)} steps",
        *_used(state.total),
        _seconds(state.total_seconds),
    ]
    answered = reason == "stop"
    chips = [f'<span class="chip {"stop" if answered else "bad"}">{"answered" if answered else reason}</span>']
    chips += [f'<span class="chip">{text(part)}</span>' for part in parts if part]
    return f"<header><b>{text(first.run)}</b>{''.join(chips)}</header>"


def _body(folder: Path, events: Sequence[Event], within: tuple[str, ...] = (), asked: str = "") -> Iterator[str]:
    """Turn after turn: what was asked, the steps, the answer.

    `within`: the names of the runs that this one is in; `asked`: what the run around it was asked.
    """
    results = {(e.reply, e.index): e for e in events if isinstance(e, ToolFinished)}
    approvals = {(e.reply, e.index): e for e in events if isinstance(e, Approval)}
    ends = {e.child: e for e in events if isinstance(e, ChildFinished)}
    answers = _answers(events)
    steps = 0
    for event in events:
        if isinstance(event, RunStarted):
            if event.question != asked:
                yield f'<h1 class="asked">{text(event.question)}</h1>\n'
            asked = event.question
        elif isinstance(event, UserSaid):
            yield f'<h2 class="asked">{text(event.text)}</h2>\n'
        elif isinstance(event, ReplyReceived):
            steps += 1
            yield f'<section class="step"><span class="n">{steps}</span>{_thinking(event)}'
            if event.message.content.strip() and event.seq not in answers:
                yield f'<div class="text">{text(event.message.content.strip())}</div>'
            for index, call in enumerate(event.message.tool_calls):
                key = (event.seq, index)
                yield _call(folder, call, results.get(key), approvals.get(key))
            yield "</section>\n"
        elif isinstance(event, ChildStarted) and len(within) < DEPTH:
            yield _child(folder, event, ends.get(event.child), within, asked)
        elif isinstance(event, RunFinished):
            yield _answer(event, sources(event.answer, family(folder, events), None), within)
        elif said := _said(event):
            yield f'<p class="note">{text(said)}</p>\n'


def _answers(events: Sequence[Event]) -> set[int]:
    """The replies that are shown as the answer below them."""
    found: set[int] = set()
    last: ReplyReceived | None = None
    for event in events:
        if isinstance(event, ReplyReceived):
            last = event
        elif isinstance(event, RunFinished) and last and last.message.content.strip() == event.answer:
            found.add(last.seq)
    return found


def _thinking(event: ReplyReceived) -> str:
    thought = (event.message.reasoning or "").strip()
    if not thought:
        return ""
    count = f"{event.usage.reasoning:,} tokens, " if event.usage.reasoning else ""
    return (
        f'<details class="think"><summary><span class="cut">{text(_clip(thought))}</span>'
        f'<span class="took">{count}{_seconds(event.seconds)}</span></summary>'
        f'<div class="text">{text(thought)}</div></details>'
    )


def _call(folder: Path, call: ToolCall, result: ToolFinished | None, approval: Approval | None) -> str:
    took = _seconds(result.seconds) if result else "no result"
    bad = " bad" if result is None or result.is_error else ""
    asked = f'<p class="note">Asked: {text(approval.why)} {"Allowed" if approval.allowed else "Refused"}.</p>' if (
        approval
    ) else ""  # fmt: skip
    origin = {
        "outside": "text from outside",
        "private": "from your own files",
        "both": "from outside and from your own files",
    }.get(result.origin if result else "", "")
    shown = f'<div class="label">result{", " + origin if origin else ""}</div><pre>{text(result.content)}</pre>' if (
        result
    ) else ""  # fmt: skip
    return (
        f'<details class="call{bad}"><summary><span class="name">{text(call.name)}</span>'
        f'<span class="cut"><code class="args">{text(_clip(_short(call.arguments)))}</code></span>'
        f'<span class="took">{took}</span></summary>{_arguments(call.arguments)}{asked}{shown}</details>'
        + "".join(_file(folder, name) for name in (result.files if result else ()))
    )


def _short(arguments: str) -> str:
    try:
        values = json.loads(arguments)
        return ", ".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values.values())
    except (ValueError, AttributeError):
        return arguments


def _arguments(arguments: str) -> str:
    try:
        values = json.loads(arguments).items()
    except (ValueError, AttributeError):
        values = [("arguments", arguments)]
    return "".join(
        f'<div class="label">{text(str(name))}</div>'
        f"<pre>{text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1))}</pre>"
        for name, value in values
    )


def _file(folder: Path, name: str) -> str:
    """A file that a tool made: pictures are shown."""
    place = folder / WORKSPACE / name
    kind = IMAGES.get(place.suffix.lower())
    try:
        inside = place.resolve().is_relative_to((folder / WORKSPACE).resolve())
        if kind and inside and place.is_file() and place.stat().st_size <= IMAGE_BYTES:
            data = base64.b64encode(place.read_bytes()).decode()
            return f'<img alt="{text(name)}" src="data:{kind};base64,{data}">'
    except OSError:  # gone since
        pass
    return f'<p class="note">made {text(name)}</p>'


def _child(folder: Path, event: ChildStarted, end: ChildFinished | None, within: tuple[str, ...], asked: str) -> str:
    place = folder / event.folder
    how = f"{end.reason}, {end.steps} steps" if end else "not finished"
    try:
        inside = place.resolve().is_relative_to(folder.resolve())
        inner = "".join(_body(place, read(place), (*within, event.child), asked)) if inside else ""
    except UserError as error:
        inner = f'<p class="note">{text(str(error))}</p>'
    title = f"Path {event.child}" if event.child.isdigit() else event.child
    said = end.answer if end else event.task
    return (
        f'<details class="child"><summary><b>{text(title)}</b><span class="cut">{text(_clip(said))}</span>'
        f'<span class="took">{text(how)}</span></summary><div class="nested">{inner}</div></details>\n'
    )


def _answer(event: RunFinished, found: list[Source], within: tuple[str, ...]) -> str:
    ids = {(source.id, source.line) for source in found}
    at = (*within, event.seq)

    def link(mark: re.Match[str]) -> str:
        places = [(id, int(line)) for id, line in _PLACE.findall(mark[1])]
        target = next((place for place in places if place in ids), None)
        return f'<a href="#{_anchor(*at, *target)}">{mark[0]}</a>' if target else mark[0]

    listed = "".join(
        f'<li id="{_anchor(*at, source.id, source.line)}"><span class="at">[{text(source.id)}:{source.line}]</span>'
        f"{text(source.text) if source.text is not None else 'no tool showed this line'}</li>"
        for source in found
    )
    rests = f'<ol class="sources">{listed}</ol>' if listed else ""
    used = [f"{event.steps} steps", *_used(event.usage), _seconds(event.seconds)]
    reason = "" if event.reason == "stop" else f'<p class="note">ended by: {text(event.reason)}</p>'
    return (
        f'<section class="answer{"" if event.reason == "stop" else " weak"}">'
        f'<div class="text">{_MARK.sub(link, text(event.answer))}</div>{reason}'
        f"{rests}</section>"
        f'<p class="use">{text(" · ".join(used))}</p>\n'
    )


def _anchor(*parts: str | int) -> str:
    return "s-" + text("-".join(map(str, parts)))


def _said(event: Event) -> str:
    match event:
        case Note():
            return event.text
        case ContextCut():
            return f"The context was cut ({event.kind})." + (f" Notes: {event.notes}" if event.notes else "")
        case Guarded():
            return f"Guard ({event.kind}, {event.action}): {event.text}"
        case Checked():
            return f"Check ({event.kind}): {'passed' if event.ok else event.text}"
        case BudgetSpent():
            return f"The budget of {event.limit:g} {event.axis} was used up."
        case BudgetRaised():
            return f"The budget of {event.axis} was raised to {event.limit}."
        case RunStopped():
            return f"Stopped: {event.why}."
    return ""


def _used(usage: Usage) -> list[str]:
    parts = [f"{usage.prompt:,} tokens read" + (f" ({usage.cached:,} cached)" if usage.cached else "")]
    parts.append(f"{usage.completion:,} written" + (f" ({usage.reasoning:,} thought)" if usage.reasoning else ""))
    if usage.money is not None:
        parts.append(f"${usage.money:.4f}")
    return parts


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _clip(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= PREVIEW else line[: PREVIEW - 1] + "…"
