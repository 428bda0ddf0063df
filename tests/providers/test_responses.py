"""What only the Responses API has: items, encrypted reasoning, failures inside an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fault_server import FaultServer, events, http  # type: ignore[import-not-found]
from test_conformance import ASK, TOOLS, provider, reply  # type: ignore[import-not-found]

from openk2.chat.messages import Message
from openk2.errors import UserError
from openk2.providers.base import Limits, Price, Unavailable
from openk2.providers.responses import ResponsesProvider

from dialects import RESPONSES, Said, responses_items, responses_stream  # type: ignore[import-not-found]  # isort: skip

TURN = Said("I look.", "Hm.", (("call_1", "next", '{"n":  1}'),), mark="gAAAAAB=")


def ended(status: str, **more: Any) -> list[bytes]:
    answer = {"id": "resp_1", "status": status, "output": responses_items(Said("half")), **more}
    return events([{"type": f"response.{status}", "response": answer}])


def test_items_go_back_as_they_came_and_nothing_is_stored() -> None:
    with FaultServer(lambda *_: events(responses_stream(TURN, 3))) as server:
        source = provider(RESPONSES, server.url)
        end = reply(source)
        stored = Message.from_json(json.loads(json.dumps(end.message.to_json())))
        reply(source, (*ASK, stored, Message("tool", "2", tool_call_id="call_1")))
        first, second = (request.json for request in server.requests)
    assert first["store"] is False and first["include"] == ["reasoning.encrypted_content"]
    assert first["instructions"] == "Be brief." and first["input"] == [{"role": "user", "content": "q"}]
    assert first["tools"][0]["name"] == "next" and first["tools"][0]["type"] == "function"
    assert second["input"][1:4] == responses_items(TURN)
    assert second["input"][4] == {"type": "function_call_output", "call_id": "call_1", "output": "2"}


def test_what_another_account_encrypted_is_left_out() -> None:
    def answer(server: FaultServer, request: Any) -> list[bytes]:
        if len(server.requests) == 2:
            said = "The encrypted content gAAA...B= could not be verified."
            return [http(400, json.dumps({"error": {"message": said, "code": "invalid_encrypted_content"}}))]
        return events(responses_stream(TURN, 3))

    with FaultServer(answer) as server:
        source = provider(RESPONSES, server.url)
        message = reply(source).message
        reply(source, (*ASK, message, Message("tool", "2", tool_call_id="call_1")))
        assert b"gAAAAAB=" in server.requests[1].body and b"gAAAAAB=" not in server.requests[2].body
        assert json.loads(server.requests[2].body)["input"][-2]["call_id"] == "call_1"


def test_openai_is_sent_no_thoughts_of_others() -> None:
    history = (*ASK, Message("assistant", "a", "Thought."), Message("user", "b"))
    body = ResponsesProvider("gpt-5.5", "https://api.openai.com/v1")._body(history, TOOLS, Limits(effort="max"))
    assert b"Thought." not in body
    assert json.loads(body)["reasoning"] == {"summary": "auto", "effort": "max"}


def test_ends_of_an_answer() -> None:
    with FaultServer(lambda *_: ended("incomplete", incomplete_details={"reason": "max_output_tokens"})) as server:
        end = reply(provider(RESPONSES, server.url))
        assert (end.message.content, end.finish_reason) == ("half", "length")
    filtered = ended("incomplete", incomplete_details={"reason": "content_filter"})
    with FaultServer(lambda *_: filtered) as server, pytest.raises(UserError, match="withheld its reply"):
        reply(provider(RESPONSES, server.url))
    failed = ended("failed", error={"code": "server_error", "message": "oops"})
    with FaultServer(lambda s, _: failed if len(s.requests) == 1 else events(responses_stream(TURN, 9))) as server:
        assert reply(provider(RESPONSES, server.url)).message.content == "I look."
    broke = ended("failed", error={"code": "insufficient_quota", "message": "pay"})
    with FaultServer(lambda *_: broke) as server, pytest.raises(Unavailable, match="used up"):
        reply(provider(RESPONSES, server.url))


def test_models_that_do_not_reason() -> None:
    def answer(_: Any, request: Any) -> list[bytes]:
        if "include" in request.json:
            return [http(400, '{"error": {"message": "Encrypted content is not supported with this model."}}')]
        if "summary" in request.json.get("reasoning", {}):
            said = "Your organization must be verified to generate reasoning summaries."
            return [http(400, json.dumps({"error": {"message": said}}))]
        if "reasoning" in request.json:
            return [http(400, '{"error": {"message": "Unsupported parameter: \'reasoning.effort\' is not supported"}}')]
        return events(responses_stream(Said("fine"), 9))

    with FaultServer(answer) as server:
        source = provider(RESPONSES, server.url)
        assert reply(source, limits=Limits(effort="high")).message.content == "fine"
        tried = len(server.requests)
        reply(source, limits=Limits(effort="high"))
        assert len(server.requests) == tried + 1  # learned


def test_reasoning_text_of_open_models() -> None:
    thought = {"type": "reasoning_text", "text": "Raw."}
    item = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [thought], "encrypted_content": None}
    stream = [
        {"type": "response.reasoning_text.delta", "delta": "Raw."},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        *responses_stream(Said("x"), 9)[1:-1],
        {"type": "response.completed", "response": {"status": "completed", "output": []}},
    ]
    stream[-2]["output_index"] = 1
    with FaultServer(lambda *_: events(stream)) as server:
        end = reply(provider(RESPONSES, server.url))
    assert (end.message.reasoning, end.message.content) == ("Raw.", "x")
    assert end.usage.completion > 0  # counted here


def test_what_is_kept_in_the_cache_has_its_price() -> None:
    stream = responses_stream(Said("x"), 9)
    stream[-1]["response"]["usage"]["input_tokens_details"]["cache_write_tokens"] = 30
    with FaultServer(lambda *_: events(stream)) as server:
        end = reply(provider(RESPONSES, server.url, price=Price(2.0, 0.2, 10.0, 2.5)))
    assert end.usage.money == pytest.approx((10 * 2 + 30 * 2.5 + 60 * 0.2 + 20 * 10) / 1e6)
