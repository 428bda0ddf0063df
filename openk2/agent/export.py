"""A run for other programs: messages, conversations for training, the events, or one page to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openk2.agent.events import Event, RunStarted, to_line
from openk2.agent.log import read
from openk2.agent.state import State
from openk2.chat.messages import Message, ToolSpec
from openk2.errors import UserError

ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def export(folder: Path, kind: str, specs: Sequence[ToolSpec] = ()) -> str:
    """The run in `folder` as text of the form `kind`, a key of FORMS.

    `specs`: what the model was told of its tools, which the log names only. Raises UserError where there is no run.
    """
    events = read(folder)
    if not events or not isinstance(events[0], RunStarted):
        raise UserError(f"The run at {folder} was stopped before it began; there is nothing to export.")
    if kind == "html":
        from openk2.agent.html import page

        return page(folder, events)
    return FORMS[kind](events, specs)


def messages(events: Sequence[Event]) -> list[Message]:
    """The whole conversation as it was, whatever was put away since; without the replies that were taken back."""
    return [entry.message for entry in State.of(events).everything()]


def openai(events: Sequence[Event], specs: Sequence[ToolSpec] = ()) -> str:
    """A request that an OpenAI-compatible server takes."""
    whole: dict[str, Any] = {"messages": [message.to_wire() for message in messages(events)]}
    if specs:
        whole["tools"] = [spec.to_wire() for spec in specs]
    return _line(whole)


def training(events: Sequence[Event], specs: Sequence[ToolSpec] = ()) -> str:
    """A record as `k2 synth` writes them and training reads them: the messages with sampled ids, and what is known."""
    state = State.of(events)
    assert state.started is not None
    proof: dict[str, Any] = {"run": state.started.run, "version": state.started.version}
    if state.finished:
        proof |= {"reason": state.finished.reason, "answer": state.finished.answer}
    proof["checks"] = [{"kind": check.kind, "ok": check.ok} for check in state.checks]
    record: dict[str, Any] = {"kind": "run", "messages": [m.to_json() for m in messages(events)], "proof": proof}
    if specs:
        record["tools"] = [spec.to_wire() for spec in specs]
    return _line(record)


def sharegpt(events: Sequence[Event], specs: Sequence[ToolSpec] = ()) -> str:
    """A ShareGPT conversation; thinking stands in <think> before what it led to, calls are `function_call`."""
    whole: dict[str, Any] = {"conversations": []}
    for message in messages(events):
        if message.role == "system":
            whole["system"] = message.content
            continue
        thought = f"<think>\n{message.reasoning}\n</think>\n\n" if message.reasoning else ""
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": _arguments(call.arguments)} for call in message.tool_calls]
            if message.content:
                whole["conversations"].append({"from": "gpt", "value": thought + message.content})
                thought = ""
            value = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
            whole["conversations"].append({"from": "function_call", "value": thought + value})
        else:
            whole["conversations"].append({"from": ROLES[message.role], "value": thought + message.content})
    if specs:
        whole["tools"] = json.dumps([spec.to_wire()["function"] for spec in specs], ensure_ascii=False)
    return _line(whole)


def jsonl(events: Sequence[Event], specs: Sequence[ToolSpec] = ()) -> str:
    """The events as they are on disk."""
    return b"".join(map(to_line, events)).decode()


FORMS: dict[str, Callable[[Sequence[Event], Sequence[ToolSpec]], str]] = {
    "openai": openai, "sharegpt": sharegpt, "training": training, "jsonl": jsonl,
}  # fmt: skip
KINDS = (*FORMS, "html")


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
