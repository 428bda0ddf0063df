"""Messages: what a conversation is made of, and its OpenAI-compatible wire form.

A `Message` is immutable. `reasoning` travels as `reasoning_content`, byte for byte. `token_ids` are the ids a
local model sampled for this message: they are the truth for the engine and are never sent over a wire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: `id` is `functions.NAME:IDX` (one counter per conversation), `arguments` the JSON text as written."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    token_ids: tuple[int, ...] = ()

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
    def from_wire(cls, wire: dict[str, Any]) -> Message:
        """Read an OpenAI chat-completions dict. Raises KeyError when `role` is missing."""
        calls = tuple(
            ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in wire.get("tool_calls") or ()
        )
        return cls(
            role=wire["role"],
            content=wire.get("content") or "",
            reasoning=wire.get("reasoning_content"),
            tool_calls=calls,
            tool_call_id=wire.get("tool_call_id"),
            name=wire.get("name"),
        )

    def to_json(self) -> dict[str, Any]:
        """The wire form plus the sampled ids: what logs and training records store."""
        data = self.to_wire()
        if self.token_ids:
            data["token_ids"] = list(self.token_ids)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Message:
        return replace(cls.from_wire(data), token_ids=tuple(data.get("token_ids") or ()))


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
