"""The OpenAI-compatible provider against a server in this process."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import DONE, called, delta, finish, said  # type: ignore[import-not-found]

from openk2.agent.events import RunStarted
from openk2.agent.log import Log
from openk2.agent.loop import Loop
from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers import sse
from openk2.providers.base import Delta, Limits, Reply, Usage
from openk2.providers.openai import OpenAIProvider
from openk2.tools.base import tool

Serve = Callable[..., Any]
ASK = (Message("user", "q"),)


def provider(url: str, **more: Any) -> OpenAIProvider:
    return OpenAIProvider("stub", url, **{"first_pause": 0.01, **more})


def collect(source: OpenAIProvider, messages=ASK, tools=(), limits: Limits | None = None) -> list[Delta | Reply]:
    async def run() -> list[Delta | Reply]:
        try:
            return [piece async for piece in source.stream(messages, tools, limits or Limits())]
        finally:
            await source.aclose()

    return asyncio.run(run())


def reply(source: OpenAIProvider, messages=ASK, **more: Any) -> Reply:
    last = collect(source, messages, **more)[-1]
    assert isinstance(last, Reply)
    return last


def test_stream_is_put_together(serve: Serve) -> None:
    server = serve(lambda *_: said("Nairobi \u2028is it.", "Let me think."))
    pieces = collect(provider(server.url, key="secret"), limits=Limits(max_tokens=9, temperature=0.0, seed=4))
    assert "".join(p.text for p in pieces if isinstance(p, Delta) and p.kind == "reasoning") == "Let me think."
    end = pieces[-1]
    assert isinstance(end, Reply)
    assert end.message == Message("assistant", "Nairobi \u2028is it.", "Let me think.")
    assert (end.finish_reason, end.usage) == ("stop", Usage(prompt=10, completion=5))
    request = server.requests[0]
    assert (request["model"], request["max_tokens"], request["temperature"], request["seed"]) == ("stub", 9, 0.0, 4)
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_parallel_calls_are_put_together_by_index(serve: Serve) -> None:
    calls = [("functions.search:0", "search", '{"query": "é"}'), ("functions.python:1", "python", '{"code":  "1"}')]
    server = serve(lambda *_: called(*calls, reasoning="Two at once."))
    spec = ToolSpec("search", "Search.", {"type": "object", "properties": {}})
    end = reply(provider(server.url), tools=(spec,))
    assert [(c.id, c.name, c.arguments) for c in end.message.tool_calls] == calls
    assert end.finish_reason == "tool_calls"
    assert server.requests[0]["tools"] == [spec.to_wire()]
    assert "tool_choice" not in server.requests[0]
    named = {"type": "function", "function": {"name": "search"}}
    for choice, sent in (("required", "required"), ("search", named)):
        collect(provider(server.url), tools=(spec,), limits=Limits(tool_choice=choice))
        assert server.requests[-1]["tool_choice"] == sent


@pytest.mark.parametrize("given", ["no ids", "one index", "no index", "interleaved"])
def test_calls_of_unusual_servers(serve: Serve, given: str) -> None:
    def one(n: int, text: str, *, head: bool = True) -> dict[str, Any]:
        function = {"arguments": text, **({"name": f"t{n}"} if head else {})}
        call: dict[str, Any] = {"function": function}
        if given != "no index":
            call["index"] = 0 if given == "one index" else n
        if given != "no ids" and head:
            call["id"] = f"id{n}"
        return delta(tool_calls=[call])

    chunks = [one(0, '{"a"'), one(0, ":1}", head=False), one(1, "{}")]
    if given == "interleaved":
        chunks = [one(0, '{"a"'), one(1, "{}"), one(0, ":1}", head=False)]
    server = serve(lambda *_: [*chunks, finish("stop"), DONE])
    history = (*ASK, Message("assistant", "", "", (ToolCall("x", "t", "{}"),)), Message("tool", "r", tool_call_id="x"))
    end = reply(provider(server.url), history)
    ids = ["functions.t0:1", "functions.t1:2"] if given == "no ids" else ["id0", "id1"]
    assert [(c.id, c.arguments) for c in end.message.tool_calls] == [(ids[0], '{"a":1}'), (ids[1], "{}")]
    assert end.finish_reason == "tool_calls"


def test_arguments_that_come_as_an_object(serve: Serve) -> None:
    call = {"index": 0, "id": "id0", "function": {"name": "t", "arguments": {"city": "Zürich"}}}
    server = serve(lambda *_: [delta(tool_calls=[call]), finish("tool_calls"), DONE])
    (made,) = reply(provider(server.url)).message.tool_calls
    assert made == ToolCall("id0", "t", '{"city": "Zürich"}')


def test_usage_in_its_forms(serve: Serve) -> None:
    forms = [
        ({"prompt_tokens": 9, "completion_tokens": 4, "cached_tokens": 7}, Usage(9, 7, 0, 4)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(9, 3, 2, 4),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 0, 0, 4)),
    ]
    for data, wanted in forms:
        server = serve(lambda *_, data=data: [delta(content="x"), finish("stop", **data), DONE])
        assert reply(provider(server.url)).usage == wanted
    kimi = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 5, "completion_tokens": 1}}]}
    server = serve(lambda *_: [delta(content="x"), kimi, DONE])
    assert reply(provider(server.url)).usage == Usage(5, 0, 0, 1)
    after = {"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": 1}}
    server = serve(lambda *_: [delta(content="x"), finish("stop"), after, DONE])
    assert reply(provider(server.url)).usage == Usage(6, 0, 0, 1)
    server = serve(lambda *_: [delta(reasoning_content="y" * 40, content="x" * 40), finish("stop"), DONE])
    estimated = reply(provider(server.url)).usage
    assert (estimated.reasoning, estimated.completion) == (10, 20) and estimated.prompt > 0


def test_whole_json_answer_and_the_other_reasoning_field(serve: Serve) -> None:
    message = {"role": "assistant", "content": "x", "reasoning": "why"}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
    server = serve(lambda *_: (200, body))
    source = provider(server.url)
    end = reply(source)
    assert end.message == Message("assistant", "x", "why")
    reply(source, (*ASK, end.message))
    assert server.requests[1]["messages"][1]["reasoning"] == "why"  # where it came from it goes back to
    assert "reasoning_content" not in server.requests[1]["messages"][1]
    fresh = provider(server.url)  # a run that goes on: the server has not spoken yet
    reply(fresh, (*ASK, end.message))
    assert server.requests[2]["messages"][1].items() >= {"reasoning": "why", "reasoning_content": "why"}.items()


def test_three_hundred_calls_send_every_reasoning_back(serve: Serve, tmp_path: Path) -> None:
    dice = random.Random(0)
    alphabet = "abc é漢🙂\n\t \\\"'<|im_end|>\u2028\u0085\r\x00"
    thoughts = ["".join(dice.choices(alphabet, k=dice.randint(1, 400))) for _ in range(300)]

    def answer(server: Any, request: dict[str, Any]) -> list[Any]:
        step = sum(m["role"] == "assistant" for m in request["messages"])
        if step == 300:
            return said("done")
        return called((f"functions.next:{step}", "next", f'{{"n":  {step}}}'), reasoning=thoughts[step])

    @tool(idempotent=True, name="next")
    async def following(n: int) -> str:
        """The next number."""
        return str(n + 1)

    server = serve(answer)
    with Log.create(tmp_path / "run") as log:
        log.append(RunStarted(run="run", question="Count to 300."))
        source = provider(server.url)
        begin = time.monotonic()
        end = asyncio.run(Loop(log, source, {"next": following}).run())
        print(f"{(time.monotonic() - begin) / 301 * 1000:.1f} ms a step")
    assert (end.answer, end.steps) == ("done", 301)
    last = server.requests[-1]["messages"]
    assert [m["reasoning_content"] for m in last if m["role"] == "assistant"] == thoughts
    assert [m["content"] for m in last if m["role"] == "tool"] == [str(n + 1) for n in range(300)]
    assert last[1]["tool_calls"][0]["function"]["arguments"] == '{"n":  0}'
    for before, after in zip(server.requests, server.requests[1:], strict=False):  # the prompt only grows
        assert after["messages"][: len(before["messages"])] == before["messages"]


@pytest.mark.parametrize(
    ("status", "body", "said_so"),
    [
        (400, '{"error": {"message": "bad tool"}}', "refused the request (400: bad tool)"),
        (401, '{"error": {"message": "bad key"}}', "set OPENK2_API_KEY"),
        (402, "{}", "used up"),
        (403, '{"message": "no"}', "refused the key or the access (403: no)"),
        (404, "nope", "does not know the model 'stub'; it offers kimi, other"),
        (429, '{"error": {"code": "insufficient_quota", "message": "pay"}}', "used up (pay)"),
    ],
)
def test_terminal_errors_are_one_sentence_and_not_retried(serve: Serve, status: int, body: str, said_so: str) -> None:
    server = serve(lambda *_: (status, body), models=["kimi", "other"])
    with pytest.raises(UserError) as caught:
        reply(provider(server.url))
    assert said_so in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.requests) == 1


def test_passing_errors_are_tried_again(serve: Serve) -> None:
    trouble: list[Any] = [
        (429, "slow down", {"Retry-After": "0.02"}),
        (503, "busy"),
        [delta(content="half an ans")],  # the connection ends in the middle
        [delta(content="half"), {"error": {"message": "overloaded"}}],
        [b"data: {not json\n\n"],
    ]
    server = serve(lambda s, _: trouble[len(s.requests) - 1] if len(s.requests) <= 5 else said("whole"))
    pieces = collect(provider(server.url))
    end = pieces[-1]
    assert isinstance(end, Reply) and end.message.content == "whole"
    assert sum(isinstance(p, Delta) and p.kind == "retry" for p in pieces) == 5


def test_trying_again_has_an_end(serve: Serve) -> None:
    server = serve(lambda *_: (500, "broken"))
    with pytest.raises(UserError, match=r"failed 3 times \(status 500: broken\)"):
        reply(provider(server.url, tries=3))
    assert len(server.requests) == 3


def test_refused_fields_are_left_out(serve: Serve) -> None:
    def answer(server: Any, request: dict[str, Any]) -> Any:
        if "stream_options" in request:
            return 400, '{"error": {"message": "Unrecognized request argument: stream_options"}}'
        if "max_tokens" in request:
            return 400, '{"error": {"message": "Unsupported: max_tokens. Use max_completion_tokens instead."}}'
        if "temperature" in request:
            return 400, '{"error": {"message": "temperature: only 1 is allowed"}}'
        return said("fine")

    server = serve(answer)
    assert reply(provider(server.url), limits=Limits(max_tokens=5, temperature=0.5)).message.content == "fine"
    assert server.requests[-1]["max_completion_tokens"] == 5


def test_reasoning_follows_the_server(serve: Serve) -> None:
    history = (
        *ASK,
        Message("assistant", "", None, (ToolCall("x", "t", "{}"),)),
        Message("tool", "r", tool_call_id="x"),
    )

    def strict(server: Any, request: dict[str, Any]) -> Any:
        if "reasoning_content" not in request["messages"][1]:
            return 400, "thinking is enabled but reasoning_content is missing in assistant tool call message at index 1"
        return said("fine")

    server = serve(strict)
    assert reply(provider(server.url), history).message.content == "fine"
    assert server.requests[-1]["messages"][1]["reasoning_content"] == ""

    def foreign(server: Any, request: dict[str, Any]) -> Any:
        if "reasoning_content" in request["messages"][1]:
            return 422, '{"detail": "Extra inputs are not permitted: messages.1.reasoning_content"}'
        return said("fine")

    server = serve(foreign)
    thought = (*ASK, Message("assistant", "a", "why"), Message("user", "and?"))
    assert reply(provider(server.url), thought).message.content == "fine"


def test_unreachable_and_wrong_addresses() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"No server answers at http://127.0.0.1:{port}/v1"):
        reply(provider(f"http://127.0.0.1:{port}/v1"))
    for url in ("localhost:8000", "http://", "http://[::1", "http://h:99999/v1", "ftp://h/v1", ""):
        with pytest.raises(UserError, match="is not a base URL"):
            OpenAIProvider("m", url)
    with pytest.raises(UserError, match="copy it again"):
        OpenAIProvider("m", "http://h", key="schlüssel")
    assert OpenAIProvider("m", " http://h/v1/ ", key="sk-1\n").key == "sk-1"


def test_only_model_is_taken(serve: Serve) -> None:
    server = serve(lambda *_: said("x"), models=["kimi-k2"])
    source = OpenAIProvider(None, server.url)
    reply(source)
    assert source.name == "kimi-k2" and server.requests[0]["model"] == "kimi-k2"
    with pytest.raises(UserError, match="offers a, b; choose one with --model"):
        reply(OpenAIProvider(None, serve(lambda *_: said("x"), models=["a", "b"]).url))


def test_cancelling_closes_the_connection(serve: Serve) -> None:
    server = serve(lambda *_: [delta(content="x"), 30.0])

    async def run() -> float:
        source = provider(server.url)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async for _ in source.stream(ASK, (), Limits()):
                    pass
        await source.aclose()
        return time.monotonic() - begin

    assert asyncio.run(run()) < 15  # the server would go on for 30


def test_events_at_every_cut() -> None:
    stream = ': hi\r\ndata: {"a": "é\u2028"}\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata:last'.encode()
    wanted = ['{"a": "é\u2028"}', "one\ntwo", "last"]

    async def read(size: int) -> list[str]:
        async def chunks():
            for i in range(0, len(stream), size):
                yield stream[i : i + size]

        return [event async for event in sse.events(chunks())]

    for size in range(1, len(stream) + 1):
        assert asyncio.run(read(size)) == wanted
