"""One reply of the Anthropic Messages API, put together from its events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from openk2.chat.messages import Message, Native, ToolCall
from openk2.errors import UserError
from openk2.providers.base import Delta, FinishReason, Reply, Usage
from openk2.providers.failures import Refusal, Transient
from openk2.providers.http import estimated

FINISH: dict[str, FinishReason] = {
    "max_tokens": "length", "model_context_window_exceeded": "length", "tool_use": "tool_calls",
}  # fmt: skip
GROWS = {  # delta: the field of the block that it continues
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("input", "partial_json"),
}


@dataclass(frozen=True, slots=True)
class Paused(Reply):
    """A reply that goes on when it is sent back."""


class AnthropicReading:
    """See `http.Reading`. `sent` is the size of the request in bytes."""

    def __init__(self, sent: int, origin: str, where: str) -> None:
        self.sent, self.origin, self.where = sent, origin, where
        self.enough = self.complete = False
        self.rest: list[Delta] = []
        self.kept = 0
        self._blocks: dict[int, dict[str, Any]] = {}
        self._parts: dict[tuple[int, str], list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._stop: str | None = None

    def feed(self, event: dict[str, Any]) -> list[Delta]:
        match event.get("type"):
            case "message_start":
                self._count(event.get("message", {}).get("usage"))
            case "content_block_start":
                return self._begin(event.get("index", len(self._blocks)), dict(event.get("content_block") or {}))
            case "content_block_delta":
                return self._grow(event.get("index", len(self._blocks) - 1), event.get("delta") or {})
            case "message_delta":
                self._count(event.get("usage"))
                self._stop = (event.get("delta") or {}).get("stop_reason") or self._stop
                self.enough = self._stop is not None
            case "message_stop":
                self.enough = self.complete = True
            case "error":
                raise Refusal.in_stream(event.get("error"))
            case _ if event.get("error"):
                raise Refusal.in_stream(event["error"])
        return []

    def whole(self, answer: dict[str, Any]) -> list[Delta]:
        if answer.get("error"):
            raise Refusal.in_stream(answer["error"])
        if not isinstance(answer.get("content"), list):
            raise Transient("the server sent an answer without a reply")
        deltas: list[Delta] = []
        for index, block in enumerate(answer["content"]):
            self._blocks[index] = block
            text = block.get("text") or block.get("thinking")
            if text:
                deltas.append(Delta("content" if block["type"] == "text" else "reasoning", text))
            elif block["type"] == "tool_use":
                deltas.append(Delta("call", f"{block['name']}({json.dumps(block['input'], ensure_ascii=False)})"))
        self._count(answer.get("usage"))
        self._stop = answer.get("stop_reason") or "end_turn"
        self.enough = self.complete = True
        return deltas

    def end(self) -> list[Delta]:
        self.complete = True
        return []

    def reply(self) -> Reply:
        """Raises Transient for half a reply."""
        if not self.enough or (self._stop is None and not self._blocks):
            raise Transient("the stream ended in the middle of a reply")
        if self._stop == "refusal":
            raise UserError(f"{self.where} declined to answer (refusal); ask in other words or another model.")
        message = self._message()
        finish = FINISH.get(self._stop or "", "stop")
        if message.tool_calls and finish == "stop":
            finish = "tool_calls"
        kind = Paused if self._stop == "pause_turn" else Reply
        return kind(message, self._counted() if self._usage else estimated(message, self.sent), finish)

    def _begin(self, index: int, block: dict[str, Any]) -> list[Delta]:
        self._blocks[index] = block
        for field in ("text", "thinking", "signature"):
            if isinstance(block.get(field), str):
                self._parts[index, field] = [block[field]] if block[field] else []
        return [Delta("call", f"{block.get('name')}(")] if block.get("type") == "tool_use" else []

    def _grow(self, index: int, delta: dict[str, Any]) -> list[Delta]:
        field, source = GROWS.get(delta.get("type") or "", ("", ""))
        text = delta.get(source) or ""
        if not field or not text:
            return []
        self._parts.setdefault((index, field), []).append(text)
        if field == "signature":
            return []
        return [Delta({"text": "content", "thinking": "reasoning"}.get(field, "call"), text)]  # type: ignore[arg-type]

    def _message(self) -> Message:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        blocks: list[dict[str, Any]] = []
        for index, block in sorted(self._blocks.items()):
            parts: dict[str, Any] = {field: "".join(p) for (at, field), p in self._parts.items() if at == index}
            kind = block.get("type")
            if kind == "tool_use":
                written = parts.pop("input", None)
                given = block.get("input") or {}
                arguments = json.dumps(given, ensure_ascii=False) if written is None else written
                calls.append(ToolCall(block.get("id") or "", block.get("name") or "", arguments or "{}"))
                block = block | {"input": _object(arguments, given)}
            elif "input" in parts:
                block = block | {"input": _object(parts.pop("input"), {})}
            block = block | parts
            blocks.append(block)
            texts.append(str(block.get("text", "")) if kind == "text" else "")
            thoughts.append(str(block.get("thinking", "")) if kind == "thinking" else "")
        thought = any(block.get("type") in ("thinking", "redacted_thinking") for block in blocks)
        native = Native(self.origin, json.dumps(blocks, ensure_ascii=False)) if thought or _unusual(blocks) else None
        return Message("assistant", "".join(texts), "".join(thoughts) if thought else None, tuple(calls), native=native)

    def _count(self, usage: dict[str, Any] | None) -> None:
        self._usage |= {name: value for name, value in (usage or {}).items() if value is not None}

    def _counted(self) -> Usage:
        read = self._usage.get("cache_read_input_tokens") or 0
        self.kept = self._usage.get("cache_creation_input_tokens") or 0
        return Usage(
            prompt=(self._usage.get("input_tokens") or 0) + read + self.kept,
            cached=read,
            reasoning=(self._usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
            completion=self._usage.get("output_tokens") or 0,
        )


def joined(before: Message | None, after: Message) -> Message:
    """One message of a reply that came in two parts."""
    if before is None:
        return after
    native = None
    if before.native and after.native:
        blocks = json.loads(before.native.json) + json.loads(after.native.json)
        native = Native(after.native.origin, json.dumps(blocks, ensure_ascii=False))
    thoughts = [part.reasoning for part in (before, after) if part.reasoning is not None]
    thought = "".join(thoughts) if thoughts else None
    calls = before.tool_calls + after.tool_calls
    return Message("assistant", before.content + after.content, thought, calls, native=native)


def _object(text: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    """The input of a call, which goes back as an object: as written if it is one."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"arguments": text} if text.strip() else otherwise
    return value if isinstance(value, dict) else {"arguments": text}


def _unusual(blocks: list[dict[str, Any]]) -> bool:
    return any(block.get("type") not in ("text", "tool_use") for block in blocks)
