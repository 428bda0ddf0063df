"""Messages: what a conversation is made of, and its OpenAI-compatible wire form.

A `Message` is immutable. `reasoning` travels as `reasoning_content`, byte for byte. `token_ids` are the ids a
local model sampled for this message: they are the truth for the engine and are never sent over a wire. `native` goes
back only to the service that it came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from openk2.errors import UserError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's older name
}


class BadMessage(UserError, ValueError):
    """A message that cannot be sent to a model: the sentence names the field."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: `id` is `functions.NAME:IDX` (one counter per conversation), `arguments` the JSON text as written.

    Ids of other providers may have any form or be empty; `chat/call_ids.py` puts them right.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Native:
    """What one service has to be sent back of its own message, and no other understands.

    `origin` names the service (its API and host); `json` is the text to send back, byte for byte: signed thinking,
    encrypted reasoning, output items. A service ignores what is not its own.
    """

    origin: str
    json: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    token_ids: tuple[int, ...] = ()
    native: Native | None = None

    def to_wire(self) -> dict[str, Any]:
        """The message as an OpenAI chat-completions dict, reasoning included."""
        wire: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            wire["reasoning_content"] = self.reasoning
        if self.tool_calls:
            wire["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        if self.tool_call_id is not None:
            wire["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            wire["name"] = self.name
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Message:
        """Read an OpenAI chat-completions dict. Raises BadMessage, naming what is missing or not understood."""
        if not isinstance(wire, Mapping):
            raise BadMessage(f"A message is an object with a role, not {_kind(wire)}.")
        role = ROLES.get(wire.get("role") or "") if isinstance(wire.get("role"), str | None) else None
        if role is None:
            raise BadMessage(f"unknown role {wire.get('role')!r}: use system, user, assistant or tool")
        reasoning = wire.get("reasoning_content", wire.get("reasoning"))  # the second is vLLM's newer name
        return cls(
            role=role,
            content=_content(wire.get("content")),
            reasoning=_text(reasoning, "reasoning_content"),
            tool_calls=tuple(_call(call) for call in _list(wire.get("tool_calls"), "tool_calls")),
            tool_call_id=_text(wire.get("tool_call_id"), "tool_call_id"),
            name=_text(wire.get("name"), "name"),
        )

    def to_json(self) -> dict[str, Any]:
        """The wire form plus the sampled ids and the native form: what logs and training records store."""
        data = self.to_wire()
        if self.token_ids:
            data["token_ids"] = list(self.token_ids)
        if self.native:
            data["native"] = {"origin": self.native.origin, "json": self.native.json}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Message:
        native = data.get("native")
        return replace(
            cls.from_wire(data),
            token_ids=tuple(data.get("token_ids") or ()),
            native=Native(native["origin"], native["json"]) if native else None,
        )


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told of a tool: `parameters` is a JSON Schema object."""

    name: str
    description: str
    parameters: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        """The tool as an entry of the OpenAI `tools` array."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": self.parameters},
        }


def _content(content: Any) -> str:
    """The text of a message. A list of text parts is one text, as in Kimi's template; other parts are refused."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for part in _list(content, "content"):
        kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and kind in ("text", "input_text", "output_text", None) and "text" in part:
            texts.append(_text(part["text"], "text") or "")
        else:
            raise BadMessage(f"A content part of type {kind!r} cannot be read: this model reads text only; remove it.")
    return "".join(texts)


def _call(call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadMessage("A tool call needs `function` with a `name`; one in the conversation has none.")
    arguments = function.get("arguments")
    if not isinstance(arguments, str):  # some clients send the object itself; Kimi's template writes it like this
        arguments = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(_text(call.get("id"), "id") or "", function["name"], arguments)


def _text(value: Any, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise BadMessage(f"The field `{field}` of a message is text, not {_kind(value)}.")


def _list(value: Any, field: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    raise BadMessage(f"The field `{field}` of a message is a list, not {_kind(value)}.")


def _kind(value: Any) -> str:
    return {bool: "a truth value", int: "a number", float: "a number", str: "text", dict: "an object"}.get(
        type(value), "a list" if isinstance(value, list | tuple) else type(value).__name__
    )
