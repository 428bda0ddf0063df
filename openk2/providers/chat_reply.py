"""One reply of a chat-completions server, put together from its chunks.

Servers differ in what they parse. Calls come in fields, by index, by id or whole; or as text, in the content or in
the reasoning, where a server's parser missed them. Reasoning comes in a field, in details to be sent back, or between
`<think>` and `</think>` in the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from openk2.chat.messages import Message, Native, ToolCall
from openk2.chat.parser import Piece, call_name
from openk2.chat.text_parser import BEGIN_CALL, END_THINK, TextParser
from openk2.errors import UserError
from openk2.providers.base import Delta, FinishReason, Reply, Usage
from openk2.providers.failures import Refusal, Transient
from openk2.providers.http import estimated

FINISH: dict[str, FinishReason] = {
    "length": "length", "max_tokens": "length", "model_length": "length", "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls", "function_call": "tool_calls",
}  # fmt: skip
REFUSED = ("content_filter", "refusal", "sensitive", "safety")
GROWING = ("text", "summary", "data")  # fields of reasoning details that come in pieces
BROKEN = ("error", "network_error", "insufficient_system_resource", "abort")
# A template that began the thinking leaves its end in the content: at the very end of it or before a blank line.
_LEFT_OPEN = re.compile(r"(?s)\A((?:(?!<think>).)*?)</think>(?=\s*\Z|\n|<\|tool_call)")


class ChatReading:
    """See `http.Reading`. `names` are the tools offered; `heard` is told the one field that reasoning comes in."""

    def __init__(
        self, names: Collection[str], sent: int, origin: str, where: str, heard: Callable[[str], None]
    ) -> None:
        self.names, self.sent, self.origin, self.where, self.heard = names, sent, origin, where, heard
        self.enough = self.complete = False
        self.rest: list[Delta] = []
        self.kept = 0
        self._reasoning: list[str] | None = None
        self._details = Details()
        self._content: list[str] = []
        self._calls = Calls()
        self._extra: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._finish: str | None = None
        self._begun = False
        self._text = TextParser(calls=bool(names), names=names)  # the content as a person should see it

    def feed(self, event: dict[str, Any]) -> list[Delta]:
        if event.get("error"):
            raise Refusal.in_stream(event["error"])
        deltas: list[Delta] = []
        self._usage = event.get("usage") or self._usage
        for choice in (event.get("choices") or ())[:1]:
            self._begun = True
            self._usage = choice.get("usage") or self._usage  # where Kimi puts it
            part: dict[str, Any] = choice.get("delta") or choice.get("message") or {}
            deltas += self._think(part)
            deltas += self._say(part.get("content"))
            for call in part.get("tool_calls") or ():
                deltas += self._calls.feed(call)
            if isinstance(part.get("extra_content"), dict):
                self._extra |= part["extra_content"]
            self._finish = choice.get("finish_reason") or self._finish
            self.enough = self.enough or self._finish is not None
        return deltas

    def whole(self, answer: dict[str, Any]) -> list[Delta]:
        deltas = self.feed(answer)
        if not self._begun:
            raise Transient("the server sent an answer without a reply")
        return deltas + self.end()

    def end(self) -> list[Delta]:
        self.complete = True
        return []

    def reply(self) -> Reply:
        """Raises Transient for half a reply."""
        if not self._begun or (self._finish is None and not self.complete):
            raise Transient("the stream ended in the middle of a reply")
        if self._finish in BROKEN:
            raise Transient(f"the server ended the reply with {self._finish!r}")
        message = self._message()
        if self._finish in REFUSED and not message.tool_calls:
            raise UserError(f"{self.where} withheld its reply ({self._finish}); ask in other words or another model.")
        self.kept = (self._usage.get("prompt_tokens_details") or {}).get("cache_write_tokens") or 0
        finish = FINISH.get(self._finish or "", "stop")
        if message.tool_calls and finish == "stop":
            finish = "tool_calls"
        return Reply(message, usage(self._usage) if self._usage else estimated(message, self.sent), finish)

    def _think(self, part: dict[str, Any]) -> list[Delta]:
        for detail in part.get("reasoning_details") or ():
            if isinstance(detail, dict):
                self._details.feed(detail)
        said = {name: part[name] for name in ("reasoning_content", "reasoning") if isinstance(part.get(name), str)}
        if said and self._reasoning is None:
            self._reasoning = []  # an empty field is not the same as none: some servers want it back
        for name, text in said.items():
            if text and self._reasoning is not None:
                if len(said) == 1:
                    self.heard(name)
                self._reasoning.append(text)
                return [Delta("reasoning", text)]
        return []

    def _say(self, content: Any) -> list[Delta]:
        if isinstance(content, list):  # Mistral: parts, of which some are thoughts
            deltas: list[Delta] = []
            for part in content:
                if isinstance(part, dict) and part.get("type") == "thinking":
                    thoughts = part.get("thinking") or ()
                    text = thoughts if isinstance(thoughts, str) else "".join(t.get("text") or "" for t in thoughts)
                    deltas += self._think({"reasoning": text, "reasoning_content": text})
                elif isinstance(part, dict):
                    deltas += self._say(part.get("text"))
            return deltas
        if not isinstance(content, str) or not content:
            return []
        self._content.append(content)
        return _shown(self._text.feed(content))

    def _message(self) -> Message:
        content = "".join(self._content)
        reasoning = None if self._reasoning is None else "".join(self._reasoning)
        native: dict[str, Any] = {}
        calls, said = self._calls.made(), self._text.finish()
        self.rest = _shown(self._text.finished)
        if calls and said.tool_calls:  # what looks like calls beside real ones is text
            said = Message("assistant", content)
        elif not calls and BEGIN_CALL in (reasoning or "") and self.names and not content.strip():
            thought = TextParser(thinking=True, names=self.names)
            thought.feed(reasoning or "")
            if (found := thought.finish()).tool_calls:
                reasoning, said = found.reasoning, found
        if END_THINK in said.content and (match := _LEFT_OPEN.match(said.content)):
            if reasoning is None:
                said = replace(said, content=said.content[match.end() :].lstrip("\n"), reasoning=match[1])
            elif not match[1]:
                said = replace(said, content=said.content[match.end() :].lstrip("\n"))
        if reasoning is None and said.reasoning is not None:
            reasoning = said.reasoning
            if not said.tool_calls:
                native["content"] = content  # where the server says its reasoning it looks for it again
        if details := self._details.made():
            native["reasoning_details"] = details
        if self._extra:
            native["extra_content"] = self._extra
        if extras := self._calls.extras():
            native["tool_calls"] = extras
        return Message(
            "assistant",
            said.content,
            reasoning,
            calls or said.tool_calls,
            native=Native(self.origin, json.dumps(native, ensure_ascii=False)) if native else None,
        )


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: dict[str, Any] | None = None


class Calls:
    """Calls that come in pieces: by index, by id, or with neither."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._parts: list[list[str]] = []
        self._slots: dict[Any, int] = {}

    def feed(self, call: dict[str, Any]) -> list[Delta]:
        function = call.get("function") or {}
        name, arguments, id = function.get("name") or "", function.get("arguments") or "", call.get("id") or ""
        if not isinstance(arguments, str):  # some servers send the object itself
            arguments = json.dumps(arguments, ensure_ascii=False)
        index = call.get("index")
        key = (id or None) if index is None else index
        slot = self._slots.get(key, -1) if key is not None else len(self._calls) - 1
        if key is None and name and slot >= 0 and self._calls[slot].name:
            slot = -1  # neither index nor id: a name begins a call
        # Some servers give every call the index 0: a new id with a name is a new call.
        if slot < 0 or (id and name and self._calls[slot].id not in ("", id)):
            self._calls.append(_Call())
            self._parts.append([])
            slot = self._slots[key] = len(self._calls) - 1
        entry = self._calls[slot]
        started = not entry.name
        entry.id = entry.id or id
        entry.name = entry.name or name
        entry.extra = call.get("extra_content") or entry.extra
        self._parts[slot].append(arguments)
        text = (f"{name}(" if started and name else "") + arguments
        return [Delta("call", text)] if text else []

    def made(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(call.id, call.name, "".join(parts)) for call, parts in zip(self._calls, self._parts, strict=True)
        )

    def extras(self) -> list[dict[str, Any] | None]:
        """What a server wants back beside each call (Gemini's signatures); empty where there is nothing."""
        return [call.extra for call in self._calls] if any(call.extra for call in self._calls) else []


class Details:
    """OpenRouter's reasoning details: text grows, other fields are set; another index, type or id begins a new one."""

    def __init__(self) -> None:
        self._details: list[dict[str, Any]] = []  # values that grow are lists of their pieces

    def feed(self, piece: dict[str, Any]) -> None:
        last = self._details[-1] if self._details else None
        if last is None or any(piece.get(k) is not None and last.get(k) != piece[k] for k in ("type", "index", "id")):
            self._details.append({k: [v] if k in GROWING and isinstance(v, str) else v for k, v in piece.items()})
            return
        for name, value in piece.items():
            if name in GROWING and isinstance(value, str):
                if last.get(name) is None:
                    last[name] = []
                last[name].append(value)
            elif value is not None:
                last[name] = value

    def made(self) -> list[dict[str, Any]]:
        return [{k: "".join(v) if k in GROWING and isinstance(v, list) else v for k, v in detail.items()}
                for detail in self._details]  # fmt: skip


def usage(data: dict[str, Any]) -> Usage:
    """Counts under the names of OpenAI, Kimi, DeepSeek, OpenRouter, vLLM and others."""
    asked = data.get("prompt_tokens_details") or {}
    wrote = data.get("completion_tokens_details") or {}
    cached = data.get("cached_tokens") or asked.get("cached_tokens") or data.get("prompt_cache_hit_tokens")
    cost = data.get("cost")
    return Usage(
        prompt=data.get("prompt_tokens") or 0,
        cached=cached or data.get("cache_read_input_tokens") or 0,
        reasoning=wrote.get("reasoning_tokens") or data.get("reasoning_tokens") or 0,
        completion=data.get("completion_tokens") or 0,
        money=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    )


def _shown(pieces: Iterable[Piece]) -> list[Delta]:
    deltas: list[Delta] = []
    name = ""
    for piece in pieces:
        if piece.kind == "call_id":
            name = call_name(piece.text)
        elif piece.kind == "call_arguments":
            deltas.append(Delta("call", f"{name}({piece.text})"))
        else:
            deltas.append(Delta(piece.kind, piece.text))
    return deltas
