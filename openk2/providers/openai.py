"""Models behind an OpenAI-compatible chat-completions server: Kimi, vLLM, SGLang, llama.cpp and others.

The reasoning of every message goes back byte for byte. Each message's JSON is made once: a step joins bytes, it does
not serialise the history again. Servers differ in the optional fields they take; one that refuses a field is asked
again without it, and the refusal is remembered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from openk2.chat.call_ids import canonical, index_of
from openk2.chat.messages import Message, Native, ToolCall, ToolSpec
from openk2.chat.text_parser import BEGIN_CALL
from openk2.providers.base import Limits
from openk2.providers.chat_reply import ChatReading
from openk2.providers.http import Remote, dump
from openk2.providers.vendors import WORDS, vendor

WANTED = ("missing", "required", "must be", "passed back")  # in a refusal: the field is to be there
OPTIONAL = (
    "stream_options", "temperature", "top_p", "seed", "stop", "tool_choice", "thinking_token_budget",
    "thinking_budget", "enable_thinking", "thinking", "reasoning",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a server wants messages: see `vendors.Vendor`."""

    echo: tuple[str, ...]
    fill: bool = False
    short_ids: bool = False


class OpenAIProvider(Remote):
    """Chat completions."""

    api, path = "chat", "/chat/completions"

    def _set_up(self) -> None:
        self.vendor = vendor(self.host)
        self.spelling = Spelling(self.vendor.echo, self.vendor.fill, self.vendor.short_ids)
        self.weaker = 0  # how many words for an effort this server refused

    @property
    def _kimi(self) -> bool:
        return "kimi" in (self.model or "").lower()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def _body(self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits) -> bytes:
        fields: dict[str, Any] = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        if tools:
            fields["tools"] = [tool.to_wire() for tool in tools]
            if limits.tool_choice in ("auto", "none", "required"):
                fields["tool_choice"] = limits.tool_choice
            elif limits.tool_choice is not None:
                fields["tool_choice"] = {"type": "function", "function": {"name": limits.tool_choice}}
        longest = "max_completion_tokens" if "max_tokens" in self.without else self.vendor.longest
        given = {
            longest: self._longest(limits, self.vendor.default),
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "seed": limits.seed,
            "stop": list(limits.stop) or None,
        }
        fields |= {name: value for name, value in given.items() if value is not None}
        if self.vendor.thinking:
            fields |= self.vendor.thinking((self.model or "").lower(), limits)
        if limits.effort and isinstance(fields.get("reasoning_effort"), str):
            words = WORDS[limits.effort][self.weaker :]
            fields |= {"reasoning_effort": words[0]} if words and self.weaker else {}
            if not words:
                del fields["reasoning_effort"]
        self._sent = {name: value for name, value in fields.items() if name not in self.without}
        if self._kimi and not _is_canonical(messages):
            messages = canonical(messages)  # K2 stops calling tools where it sees ids of another form
        joined = b",".join(_wire(message, self.spelling, self._own(message)) for message in messages)
        return b'%b,"messages":[%b]}' % (dump(self._sent)[:-1], joined)

    def _reading(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sent: int) -> ChatReading:
        # Where the model was given the markup of calls to read, its reply may quote it: then no text becomes a call.
        given = any(BEGIN_CALL in message.content for message in messages if message.role != "assistant")
        names = () if given else [tool.name for tool in tools]
        return ChatReading(names, sent, self.origin, self.where, self._heard)

    def _heard(self, field: str) -> None:
        """Reasoning came in this field, so this is the one that the server reads."""
        if set(self.spelling.echo) == {"reasoning_content", "reasoning"}:
            self.spelling = replace(self.spelling, echo=(field,))

    def _adapt(self, text: str, messages: Sequence[Message]) -> bool:
        lower = text.lower()
        signed = any(word in lower for word in ("signature", "reasoning_details", "extra_content"))
        if signed and self._forget(messages):
            return True
        if self._adapt_echo(lower):
            return True
        if "tool call id" in lower and not self.spelling.short_ids:
            self.spelling = replace(self.spelling, short_ids=True)
            return True
        if "effort" in lower and "reasoning_effort" in self._sent:
            self.weaker += 1
            return True
        for name in ("max_tokens", "max_completion_tokens"):
            if name in lower and name in self._sent:
                if self._learn_most(lower, self._sent[name]):
                    return True
                if name == "max_tokens" and "max_completion_tokens" in lower:
                    self.without.add(name)
                    return True
        for name in OPTIONAL:
            if name in self._sent and re.search(rf"\b{name}\b", lower):
                self.without.add(name)
                return True
        return False

    def _adapt_echo(self, lower: str) -> bool:
        """Whether a refusal is about reasoning in messages, and the next request has it otherwise."""
        for name in ("reasoning_content", "reasoning"):
            about = name == "reasoning_content" or re.search(r"messages?\W.*\breasoning\b|['\"`]reasoning['\"`]", lower)
            if not re.search(rf"\b{name}\b", lower) or not about:
                continue
            filled = replace(self.spelling, echo=(name,), fill=True)
            without = replace(self.spelling, echo=tuple(n for n in self.spelling.echo if n != name), fill=False)
            before = self.spelling
            wanted = any(word in lower for word in WANTED) and before != filled
            self.spelling = filled if wanted else without
            if self.spelling != before:
                return True
        return False

    def _keeps(self, call: ToolCall, number: int) -> bool:
        return super()._keeps(call, number) and (not self._kimi or index_of(call) == number)


def _is_canonical(messages: Sequence[Message]) -> bool:
    """Whether all ids are Kimi's, counting up. Gaps are fine: old messages may have been left out."""
    last = -1
    for message in messages:
        for call in message.tool_calls:
            index = index_of(call)
            if index is None or index <= last:
                return False
            last = index
    return True


@lru_cache(maxsize=4096)
def _wire(message: Message, spelling: Spelling, native: Native | None) -> bytes:
    """The JSON bytes of one message, made once for each spelling."""
    wire = message.to_wire()
    reasoning = wire.pop("reasoning_content", None)
    own: dict[str, Any] = json.loads(native.json) if native else {}
    if message.content not in own.get("content", message.content):
        own = {}  # the message was changed since
    if "content" not in own:  # there the reasoning is in the content
        if reasoning is None and spelling.fill and message.role == "assistant":
            reasoning = ""
        wire |= {name: reasoning for name in spelling.echo if reasoning is not None}
    for call, extra in zip(wire.get("tool_calls", ()), own.pop("tool_calls", ()), strict=False):
        call |= {"extra_content": extra} if extra else {}
    wire |= own
    if spelling.short_ids:
        for call in wire.get("tool_calls", ()):
            call["id"] = _short(call["id"])
        if message.tool_call_id is not None:
            wire["tool_call_id"] = _short(message.tool_call_id)
    return dump(wire)


def _short(id: str) -> str:
    """Nine letters and digits, as Mistral's ids are."""
    return id if re.fullmatch(r"[a-zA-Z0-9]{9}", id) else hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:9]
