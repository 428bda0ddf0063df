"""Claude, and other models behind the Anthropic Messages API.

Thinking goes back as it came: blocks with their signatures, redacted blocks and their order stand in `Message.native`,
byte for byte. Every message's JSON is made once. The beginning that does not change from step to step is marked for
the service's cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any

from openk2.chat.messages import Message, Native, ToolSpec
from openk2.providers.anthropic_reply import AnthropicReading, Paused, joined
from openk2.providers.base import Delta, Limits, Reply, Usage
from openk2.providers.http import Remote, dump
from openk2.providers.vendors import WORDS

LONGEST = 32_000  # tokens of a reply where nobody limits it; the API wants a limit
THINKING = 16_000  # tokens of thinking where nobody says how many
BUDGETS = {"low": 4_000, "medium": 12_000, "high": 24_000, "max": 48_000}  # for models that take no effort
LEAST = 1_024  # tokens of thinking that the API takes
PAUSES = 16  # times that one reply may be continued
BETA = {"interleaved": "interleaved-thinking-2025-05-14", "binding": "thinking-binding-controls-2026-08-01"}
OPTIONAL = ("temperature", "top_p", "stop_sequences", "output_config", "thinking", "tool_choice", "cache_control")
CACHED = b'"cache_control":{"type":"ephemeral"}'
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2}))?(?:\D|$)")


class AnthropicProvider(Remote):
    """The Messages API. Anthropic's own host takes only what it signed; others take plain thoughts too."""

    api, path = "anthropic", "/messages"

    def _set_up(self) -> None:
        if not self.base_url.endswith("/v1"):
            self.base_url += "/v1"
        self.foreign = self.host != "api.anthropic.com"  # whether thoughts of other models are taken
        self.binding = False  # whether to ask that thinking behind a changed beginning is dropped, not refused
        self.adaptive = self._version() >= (4, 6)  # whether the model thinks by an effort, not by a number of tokens
        self.weaker = 0  # how many words for an effort this server refused

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        """See `Provider.stream`. A reply that the service pauses is continued."""
        so_far: Message | None = None
        usage = Usage()
        for last in range(PAUSES, 0, -1):
            asked = [*messages, so_far] if so_far else messages
            stream: Any = super().stream(asked, tools, limits)
            async with aclosing(stream):
                async for piece in stream:
                    if not isinstance(piece, Reply):
                        yield piece
                        continue
                    message, usage = joined(so_far, piece.message), usage + piece.usage
                    if not isinstance(piece, Paused) or last == 1:
                        yield Reply(message, usage, piece.finish_reason)
                        return
                    so_far = message

    def _headers(self) -> dict[str, str]:
        headers = {"anthropic-version": "2023-06-01"}
        if self.key:
            headers["x-api-key"] = self.key
            if self.foreign:
                headers["Authorization"] = f"Bearer {self.key}"
        betas = [BETA["binding"]] if self.binding else []
        if self._sent.get("thinking", {}).get("type") == "enabled" and not self.foreign:
            betas.append(BETA["interleaved"])
        if betas:
            headers["anthropic-beta"] = ",".join(betas)
        return headers

    def _body(self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits) -> bytes:
        longest = self._longest(limits, LONGEST) or LONGEST
        fields: dict[str, Any] = {"model": self.model, "max_tokens": longest, "stream": True}
        if tools:
            fields["tools"] = [_tool(tool) for tool in tools]
            choice = limits.tool_choice
            kinds = {"auto": "auto", "none": "none", "required": "any"}
            if choice is not None:
                fields["tool_choice"] = {"type": kinds[choice]} if choice in kinds else {"type": "tool", "name": choice}
        fields |= self._thinking(messages, limits, longest)
        if "thinking" not in fields:  # with thinking, the service sets them itself
            fields |= {n: v for n, v in (("temperature", limits.temperature), ("top_p", limits.top_p)) if v is not None}
        if limits.stop:
            fields["stop_sequences"] = list(limits.stop)
        self._sent = {name: value for name, value in fields.items() if name not in self.without}
        marked = "cache_control" not in self.without
        system = "\n\n".join(m.content for m in messages if m.role == "system" and m.content)
        head = dump(self._sent)[:-1]
        if system:
            block = dump({"type": "text", "text": system})
            head += b',"system":[%b]' % (_cached(block) if marked else block)
        return b'%b,"messages":[%b]}' % (head, b",".join(self._turns(messages, marked)))

    def _thinking(self, messages: Sequence[Message], limits: Limits, longest: int) -> dict[str, Any]:
        """The fields that ask for thinking. A tool that has to be called excludes it."""
        if limits.tool_choice not in (None, "auto", "none"):
            return {}
        if not self.adaptive and not self.foreign and self._in_turn_of_another(messages):
            return {}
        if self.foreign and limits.effort is None and limits.thinking_tokens is None:
            return {}  # what the server does by itself
        if limits.thinking_tokens == 0:
            return {"thinking": {"type": "disabled"}} if self.foreign else {}
        bound = {"block_binding": {"prefix_mismatch_behavior": "drop_block"}} if self.binding else {}
        if self.adaptive:
            words = WORDS[limits.effort][self.weaker :] if limits.effort else ()
            effort = {"output_config": {"effort": words[0]}} if words else {}
            return {"thinking": {"type": "adaptive", "display": "summarized", **bound}, **effort}
        if self._version() < (3, 7):
            return {}
        budget = limits.thinking_tokens or (BUDGETS[limits.effort] if limits.effort else THINKING)
        budget = max(LEAST, min(budget, longest - LEAST))
        return {"thinking": {"type": "enabled", "budget_tokens": budget, **bound}} if budget < longest else {}

    def _in_turn_of_another(self, messages: Sequence[Message]) -> bool:
        """Whether results follow calls that this model did not sign: older ones then refuse to think."""
        if not messages or messages[-1].role != "tool":
            return False
        last = next((message for message in reversed(messages) if message.role == "assistant"), None)
        return last is not None and self._own(last) is None

    def _version(self) -> tuple[int, int]:
        """Of Claude, from its name; models of others think by a budget. A name without a number is a new one."""
        name = self.model or ""
        if "claude" not in name:
            return (4, 0)
        match = _VERSION.search(name)
        return (int(match[1]), int(match[2] or 0)) if match else (5, 0)

    def _turns(self, messages: Sequence[Message], marked: bool) -> list[bytes]:
        """The messages as turns of user and assistant. The last two turns of the user end in a mark for the cache."""
        turns: list[tuple[str, list[bytes]]] = []
        for message in messages:
            if message.role == "system":
                continue
            role = "assistant" if message.role == "assistant" else "user"
            blocks = _blocks(message, self._own(message), self.foreign)
            if not blocks:
                continue
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(blocks)
            else:
                turns.append((role, [*blocks]))
        users = [blocks for role, blocks in turns if role == "user"]
        for blocks in users[-2:] if marked else ():
            blocks[-1] = _cached(blocks[-1])
        return [b'{"role":"%b","content":[%b]}' % (role.encode(), b",".join(blocks)) for role, blocks in turns]

    def _reading(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sent: int) -> AnthropicReading:
        return AnthropicReading(sent, self.origin, self.where)

    def _adapt(self, text: str, messages: Sequence[Message]) -> bool:
        lower = text.lower()
        if "drop_block" in lower and not self.binding:
            self.binding = True
            return True
        if "adaptive" in lower and "thinking" in self._sent and "adaptive" not in self.without:
            self.without.add("adaptive")  # said once
            self.adaptive = not self.adaptive
            return True
        if "signature" in lower or "redacted_thinking" in lower or ("thinking" in lower and "block" in lower):
            if self._forget(messages):
                return True
            self.foreign, changed = False, self.foreign
            return changed
        if "max_tokens" in lower and "thinking" not in lower and self._learn_most(lower, self._sent["max_tokens"]):
            return True
        if "effort" in lower and "output_config" in self._sent:
            self.weaker += 1
            return True
        for name in OPTIONAL:
            sent = name in self._sent or (name == "cache_control" and name not in self.without)
            if sent and re.search(rf"\b{name}\b", lower):
                self.without.add(name)
                return True
        return False


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _cached(block: bytes) -> bytes:
    return b"%b,%b}" % (block[:-1], CACHED)


@lru_cache(maxsize=4096)
def _blocks(message: Message, native: Native | None, foreign: bool) -> tuple[bytes, ...]:
    """The content blocks of one message, as JSON bytes, made once."""
    if message.role == "tool":
        block = {"type": "tool_result", "tool_use_id": plain_id(message.tool_call_id or ""), "content": message.content}
        return (dump(block),)
    if native is not None and (blocks := _native_blocks(message, native)):
        return blocks
    made: list[dict[str, Any]] = []
    if foreign and message.reasoning:
        made.append({"type": "thinking", "thinking": message.reasoning, "signature": ""})
    if message.content.strip():  # empty texts are refused
        made.append({"type": "text", "text": message.content})
    made += [
        {"type": "tool_use", "id": plain_id(c.id), "name": c.name, "input": _input(c.arguments)}
        for c in message.tool_calls
    ]
    return tuple(dump(block) for block in made)


def _native_blocks(message: Message, native: Native) -> tuple[bytes, ...]:
    """The blocks as they came; none if they no longer say what the message says."""
    blocks: list[dict[str, Any]] = json.loads(native.json)
    texts = "".join(block.get("text", "") for block in blocks if block["type"] == "text")
    ids = [block.get("id") for block in blocks if block["type"] == "tool_use"]
    if texts != message.content or ids != [call.id for call in message.tool_calls]:
        return ()
    return tuple(dump(block) for block in blocks if block.get("type") != "text" or block.get("text", "").strip())


def _input(arguments: str) -> dict[str, Any]:
    """The API wants an object: what is none goes back under one name, so that the model sees what it wrote."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments} if arguments.strip() else {}


@lru_cache(maxsize=4096)
def plain_id(id: str) -> str:
    """An id of letters, digits, `_` and `-`, the same for the same id."""
    if re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", id):
        return id
    digest = hashlib.sha256(id.encode("utf-8", "replace")).hexdigest()[:8]
    return re.sub(r"[^a-zA-Z0-9_-]", "_", id)[:55] + "_" + digest
