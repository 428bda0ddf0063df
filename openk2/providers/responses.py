"""OpenAI's Responses API: nothing is stored there, and the model's reasoning goes back encrypted as it came.

The output items of a reply stand in `Message.native`, byte for byte; a message of another model is written anew from
what it says. Every message's JSON is made once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from openk2.chat.messages import Message, Native, ToolSpec
from openk2.providers.base import Limits
from openk2.providers.http import Remote, dump
from openk2.providers.responses_reply import ResponsesReading
from openk2.providers.vendors import WORDS

OPTIONAL = ("temperature", "top_p", "include", "reasoning", "tool_choice", "store")
LEAST = 16  # tokens of a reply that the API takes


class ResponsesProvider(Remote):
    """Thoughts of other models are taken by open servers (vLLM, LM Studio, Ollama), not by OpenAI."""

    api, path = "responses", "/responses"

    def _set_up(self) -> None:
        self.foreign = self.host != "api.openai.com"
        self.weaker = 0  # how many words for an effort this server refused

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def _body(self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits) -> bytes:
        fields: dict[str, Any] = {
            "model": self.model, "stream": True, "store": False, "include": ["reasoning.encrypted_content"],
        }  # fmt: skip
        if system := "\n\n".join(m.content for m in messages if m.role == "system" and m.content):
            fields["instructions"] = system
        if tools:
            fields["tools"] = [_tool(tool) for tool in tools]
            if limits.tool_choice in ("auto", "none", "required"):
                fields["tool_choice"] = limits.tool_choice
            elif limits.tool_choice is not None:
                fields["tool_choice"] = {"type": "function", "name": limits.tool_choice}
        longest = self._longest(limits)
        given = {
            "max_output_tokens": longest and max(LEAST, longest),
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "reasoning": self._reasoning(limits),
        }
        fields |= {name: value for name, value in given.items() if value is not None}
        self._sent = {name: value for name, value in fields.items() if name not in self.without}
        items = [item for message in messages for item in _items(message, self._own(message), self.foreign)]
        return b'%b,"input":[%b]}' % (dump(self._sent)[:-1], b",".join(items))

    def _reasoning(self, limits: Limits) -> dict[str, Any] | None:
        reasoning = {} if "summary" in self.without else {"summary": "auto"}
        if limits.thinking_tokens == 0:
            return {"effort": "none"}
        if limits.effort and (words := WORDS[limits.effort][self.weaker :]):
            reasoning["effort"] = words[0]
        return reasoning or None

    def _reading(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sent: int) -> ResponsesReading:
        return ResponsesReading(sent, self.origin, self.where)

    def _adapt(self, text: str, messages: Sequence[Message]) -> bool:
        lower = text.lower()
        # What another account or model encrypted, or an item that is not known there.
        gone = ("encrypted" in lower and "not supported" not in lower) or re.search(r"\b(?:rs|msg|fc)_\w+", lower)
        if gone and self._forget(messages):
            return True
        if "summar" in lower and "summary" not in self.without:
            self.without.add("summary")
            return True
        if "effort" in lower and "effort" in self._sent.get("reasoning", {}):
            self.weaker += 1
            return True
        if "max_output_tokens" in lower and self._learn_most(lower, self._sent.get("max_output_tokens")):
            return True
        if "encrypted" in lower and "include" not in self.without:
            self.without.add("include")
            return True
        if self.foreign and re.search(r"reasoning_text|input\W.*\breasoning\b", lower):
            self.foreign = False
            return True
        for name in OPTIONAL:
            if name in self._sent and re.search(rf"\b{name}\b", lower):
                self.without.add(name)
                return True
        return False


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": False,
    }


@lru_cache(maxsize=4096)
def _items(message: Message, native: Native | None, foreign: bool) -> tuple[bytes, ...]:
    """The input items of one message, as JSON bytes, made once."""
    if message.role == "system":
        return ()
    if message.role == "user":
        return (dump({"role": "user", "content": message.content}),)
    if message.role == "tool":
        call = _short(message.tool_call_id or "")
        return (dump({"type": "function_call_output", "call_id": call, "output": message.content}),)
    if native is not None and (items := _native_items(message, native)):
        return items
    made: list[dict[str, Any]] = []
    if foreign and message.reasoning:
        thought = [{"type": "reasoning_text", "text": message.reasoning}]
        digest = hashlib.sha256(message.reasoning.encode("utf-8", "replace")).hexdigest()[:24]
        made.append({"type": "reasoning", "id": f"rs_{digest}", "summary": [], "content": thought})
    if message.content:
        made.append({"role": "assistant", "content": message.content})
    made += [
        {"type": "function_call", "call_id": _short(c.id), "name": c.name, "arguments": c.arguments}
        for c in message.tool_calls
    ]
    return tuple(dump(item) for item in made)


def _native_items(message: Message, native: Native) -> tuple[bytes, ...]:
    """The output items as they came; none if they no longer say what the message says."""
    items: list[dict[str, Any]] = json.loads(native.json)
    parts = [part for item in items if item["type"] == "message" for part in item.get("content") or ()]
    texts = "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    ids = [item.get("call_id") for item in items if item["type"] == "function_call"]
    if texts != message.content or ids != [call.id for call in message.tool_calls]:
        return ()
    return tuple(dump(item) for item in items)


def _short(id: str) -> str:
    """An id of at most 64 characters, the same for the same id."""
    return id if len(id) <= 64 else id[:50] + "_" + hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:12]
