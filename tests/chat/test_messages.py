from __future__ import annotations

import json
import random

import pytest

from openk2.chat.messages import BadMessage, Message, Native, ToolCall
from openk2.errors import UserError

from conversations import conversation  # isort: skip


def test_wire_and_json_round_trip() -> None:
    rng = random.Random(1)
    for _ in range(200):
        for wire in conversation(rng):
            message = Message.from_wire(wire)
            assert Message.from_wire(json.loads(json.dumps(message.to_wire()))) == message
            assert Message.from_json(json.loads(json.dumps(message.to_json()))) == message


def test_what_clients_send() -> None:
    assert Message.from_wire({"role": "developer", "content": "x"}).role == "system"
    assert Message.from_wire({"role": "function", "name": "f", "content": None}) == Message("tool", name="f")
    assert Message.from_wire({"role": "assistant", "content": "x", "reasoning": "r"}).reasoning == "r"
    assert Message.from_wire({"role": "assistant", "reasoning_content": "", "reasoning": "r"}).reasoning == ""
    parts = [{"type": "text", "text": "a"}, {"text": "b"}, "c", {"type": "input_text", "text": "d"}]
    assert Message.from_wire({"role": "user", "content": parts}).content == "abcd"
    assert Message.from_wire({"role": "user", "content": []}).content == ""
    call = {"function": {"name": "f", "arguments": {"ä": [1, 2.5, None]}}}
    assert Message.from_wire({"role": "assistant", "tool_calls": [call]}).tool_calls == (
        ToolCall("", "f", '{"ä": [1, 2.5, null]}'),
    )


@pytest.mark.parametrize(
    ("wire", "named"),
    [
        ({"content": "x"}, "role"),
        ({"role": "critic"}, "critic"),
        ({"role": ["user"]}, "role"),
        ("text", "text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image_url"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input_audio"),
        ({"role": "user", "content": [{"type": "file", "text": "x"}]}, "file"),
        ({"role": "user", "content": [{"type": "text"}]}, "text"),
        ({"role": "user", "content": [7]}, "a number"),
        ({"role": "user", "content": 7}, "content"),
        ({"role": "user", "content": {"text": "x"}}, "content"),
        ({"role": "assistant", "tool_calls": {"id": "x"}}, "tool_calls"),
        ({"role": "assistant", "tool_calls": ["x"]}, "function"),
        ({"role": "assistant", "tool_calls": [{"id": "x", "function": {}}]}, "name"),
        ({"role": "assistant", "tool_calls": [{"id": 1, "function": {"name": "f"}}]}, "id"),
        ({"role": "assistant", "reasoning_content": ["x"]}, "reasoning_content"),
        ({"role": "tool", "tool_call_id": 3}, "tool_call_id"),
        ({"role": "user", "name": {}}, "name"),
    ],
)
def test_what_cannot_be_read_is_named(wire: dict, named: str) -> None:
    with pytest.raises(UserError, match=named) as error:
        Message.from_wire(wire)
    assert isinstance(error.value, BadMessage | ValueError)


def test_the_native_form_is_logged_and_stays_with_its_service() -> None:
    text = '[{"type":"thinking","thinking":"é\\u00e9 \\ud800","signature":"EqQB=="}]'
    message = Message("assistant", "hi", "é", native=Native("anthropic api.anthropic.com", text))
    stored = json.loads(json.dumps(message.to_json()))
    assert Message.from_json(stored) == message and stored["native"]["json"] == text
    assert "native" not in message.to_wire()
    assert Message.from_wire(stored).native is None  # what a client sends is no native form
