"""What every kind of provider does, in the words of its own API."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from fault_server import FaultServer, events, http  # type: ignore[import-not-found]

from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Price, Reply, Unavailable, Usage, WindowFull
from openk2.providers.http import Remote

from dialects import DIALECTS, Dialect, Said  # type: ignore[import-not-found]  # isort: skip

ASK = (Message("system", "Be brief."), Message("user", "q"))
TOOLS = (ToolSpec("next", "The next number.", {"type": "object", "properties": {"n": {"type": "integer"}}}),)
CALLS = (("call_1", "next", '{"n": 1}'), ("call_2", "next", '{"n":2}'))
FULL = Said("It is é\u2028🙂.", "Let me \nthink…", CALLS)
each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)


def provider(dialect: Dialect, url: str, **settings: Any) -> Remote:
    return dialect.provider(dialect.model, url, **{"first_pause": 0.01, **settings})


def collect(source: Remote, messages: Sequence[Message] = ASK, tools: Sequence[ToolSpec] = TOOLS,
            limits: Limits | None = None) -> list[Delta | Reply]:  # fmt: skip
    async def run() -> list[Delta | Reply]:
        try:
            async with asyncio.timeout(20):
                return [piece async for piece in source.stream(messages, tools, limits or Limits())]
        finally:
            await source.aclose()

    return asyncio.run(run())


def reply(source: Remote, *args: Any, **named: Any) -> Reply:
    last = collect(source, *args, **named)[-1]
    assert isinstance(last, Reply)
    return last


def shown(pieces: list[Delta | Reply], kind: str) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta) and piece.kind == kind)


@each
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_streamed_reply(dialect: Dialect, size: int) -> None:
    with FaultServer(lambda *_: events(dialect.stream(FULL, size))) as server:
        pieces = collect(provider(dialect, server.url, price=Price(10, 1, 100)))
    end = pieces[-1]
    assert isinstance(end, Reply)
    assert (end.message.content, end.message.reasoning) == (FULL.content, FULL.reasoning)
    assert [(c.id, c.name, c.arguments) for c in end.message.tool_calls] == list(CALLS)
    assert end.finish_reason == "tool_calls"
    assert end.usage == Usage(100, 60, 7, 20, money=(40 * 10 + 60 * 1 + 20 * 100) / 1e6)
    assert (shown(pieces, "content"), shown(pieces, "reasoning")) == (FULL.content, FULL.reasoning)
    assert all(arguments in shown(pieces, "call") for _, _, arguments in CALLS)
    assert server.requests[0].json["stream"] is True


@each
def test_a_whole_answer(dialect: Dialect) -> None:
    with FaultServer(lambda *_: [http(200, json.dumps(dialect.whole(FULL)))]) as server:
        end = reply(provider(dialect, server.url))
    assert (end.message.content, end.message.reasoning) == (FULL.content, FULL.reasoning)
    assert [(c.id, c.name, json.loads(c.arguments)) for c in end.message.tool_calls] == [
        ("call_1", "next", {"n": 1}),
        ("call_2", "next", {"n": 2}),
    ]
    assert end.usage == Usage(100, 60, 7, 20)


@each
def test_a_plain_answer_has_no_reasoning(dialect: Dialect) -> None:
    with FaultServer(lambda *_: events(dialect.stream(Said("Yes."), 2))) as server:
        end = reply(provider(dialect, server.url))
    assert (end.message.content, end.message.reasoning, end.finish_reason) == ("Yes.", None, "stop")


@each
def test_three_hundred_steps_send_all_reasoning_back(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(0)
    alphabet = "abc é漢🙂\n\t \\\"'<|im_end|></think>\u2028\u0085\r\x00"
    thoughts = ["".join(dice.choices(alphabet, k=dice.randint(1, 400))) for _ in range(300)]
    marks = ["".join(dice.choices("ABCdef+/=", k=200)) for _ in range(300)]
    made: list[int] = []  # bytes that were serialised, by step
    dumps = json.dumps

    def counting(*args: Any, **named: Any) -> str:
        text = dumps(*args, **named)
        made[-1] += len(text)
        return text

    def answer(server: FaultServer, _: Any) -> list[bytes]:
        step = len(server.requests) - 1
        call = (f"call_{step}", "next", f'{{"n": {step}}}')
        return events(dialect.stream(Said("", thoughts[step], (call,), mark=marks[step]), 120))

    seconds: list[float] = []

    async def run(source: Remote) -> None:
        messages = list(ASK)
        for step in range(300):
            made.append(0)
            begin = time.process_time()
            source._body(messages, TOOLS, Limits())
            seconds.append(time.process_time() - begin)
            async for piece in source.stream(messages, TOOLS, Limits()):
                if isinstance(piece, Reply):
                    (call,) = piece.message.tool_calls
                    messages += [piece.message, Message("tool", str(step), tool_call_id=call.id)]
        await source.aclose()

    with FaultServer(answer) as server:
        monkeypatch.setattr("openk2.providers.http.json.dumps", counting)
        # The thread of the server counts too, with what it streams: the same at each step.
        asyncio.run(run(provider(dialect, server.url)))
        monkeypatch.undo()
        bodies = [request.body for request in server.requests]
    last = json.loads(bodies[-1])
    assert dialect.thoughts(last) == thoughts[:299]
    if dialect.name != "chat":
        assert all(dumps(mark).encode() in bodies[-1] for mark in marks[:299])
    for step in range(1, 299):  # byte for byte, as it was sent first
        for text in (thoughts[step - 1], *([marks[step - 1]] if dialect.name != "chat" else ())):
            wire = dumps(text, ensure_ascii=False).encode()
            assert wire in bodies[step] and wire in bodies[-1]
    early, late = sum(made[20:40]) / 20, sum(made[280:300]) / 20
    assert late < 1.6 * early  # the history is joined, not serialised again
    print(f"{dialect.name}: {1000 * sum(seconds[-20:]) / 20:.2f} ms to make the body of step 300")


@each
def test_reasoning_of_another_service_is_plain_or_nothing(dialect: Dialect) -> None:
    others = [d for d in DIALECTS if d is not dialect]
    history: list[Message] = list(ASK)
    for number, other in enumerate(others):
        call = (f"x{number}", "next", "{}")
        with FaultServer(
            lambda *_, o=other, c=call: events(o.stream(Said("a", f"Thought {c[0]}.", (c,)), 9))
        ) as server:
            made = reply(provider(other, server.url)).message
        history += [made, Message("tool", "r", tool_call_id=made.tool_calls[0].id)]
    with FaultServer(lambda *_: events(dialect.stream(Said("fine"), 9))) as server:
        assert reply(provider(dialect, server.url), history).message.content == "fine"
        body = server.requests[0].body.decode()
    assert Said().mark not in body
    assert "Thought x0." in body and "Thought x1." in body  # an open server reads what others thought


@each
def test_a_conversation_that_is_too_long(dialect: Dialect) -> None:
    for refusal in ([http(400, dialect.window)], events([json.loads(dialect.window)])):
        with FaultServer(lambda *_, r=refusal: r) as server:
            source = provider(dialect, server.url)
            with pytest.raises(WindowFull) as caught:
                reply(source)
            assert len(server.requests) == 1
        assert "longer than the model reads" in str(caught.value) and "\n" not in str(caught.value)


@each
def test_a_limit_on_the_reply_gives_way_to_the_window(dialect: Dialect) -> None:
    def answer(server: FaultServer, request: Any) -> list[bytes]:
        longest = next((v for k, v in request.json.items() if k.startswith("max_")), 0)
        if longest > 3000:
            said = f"input length and `max_tokens` exceed context limit: 5000 + {longest} > 8000, decrease it"
            return [http(400, json.dumps({"error": {"message": said}}))]
        return events(dialect.stream(Said("fine"), 9))

    with FaultServer(answer) as server:
        assert reply(provider(dialect, server.url), limits=Limits(max_tokens=4000)).message.content == "fine"
        assert len(server.requests) == 2


@each
@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, '{"error": {"message": "bad key"}}', Unavailable, "asks for a key; set OPENK2_API_KEY"),
        (402, '{"error": {"message": "Insufficient Balance"}}', Unavailable, "used up (Insufficient Balance)"),
        (403, '{"error": "no"}', Unavailable, "refused the key or the access (403: no)"),
        (404, "nope", Unavailable, "does not know the model 'stub'; it offers kimi, other"),
        (413, '{"error": {"message": "request_too_large"}}', WindowFull, "has to be shorter"),
        (429, '{"error": {"code": "insufficient_quota", "message": "pay"}}', Unavailable, "used up (pay)"),
        (400, '{"error": {"message": "Your credit balance is too low"}}', Unavailable, "used up"),
        (400, '{"error": {"message": "tools.0: bad schema"}}', UserError, "refused the request (400: tools.0: bad"),
    ],
)  # fmt: skip
def test_terminal_errors(dialect: Dialect, status: int, body: str, kind: type[Exception], says: str) -> None:
    with FaultServer(lambda *_: [http(status, body)], models=["kimi", "other"]) as server:
        with pytest.raises(UserError) as caught:
            reply(provider(dialect, server.url))
        assert len(server.requests) == 1
    assert type(caught.value) is kind
    assert says in str(caught.value) and "\n" not in str(caught.value)


@each
def test_a_key_is_sent_as_the_service_wants_it(dialect: Dialect) -> None:
    with FaultServer(lambda *_: events(dialect.stream(Said("x"), 9))) as server:
        reply(provider(dialect, server.url, key="secret"))
        headers = server.requests[0].headers
    assert headers["authorization"] == "Bearer secret"
    assert (headers.get("x-api-key") == "secret") == (dialect.name == "anthropic")


@each
def test_missing_and_repeated_ids_are_made_good(dialect: Dialect) -> None:
    history = (
        *ASK,
        Message("assistant", "", None, (ToolCall("a", "next", "{}"),)),
        Message("tool", "r", tool_call_id="a"),
    )
    calls = (("a", "next", "{}"), ("", "next", "{}"), ("b", "next", "{}"))
    with FaultServer(lambda *_: events(dialect.stream(Said("", "t", calls), 9))) as server:
        source = provider(dialect, server.url)
        end = reply(source, history)
        results = [Message("tool", "r", tool_call_id=call.id) for call in end.message.tool_calls]
        reply(source, (*history, end.message, *results))
        body = server.requests[1].body.decode()
    ids = [call.id for call in end.message.tool_calls]
    assert len({"a", *ids}) == 4 and all(ids) and ids[2] == "b"
    assert body.count('"b"') == 2  # the call and its result


@each
def test_limits_are_sent(dialect: Dialect) -> None:
    with FaultServer(lambda *_: events(dialect.stream(Said("x"), 9))) as server:
        limits = Limits(max_tokens=999, temperature=0.5, top_p=0.9, tool_choice="next")
        reply(provider(dialect, server.url), limits=limits)
        request = server.requests[0].json
    assert 999 in request.values() and (request["temperature"], request["top_p"]) == (0.5, 0.9)
    assert "next" in json.dumps(request["tool_choice"])
    assert "Be brief." in json.dumps(request) and len(request["tools"]) == 1


@each
def test_the_window_is_learned(dialect: Dialect) -> None:
    fine = events(dialect.stream(Said("x"), 9))
    for about, window in [({"max_model_len": 4096}, 4096), ({"context_length": 9000}, 9000), ({}, None)]:
        with FaultServer(lambda *_: fine, **about) as server:
            source = provider(dialect, server.url)
            reply(source)
            assert source.window == window
    refusal = '{"error": {"message": "This model\'s maximum context length is 4096 tokens. However, it is 5000."}}'
    with FaultServer(lambda *_: [http(400, refusal)]) as server:
        source = provider(dialect, server.url)
        with pytest.raises(WindowFull):
            reply(source)
        assert source.window == 4096


@each
def test_the_only_model_is_taken(dialect: Dialect) -> None:
    with FaultServer(lambda *_: events(dialect.stream(Said("x"), 9)), models=["kimi-k2"]) as server:
        source = dialect.provider(None, server.url)
        reply(source)
        assert source.name == server.requests[0].json["model"] == "kimi-k2"
    with FaultServer(lambda *_: [], models=["a", "b"]) as server, pytest.raises(UserError, match="offers a, b; choose"):
        reply(dialect.provider(None, server.url))


@each
def test_many_conversations_at_once(dialect: Dialect) -> None:
    def answer(_: FaultServer, request: Any) -> list[Any]:
        number = request.body.decode().rpartition("number ")[2].partition(" ")[0]
        first, *rest = events(dialect.stream(Said(f"This is {number}.", number), 2))
        return [first, *(step for piece in rest for step in (piece, 0.002))]

    async def one(source: Remote, number: int) -> Reply:
        ask = (Message("user", f"number {number} please"),)
        return await anext(p async for p in source.stream(ask, TOOLS, Limits()) if isinstance(p, Reply))

    async def run(url: str) -> list[Reply]:
        source = provider(dialect, url)
        try:
            return await asyncio.gather(*(one(source, number) for number in range(8)))
        finally:
            await source.aclose()

    with FaultServer(answer) as server:
        replies = asyncio.run(run(server.url))
    assert [r.message.content for r in replies] == [f"This is {number}." for number in range(8)]


@each
def test_leaving_a_stream_leaves_nothing_behind(dialect: Dialect) -> None:
    async def run(url: str) -> int:
        source = provider(dialect, url)
        stream: Any = source.stream(ASK, TOOLS, Limits())
        async for _ in stream:
            break
        await stream.aclose()
        left = len(asyncio.all_tasks()) - 1
        await source.aclose()
        return left

    with FaultServer(lambda *_: [*events(dialect.stream(FULL, 2)[:6], ends=False), "hang"]) as server:
        assert asyncio.run(run(server.url)) == 0
