"""What only the Anthropic Messages API has: signed and redacted blocks, pauses, its cache, its rules for turns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fault_server import FaultServer, events, http  # type: ignore[import-not-found]
from test_conformance import ASK, TOOLS, collect, provider, reply  # type: ignore[import-not-found]

from openk2.chat.messages import Message, ToolCall
from openk2.errors import UserError
from openk2.providers.anthropic import AnthropicProvider
from openk2.providers.base import Limits, Price, Reply

from dialects import ANTHROPIC, Said, anthropic_stream  # type: ignore[import-not-found]  # isort: skip

MIXED = [
    {"type": "thinking", "thinking": "First é.", "signature": "sigA=="},
    {"type": "redacted_thinking", "data": "EmwKAhgB"},
    {"type": "text", "text": "I look."},
    {"type": "thinking", "thinking": "", "signature": "sigB=="},
    {"type": "tool_use", "id": "toolu_1", "name": "next", "input": {"n": 1}},
]


def whole(blocks: list[dict[str, Any]], stop: str = "tool_use", **usage: int) -> list[bytes]:
    counts = {"input_tokens": 10, "output_tokens": 5, **usage}
    return [http(200, json.dumps({"type": "message", "content": blocks, "stop_reason": stop, "usage": counts}))]


def sent(model: str, limits: Limits, messages: Any = ASK, host: str = "api.anthropic.com") -> dict[str, Any]:
    return json.loads(AnthropicProvider(model, f"https://{host}/v1")._body(messages, TOOLS, limits))


def test_blocks_go_back_in_their_order_and_unchanged() -> None:
    with FaultServer(lambda *_: whole(MIXED)) as server:
        source = provider(ANTHROPIC, server.url)
        end = reply(source)
        stored = Message.from_json(json.loads(json.dumps(end.message.to_json())))  # through the log
        reply(source, (*ASK, stored, Message("tool", "2", tool_call_id="toolu_1")))
        turns = server.requests[1].json["messages"]
    assert (end.message.reasoning, end.message.content) == ("First é.", "I look.")
    assert turns[1] == {"role": "assistant", "content": MIXED}
    assert [block["type"] for block in turns[2]["content"]] == ["tool_result"]


def test_a_changed_message_is_written_anew() -> None:
    with FaultServer(lambda *_: whole(MIXED)) as server:
        source = provider(ANTHROPIC, server.url)
        message = reply(source).message
        changed = Message("assistant", "I looked.", message.reasoning, message.tool_calls, native=message.native)
        reply(source, (*ASK, changed, Message("tool", "2", tool_call_id="toolu_1")))
        content = server.requests[1].json["messages"][1]["content"]
    assert [block.get("text") for block in content if block["type"] == "text"] == ["I looked."]
    assert "sigA" not in json.dumps(content)


def test_signatures_of_another_model_are_not_sent() -> None:
    with FaultServer(lambda *_: whole(MIXED)) as server:
        message = reply(provider(ANTHROPIC, server.url)).message
        other = AnthropicProvider("claude-other", server.url)
        reply(other, (*ASK, message, Message("tool", "2", tool_call_id="toolu_1")))
        assert b"sigA" not in server.requests[1].body
    content = sent("claude-opus-5", Limits(), (*ASK, message, Message("tool", "2", tool_call_id="toolu_1")))["messages"]
    assert [block["type"] for block in content[1]["content"]] == [
        "text",
        "tool_use",
    ]  # Anthropic takes no thought unsigned


def test_all_results_of_a_turn_are_one_turn_of_the_user() -> None:
    calls = tuple(ToolCall(f"functions.next:{n}", "next", f'{{"n": {n}}}') for n in range(3))
    history = (
        *ASK,
        Message("assistant", "", None, calls),
        *(Message("tool", f"r{n}", tool_call_id=call.id) for n, call in enumerate(calls)),
        Message("user", "Go on."),
    )
    turns = sent("claude-opus-5", Limits(), history)["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    uses, results = turns[1]["content"], turns[2]["content"]
    assert [block["type"] for block in results] == ["tool_result"] * 3 + ["text"]
    assert [block["id"] for block in uses] == [block["tool_use_id"] for block in results[:3]]
    assert all(id.replace("_", "").replace("-", "").isalnum() for id in (block["id"] for block in uses))
    broken = (
        *ASK,
        Message("assistant", "", None, (ToolCall("a", "next", '{"n": '),)),
        Message("tool", "", tool_call_id="a"),
    )
    assert sent("claude-opus-5", Limits(), broken)["messages"][1]["content"][0]["input"] == {"arguments": '{"n": '}


def test_the_stable_beginning_is_marked_for_the_cache() -> None:
    def marks(request: dict[str, Any]) -> list[bool]:
        blocks = [block for turn in request["messages"] for block in turn["content"]]
        return ["cache_control" in block for block in blocks]

    history = [*ASK]
    request: dict[str, Any] = {}
    for n in range(5):
        history += [
            Message("assistant", f"a{n}", None, (ToolCall(f"c{n}", "next", "{}"),)),
            Message("tool", "r", tool_call_id=f"c{n}"),
        ]
        request = sent("claude-opus-5", Limits(), history)
        assert "cache_control" in request["system"][-1]  # and the tools, which come before it
        assert marks(request)[-1] and sum(marks(request)) == 2  # four are allowed
    assert marks(request)[-4]  # where the last request ended


def test_writing_to_the_cache_costs_more() -> None:
    usage = {"input_tokens": 100, "cache_creation_input_tokens": 1000, "cache_read_input_tokens": 5000}
    with FaultServer(lambda *_: whole([{"type": "text", "text": "x"}], "end_turn", **usage)) as server:
        end = reply(provider(ANTHROPIC, server.url, price=Price(4.0, 0.4, 20.0, 5.0)))
    assert (end.usage.prompt, end.usage.cached) == (6100, 5000)
    assert end.usage.money == pytest.approx((100 * 4 + 1000 * 5 + 5000 * 0.4 + 5 * 20) / 1e6)


def test_a_paused_turn_goes_on() -> None:
    first = [{"type": "thinking", "thinking": "T1", "signature": "s1"}, {"type": "text", "text": "One, "}]
    second = [{"type": "thinking", "thinking": "T2", "signature": "s2"}, {"type": "text", "text": "two."}]
    answers = [whole(first, "pause_turn"), whole(second, "end_turn")]
    with FaultServer(lambda s, _: answers[len(s.requests) - 1]) as server:
        pieces = collect(provider(ANTHROPIC, server.url))
        assert server.requests[1].json["messages"][-1] == {"role": "assistant", "content": first}
    end = pieces[-1]
    assert isinstance(end, Reply) and sum(isinstance(piece, Reply) for piece in pieces) == 1
    assert (end.message.content, end.message.reasoning, end.usage.completion) == ("One, two.", "T1T2", 10)
    assert end.message.native and json.loads(end.message.native.json) == [*first, *second]


def test_stop_reasons() -> None:
    for stop, finish in [
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("stop_sequence", "stop"),
    ]:
        with FaultServer(lambda *_, s=stop: whole([{"type": "text", "text": "x"}], s)) as server:
            assert reply(provider(ANTHROPIC, server.url)).finish_reason == finish
    with FaultServer(lambda *_: whole([], "refusal")) as server, pytest.raises(UserError, match="declined to answer"):
        reply(provider(ANTHROPIC, server.url))


@pytest.mark.parametrize(
    ("model", "limits", "thinking", "effort"),
    [
        ("claude-opus-5-5", Limits(), {"type": "adaptive", "display": "summarized"}, None),
        ("claude-sonnet-4-6", Limits(effort="max"), {"type": "adaptive", "display": "summarized"}, "max"),
        ("claude-haiku-4-5-20251001", Limits(effort="low"), {"type": "enabled", "budget_tokens": 4000}, None),
        ("claude-haiku-4-5", Limits(thinking_tokens=9000), {"type": "enabled", "budget_tokens": 9000}, None),
        ("claude-haiku-4-5", Limits(5000, thinking_tokens=9000), {"type": "enabled", "budget_tokens": 3976}, None),
        ("claude-haiku-4-5", Limits(max_tokens=500), None, None),  # no room to think
        ("claude-opus-5-5", Limits(thinking_tokens=0), None, None),
        ("claude-opus-5-5", Limits(tool_choice="required"), None, None),
        ("claude-3-5-haiku-20241022", Limits(effort="high"), None, None),
    ],
)  # fmt: skip
def test_thinking_is_asked_for_by_model(model: str, limits: Limits, thinking: Any, effort: str | None) -> None:
    request = sent(model, limits)
    assert request.get("thinking") == thinking
    assert request.get("output_config", {}).get("effort") == effort
    assert request["max_tokens"] > request.get("thinking", {}).get("budget_tokens", 0)


def test_thinking_bound_to_another_beginning_is_dropped_by_the_service() -> None:
    def answer(_: Any, request: Any) -> list[bytes]:
        if "block_binding" not in json.dumps(request.json):
            said = (
                "messages.1.content.0: Invalid `signature` in `thinking` block. The block is bound to a different "
                "conversation. Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "
                '"drop_block".'
            )
            return [
                http(400, json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": said}}))
            ]
        assert "thinking-binding-controls-2026-08-01" in request.headers["anthropic-beta"]
        return whole(MIXED)

    with FaultServer(answer) as server:
        source = AnthropicProvider("claude-opus-5-5", server.url)
        reply(source, limits=Limits(effort="high"))
        reply(source, limits=Limits(effort="high"))
        assert len(server.requests) == 3


def test_refused_signatures_are_left_out_and_later_ones_sent() -> None:
    def answer(server: FaultServer, request: Any) -> list[bytes]:
        if "sigA" in request.body.decode() and len(server.requests) == 2:
            said = "messages.1.content.0: Invalid `signature` in `thinking` block"
            return [http(400, json.dumps({"error": {"message": said}}))]
        return whole([{**block, "id": f"toolu_{len(server.requests)}"} if "id" in block else block for block in MIXED])

    with FaultServer(answer) as server:
        source = provider(ANTHROPIC, server.url)
        history = list(ASK)
        for _ in range(3):
            message = reply(source, history).message
            history += [message, Message("tool", "2", tool_call_id=message.tool_calls[0].id)]
        assert b"sigA" not in server.requests[2].body
        assert server.requests[3].body.count(b"sigA") == 1  # of the reply that came since


def test_addresses_of_the_api() -> None:
    for url in ("https://api.anthropic.com", "https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages"):
        assert AnthropicProvider("m", url).base_url == "https://api.anthropic.com/v1"
    assert (
        AnthropicProvider("m", "https://api.moonshot.ai/anthropic").base_url == "https://api.moonshot.ai/anthropic/v1"
    )


def test_an_error_in_the_middle_voids_what_was_shown() -> None:
    broken = [
        *anthropic_stream(Said("half of it"), 3)[:5],
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ]
    answers = [events(broken), events(anthropic_stream(Said("whole"), 3))]
    with FaultServer(lambda s, _: answers[len(s.requests) - 1]) as server:
        assert reply(provider(ANTHROPIC, server.url)).message.content == "whole"


def test_an_older_model_does_not_think_in_the_turn_of_another() -> None:
    call = ToolCall("a", "next", "{}")
    history = (*ASK, Message("assistant", "", "t", (call,)), Message("tool", "r", tool_call_id="a"))
    assert "thinking" not in sent("claude-haiku-4-5", Limits(), history)
    assert "thinking" in sent("claude-haiku-4-5", Limits(), (*history, Message("assistant", "2"), Message("user", "q")))
    assert "thinking" in sent("claude-opus-5", Limits(), history)
