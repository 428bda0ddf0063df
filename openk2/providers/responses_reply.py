"""One reply of the Responses API, put together from its events."""

from __future__ import annotations

import json
from typing import Any

from openk2.chat.messages import Message, Native, ToolCall
from openk2.errors import UserError
from openk2.providers.base import Delta, FinishReason, Reply, Usage
from openk2.providers.failures import Refusal, Transient
from openk2.providers.http import estimated

REASONING = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


class ResponsesReading:
    """See `http.Reading`. `sent` is the size of the request in bytes.

    The items are taken whole, as they are done; the deltas are for people to watch.
    """

    def __init__(self, sent: int, origin: str, where: str) -> None:
        self.sent, self.origin, self.where = sent, origin, where
        self.enough = self.complete = False
        self.rest: list[Delta] = []
        self.kept = 0
        self._items: dict[int, dict[str, Any]] = {}
        self._answer: dict[str, Any] = {}

    def feed(self, event: dict[str, Any]) -> list[Delta]:
        kind = event.get("type") or ""
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                return _delta("content", event.get("delta"))
            case _ if kind in REASONING:
                return _delta("reasoning", event.get("delta"))
            case "response.function_call_arguments.delta":
                return _delta("call", event.get("delta"))
            case "response.output_item.added":
                item = event.get("item") or {}
                if item.get("type") == "function_call":
                    return [Delta("call", f"{item.get('name')}(")]
            case "response.output_item.done":
                self._items[event.get("output_index", len(self._items))] = event.get("item") or {}
            case "response.reasoning_summary_part.added":
                return _delta("reasoning", "\n\n" if event.get("summary_index") else "")
            case "response.completed" | "response.incomplete" | "response.failed":
                self._end(event.get("response") or {})
            case "error":
                raise Refusal.in_stream(event.get("error") or event)
            case _ if event.get("error"):
                raise Refusal.in_stream(event["error"])
        return []

    def whole(self, answer: dict[str, Any]) -> list[Delta]:
        if answer.get("error"):
            raise Refusal.in_stream(answer["error"])
        if not isinstance(answer.get("output"), list):
            raise Transient("the server sent an answer without a reply")
        self._end(answer)
        message = self._message()
        shown = [Delta("reasoning", message.reasoning or ""), Delta("content", message.content)]
        shown += [Delta("call", f"{call.name}({call.arguments})") for call in message.tool_calls]
        return [delta for delta in shown if delta.text]

    def end(self) -> list[Delta]:
        self.complete = True
        return []

    def reply(self) -> Reply:
        """Raises Transient for half a reply."""
        if not self.enough:
            raise Transient("the stream ended in the middle of a reply")
        why = (self._answer.get("incomplete_details") or {}).get("reason")
        message = self._message()
        if why == "content_filter" and not message.tool_calls:
            raise UserError(f"{self.where} withheld its reply ({why}); ask in other words or another model.")
        finish: FinishReason = "tool_calls" if message.tool_calls else "stop"
        if self._answer.get("status") == "incomplete":
            finish = "length"
        counts = self._answer.get("usage") or {}
        self.kept = (counts.get("input_tokens_details") or {}).get("cache_write_tokens") or 0
        return Reply(message, _usage(counts) if counts else estimated(message, self.sent), finish)

    def _end(self, answer: dict[str, Any]) -> None:
        if answer.get("status") == "failed" or answer.get("error"):
            raise Refusal.in_stream(answer.get("error") or {"message": "the reply failed"})
        self._answer = answer
        if not self._items:
            self._items = dict(enumerate(answer.get("output") or ()))
        self.enough = self.complete = True

    def _message(self) -> Message:
        items = [item for _, item in sorted(self._items.items())]
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        for item in items:
            kind = item.get("type")
            if kind == "message":
                texts += [part.get("text") or part.get("refusal") or "" for part in item.get("content") or ()]
            elif kind == "reasoning":
                parts = item.get("content") or item.get("summary") or ()
                thoughts.append("\n\n".join(part.get("text", "") for part in parts))
            elif kind == "function_call":
                calls.append(ToolCall(item.get("call_id") or "", item.get("name") or "", item.get("arguments") or "{}"))
        reasoning = "\n\n".join(filter(None, thoughts)) if thoughts else None
        native = Native(self.origin, json.dumps(items, ensure_ascii=False)) if items else None
        return Message("assistant", "".join(texts), reasoning, tuple(calls), native=native)


def _delta(kind: Any, text: Any) -> list[Delta]:
    return [Delta(kind, text)] if isinstance(text, str) and text else []


def _usage(data: dict[str, Any]) -> Usage:
    asked, wrote = data.get("input_tokens_details") or {}, data.get("output_tokens_details") or {}
    cost = data.get("cost")
    return Usage(
        prompt=data.get("input_tokens") or 0,
        cached=asked.get("cached_tokens") or 0,
        reasoning=wrote.get("reasoning_tokens") or 0,
        completion=data.get("output_tokens") or 0,
        money=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    )
