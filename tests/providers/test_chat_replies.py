"""Chat completions as servers really give them: calls and thoughts in the wrong place, vendors with own fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fault_server import FaultServer, events, http  # type: ignore[import-not-found]
from test_conformance import ASK, TOOLS, collect, provider, reply, shown  # type: ignore[import-not-found]

from openk2.chat.messages import Message, ToolCall
from openk2.errors import UserError
from openk2.providers.base import Limits, Reply
from openk2.providers.chat_reply import ChatReading
from openk2.providers.openai import OpenAIProvider
from openk2.providers.vendors import VENDORS, vendor

from dialects import CHAT, DONE, Said  # type: ignore[import-not-found]  # isort: skip

CALL = '<|tool_call_begin|>functions.next:0<|tool_call_argument_begin|>{"n": 1}<|tool_call_end|>'
SECTION = f"<|tool_calls_section_begin|>{CALL}<|tool_calls_section_end|>"
OTHER = SECTION.replace("functions.next", "functions.format_disk")


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def said(*chunks: Any, **named: Any) -> Reply:
    with FaultServer(lambda *_: events([*chunks, DONE])) as server:
        return reply(provider(CHAT, server.url), **named)


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning"])
def test_calls_left_as_text_are_made(size: int, field: str) -> None:
    text = f"I look.{SECTION}"
    chunks = [delta(**{field: text[i : i + size]}) for i in range(0, len(text), size)]
    with FaultServer(lambda *_: events([*chunks, delta("stop"), DONE])) as server:
        pieces = collect(provider(CHAT, server.url))
    end = pieces[-1]
    assert isinstance(end, Reply)
    assert end.message.tool_calls == (ToolCall("functions.next:0", "next", '{"n": 1}'),)
    assert (end.message.content or end.message.reasoning, end.finish_reason) == ("I look.", "tool_calls")
    if field == "content":
        assert "<|" not in shown(pieces, "content") and 'next({"n": 1})' in shown(pieces, "call")


def test_a_quoted_marker_stays_prose() -> None:
    quotes = [
        "K2 writes <|tool_call_begin|> before a call.",
        f"It would format the disk: {OTHER}",  # no such tool
        "`<|tool_calls_section_begin|>` and `</think>` are markers.",
    ]
    for text in quotes:
        end = said(delta(content=text), delta("stop"))
        assert (end.message.content, end.message.tool_calls) == (text, ())
        end = said(delta(reasoning_content=text), delta(content="Done."), delta("stop"))
        assert (end.message.content, end.message.reasoning, end.message.tool_calls) == ("Done.", text, ())
    whole = f"I could write {CALL}, but the answer is known."  # a call in thought, and then an answer
    end = said(delta(reasoning_content=whole), delta(content="42"), delta("stop"))
    assert (end.message.reasoning, end.message.tool_calls) == (whole, ())
    assert said(delta(content=SECTION), delta("stop"), tools=()).message.content == SECTION
    real = {"index": 0, "id": "c", "function": {"name": "next", "arguments": "{}"}}
    end = said(delta(content=f"As {SECTION}."), delta(tool_calls=[real]), delta("tool_calls"))
    assert (end.message.content, [c.id for c in end.message.tool_calls]) == (f"As {SECTION}.", ["c"])


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>Hm.</think>Yes.", "Hm.", "Yes."),
        ("Hm.\nSo.</think>\n\nYes.", "Hm.\nSo.", "Yes."),  # the template opened it
        ("Hm.</think>", "Hm.", ""),
        ("The tag `</think>` ends thought.", None, "The tag `</think>` ends thought."),
    ],
)
def test_thinking_in_the_content(text: str, reasoning: str | None, content: str) -> None:
    with FaultServer(lambda *_: events([delta(content=text), delta("stop"), DONE])) as server:
        source = provider(CHAT, server.url)
        end = reply(source)
        assert (end.message.reasoning, end.message.content) == (reasoning, content)
        reply(source, (*ASK, end.message))
        back = server.requests[1].json["messages"][2]
    assert back["content"] == text and "reasoning_content" not in back  # as it came


def test_a_leaked_end_of_thought_is_dropped() -> None:
    end = said(delta(reasoning_content="Hm."), delta(content="</think>"), delta(content="\n\nYes."), delta("stop"))
    assert (end.message.reasoning, end.message.content) == ("Hm.", "Yes.")


def test_what_is_held_back_for_a_marker_is_shown_in_the_end() -> None:
    with FaultServer(lambda *_: events([delta(content="1 <"), delta("stop"), DONE])) as server:
        pieces = collect(provider(CHAT, server.url))
    assert shown(pieces, "content") == "1 <"


def test_openrouter_details_go_back_unchanged() -> None:
    one = {"type": "reasoning.text", "index": 0, "format": "anthropic-claude-v1"}
    stream = [
        delta(reasoning="Let ", reasoning_details=[{**one, "text": "Let "}]),
        delta(reasoning="me.", reasoning_details=[{**one, "text": "me."}]),
        delta(reasoning_details=[{**one, "signature": "EqQB=="}]),
        delta(reasoning_details=[{"type": "reasoning.encrypted", "index": 1, "id": "rs_1", "data": "gAAA"}]),
        delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "next", "arguments": "{}"}}]),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "cost": 0.0125}},
    ]
    with FaultServer(lambda *_: events([*stream, DONE])) as server:
        source = provider(CHAT, server.url)
        end = reply(source)
        assert end.usage.money == 0.0125 and end.message.reasoning == "Let me."
        stored = Message.from_json(json.loads(json.dumps(end.message.to_json())))  # through the log
        reply(source, (*ASK, stored, Message("tool", "r", tool_call_id="c")))
        back = server.requests[1].json["messages"][2]
        other = OpenAIProvider("another", server.url)
        reply(other, (*ASK, stored, Message("tool", "r", tool_call_id="c")))
        foreign = server.requests[2].json["messages"][2]
    assert back["reasoning_details"] == [
        {**one, "text": "Let me.", "signature": "EqQB=="},
        {"type": "reasoning.encrypted", "index": 1, "id": "rs_1", "data": "gAAA"},
    ]
    assert "reasoning_details" not in foreign and foreign["reasoning"] == "Let me."


def test_signatures_beside_calls_go_back() -> None:
    sign = {"google": {"thought_signature": "CrIC"}}
    call = {"index": 0, "id": "c", "function": {"name": "next", "arguments": "{}"}, "extra_content": sign}
    with FaultServer(lambda *_: events([delta(tool_calls=[call]), delta("tool_calls"), DONE])) as server:
        source = provider(CHAT, server.url)
        end = reply(source)
        reply(source, (*ASK, end.message, Message("tool", "r", tool_call_id="c")))
        assert server.requests[1].json["messages"][2]["tool_calls"][0]["extra_content"] == sign


def test_thoughts_in_parts_of_the_content() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    end = said(delta(content=[thought]), delta(content=[{"type": "text", "text": "Yes."}]), delta("stop"))
    assert (end.message.reasoning, end.message.content) == ("Hm.", "Yes.")


def test_a_withheld_reply_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"withheld its reply \(content_filter\)"):
        said(delta(content="I"), delta("content_filter"))


def test_kimi_gets_ids_of_its_own_form_only() -> None:
    """87% of K2's turns failed with ids of another form in its history (MoonshotAI/Kimi-K2#128)."""
    calls = (("call_9f", "next", "{}"), ("functions.next:0", "next", "{}"))
    history = (
        *ASK,
        Message("assistant", "", "t", (ToolCall("toolu_1", "next", "{}"),)),
        Message("tool", "r", tool_call_id="toolu_1"),
    )
    with FaultServer(lambda *_: events(CHAT.stream(Said("", "t", calls), 99))) as server:
        source = OpenAIProvider("moonshotai/Kimi-K2-Thinking", server.url)
        end = reply(source, history)
        results = [Message("tool", "r", tool_call_id=call.id) for call in end.message.tool_calls]
        reply(source, (*history, end.message, *results))
        wire = server.requests[1].json["messages"]
    assert [c.id for c in end.message.tool_calls] == ["functions.next:1", "functions.next:2"]
    ids = [call["id"] for message in wire for call in message.get("tool_calls", ())]
    assert ids == [f"functions.next:{n}" for n in range(3)]
    assert [m["tool_call_id"] for m in wire if m["role"] == "tool"] == ids


def test_a_server_that_wants_short_ids() -> None:
    def answer(_: Any, request: Any) -> list[bytes]:
        ids = [call["id"] for m in request.json["messages"] for call in m.get("tool_calls", ())]
        if not all(len(id) == 9 and id.isalnum() for id in ids):
            return [
                http(400, '{"message": "Tool call id was functions.next:0 but must be a-z, A-Z, 0-9, with length 9"}')
            ]
        results = [m["tool_call_id"] for m in request.json["messages"] if m["role"] == "tool"]
        assert results == ids
        return events(CHAT.stream(Said("fine"), 9))

    call = ToolCall("functions.next:0", "next", "{}")
    history = (*ASK, Message("assistant", "", None, (call,)), Message("tool", "r", tool_call_id=call.id))
    with FaultServer(answer) as server:
        assert reply(provider(CHAT, server.url), history).message.content == "fine"


def body(host: str, model: str, limits: Limits, messages: Any = ASK) -> dict[str, Any]:
    return json.loads(OpenAIProvider(model, f"https://{host}/v1")._body(messages, TOOLS, limits))


@pytest.mark.parametrize(
    ("host", "model", "limits", "sent"),
    [
        ("api.openai.com", "gpt", Limits(9, effort="high"), {"reasoning_effort": "high", "max_completion_tokens": 9}),
        ("api.moonshot.ai", "k3", Limits(effort="max"), {"reasoning_effort": "max", "max_completion_tokens": 2**15}),
        ("api.moonshot.ai", "kimi-k3", Limits(effort="medium"), {"reasoning_effort": "high"}),
        ("api.moonshot.ai", "kimi-k2.6", Limits(), {"thinking": {"type": "enabled", "keep": "all"}}),
        ("api.moonshot.cn", "kimi-k2.5", Limits(thinking_tokens=0), {"thinking": {"type": "disabled"}}),
        ("api.deepseek.com", "v4", Limits(effort="max"), {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        ("api.z.ai", "glm-4.7", Limits(), {"thinking": {"type": "enabled", "clear_thinking": False}}),
        ("dashscope.aliyuncs.com", "q", Limits(thinking_tokens=5), {"enable_thinking": True, "thinking_budget": 5}),
        ("openrouter.ai", "x/y", Limits(effort="max"), {"reasoning": {"effort": "xhigh"}}),
        ("openrouter.ai", "x/y", Limits(thinking_tokens=500), {"reasoning": {"max_tokens": 500}}),
        ("h", "m", Limits(effort="low", thinking_tokens=5), {"reasoning_effort": "low", "thinking_token_budget": 5}),
    ],
)  # fmt: skip
def test_thinking_is_asked_for_in_each_vendors_words(
    host: str, model: str, limits: Limits, sent: dict[str, Any]
) -> None:
    made = body(host, model, limits)
    assert {name: made.get(name) for name in sent} == sent


@pytest.mark.parametrize("host", [*VENDORS, "localhost"])
def test_reasoning_goes_back_under_each_vendors_name(host: str) -> None:
    history = (
        *ASK,
        Message("assistant", "a", "why"),
        Message("user", "b"),
        Message("assistant", "c"),
        Message("user", "d"),
    )
    wire = body(host, "m", Limits(), history)["messages"]
    names = set(vendor(host).echo)
    assert {name for name in wire[2] if name.startswith("reasoning")} == names
    assert all(wire[2][name] == "why" for name in names)
    filled = {name for name in wire[4] if name.startswith("reasoning")}
    assert filled == (names if vendor(host).fill else set())


def test_words_for_effort_are_learned() -> None:
    def answer(_: Any, request: Any) -> list[bytes]:
        if request.json.get("reasoning_effort") not in (None, "low", "medium", "high"):
            return [http(400, '{"error": {"message": "Unsupported value: reasoning_effort does not support this"}}')]
        return events(CHAT.stream(Said("fine"), 9))

    with FaultServer(answer) as server:
        source = provider(CHAT, server.url)
        reply(source, limits=Limits(effort="max"))
        reply(source, limits=Limits(effort="max"))
        assert [r.json["reasoning_effort"] for r in server.requests] == ["max", "xhigh", "high", "high"]


def test_the_most_that_a_server_writes_is_learned() -> None:
    def answer(_: Any, request: Any) -> list[bytes]:
        if request.json["max_tokens"] > 8192:
            said = "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"
            return [http(400, json.dumps({"error": {"message": said}}))]
        return events(CHAT.stream(Said("fine"), 9))

    with FaultServer(answer) as server:
        source = provider(CHAT, server.url)
        for _ in range(2):
            reply(source, limits=Limits(max_tokens=50_000))
        assert [r.json["max_tokens"] for r in server.requests] == [50_000, 8192, 8192]


def test_a_server_that_refuses_everything_is_left() -> None:
    with FaultServer(
        lambda *_: [http(400, '{"error": {"message": "temperature and seed are not supported"}}')]
    ) as server:
        with pytest.raises(UserError, match="temperature and seed are not supported"):
            reply(provider(CHAT, server.url), limits=Limits(temperature=1.0, seed=1))
        assert len(server.requests) == 3


def test_both_reasoning_fields_at_once_are_one_reasoning() -> None:
    """Newer vLLM writes both and reads only one of them, so both go back."""
    with FaultServer(
        lambda *_: events([delta(reasoning="a", reasoning_content="a"), delta("stop", content="x"), DONE])
    ) as server:
        source = provider(CHAT, server.url)
        end = reply(source)
        assert end.message.reasoning == "a"
        reply(source, (*ASK, end.message))
        back = server.requests[1].json["messages"][2]
    assert (back["reasoning"], back["reasoning_content"]) == ("a", "a")


def test_reading_takes_any_order_of_interleaved_calls() -> None:
    reading = ChatReading(["t"], 0, "o", "w", lambda _: None)
    for index, text in [(1, "{"), (0, "["), (2, "("), (1, "}"), (0, "]"), (2, ")")]:
        head = {"id": f"id{index}"} if text in "{[(" else {}
        reading.feed(
            delta(tool_calls=[{"index": index, **head, "function": {"name": "t" * bool(head), "arguments": text}}])
        )
    reading.feed(delta("tool_calls"))
    calls = reading.reply().message.tool_calls
    assert {call.id: call.arguments for call in calls} == {"id0": "[]", "id1": "{}", "id2": "()"}
