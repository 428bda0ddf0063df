"""Everything that goes wrong between here and a model ends in the right reply or in one clear sentence, in time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from fault_server import HANG, PASSING, RESET, FaultServer, Step, cut, events, http, sse  # type: ignore[import-not-found]
from test_conformance import ASK, FULL, TOOLS, collect, each, provider, reply  # type: ignore[import-not-found]

from openk2.chat.messages import ToolCall
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Reply, Unavailable

from dialects import CHAT, DONE, Dialect, Said  # type: ignore[import-not-found]  # isort: skip

FINE = Said("fine", "Hm.")
def failing(trouble: Iterable[Step], dialect: Dialect, times: int = 1, said: Said = FINE) -> Any:
    def answer(server: FaultServer, _: Any) -> Iterable[Step]:
        return trouble if len(server.requests) <= times else events(dialect.stream(said, 9))

    return answer


@each
@pytest.mark.parametrize("trouble", PASSING)
def test_what_passes_is_tried_again(dialect: Dialect, trouble: str) -> None:
    with FaultServer(failing(PASSING[trouble], dialect, times=2)) as server:
        pieces = collect(provider(dialect, server.url))
        assert len(server.requests) == 3
    end = pieces[-1]
    assert isinstance(end, Reply) and end.message.content == "fine"
    retries = [piece.text for piece in pieces if isinstance(piece, Delta) and piece.kind == "retry"]
    assert len(retries) == 2 and all("; trying again in " in text and "\n" not in text for text in retries)


@each
def test_a_stream_cut_anywhere(dialect: Dialect) -> None:
    """Whatever arrived before the cut: the reply is whole, from this try or the next."""
    steps = events(dialect.stream(FULL, 4))
    whole = b"".join(steps)
    places = [*range(1, len(whole), max(1, len(whole) // 60)), len(whole) - 1]
    at: list[int] = []
    with FaultServer(lambda *_: [cut(steps, at.pop()), RESET] if at else steps) as server:
        source = provider(dialect, server.url)

        async def run() -> list[Reply]:
            replies: list[Reply] = []
            for place in places:
                at.append(place)
                async for piece in source.stream(ASK, TOOLS, Limits()):
                    if isinstance(piece, Reply):
                        replies.append(piece)
            await source.aclose()
            return replies

        replies = asyncio.run(run())
    assert len(replies) == len(places)
    for made in replies:
        assert (made.message.content, made.message.reasoning) == (FULL.content, FULL.reasoning)
        assert [(c.name, c.arguments) for c in made.message.tool_calls] == [(n, a) for _, n, a in FULL.calls]


@each
def test_a_stream_that_ends_early_but_cleanly(dialect: Dialect) -> None:
    for size in range(1, 12):
        chunks = [c for c in dialect.stream(FULL, 4) if c != DONE][:size]
        with FaultServer(failing(events(chunks), dialect, said=FULL)) as server:
            assert reply(provider(dialect, server.url)).message.content == FULL.content


@each
def test_three_megabytes_of_arguments(dialect: Dialect) -> None:
    text = json.dumps({"text": "é\n" * 800_000}, ensure_ascii=False)
    said = Said("", None, (("call_1", "next", text),))
    begin = time.monotonic()
    with FaultServer(lambda *_: events(dialect.stream(said, 4000))) as server:
        (call,) = reply(provider(dialect, server.url)).message.tool_calls
    assert len(text.encode()) > 3_000_000 and call == ToolCall("call_1", "next", text)
    assert time.monotonic() - begin < 10


@each
def test_many_small_pieces_take_no_time(dialect: Dialect) -> None:
    said = Said("x" * 20_000, "y" * 20_000)
    begin = time.process_time()
    with FaultServer(lambda *_: [b"".join(events(dialect.stream(said, 1)))]) as server:
        assert reply(provider(dialect, server.url)).message.content == said.content
    assert time.process_time() - begin < 8  # 40,000 pieces; a cost that grew with them would be minutes


@each
def test_silence_is_told_and_has_an_end(dialect: Dialect) -> None:
    chunks = dialect.stream(FINE, 9)
    slow = [*events(chunks[:3], ends=False), 0.35, b"".join(events(chunks[3:])[1:])]
    with FaultServer(lambda *_: [0.35, *slow]) as server:
        pieces = collect(provider(dialect, server.url, quiet=0.1))
    waits = [piece.text for piece in pieces if isinstance(piece, Delta) and piece.kind == "wait"]
    assert waits[:2] == ["no token for 0.1 s", "no token for 0.2 s"] and 3 <= len(waits) <= 6
    assert isinstance(pieces[-1], Reply)

    alive = [*events([], ends=False), *([b"b\r\n: waiting\n\n\r\n", 0.03] * 100)]
    begin = time.monotonic()
    with FaultServer(lambda *_: alive) as server, pytest.raises(Unavailable, match=r"failed 2 times \(no token came"):
        collect(provider(dialect, server.url, silent=0.3, tries=2))
    assert time.monotonic() - begin < 5


@each
def test_leaving_and_budgets_end_a_reply_at_once(dialect: Dialect) -> None:
    beginnings: list[list[Step]] = [[HANG], [*events(dialect.stream(FULL, 4)[:4], ends=False), HANG]]
    for steps in beginnings:
        with FaultServer(lambda *_, s=steps: s) as server:

            async def run(url: str = server.url) -> float:
                source = provider(dialect, url)
                begin = time.monotonic()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        async for _ in source.stream(ASK, TOOLS, Limits()):
                            pass
                await source.aclose()
                return time.monotonic() - begin

            assert asyncio.run(run()) < 2

    async def pausing(url: str) -> float:
        source = provider(dialect, url, first_pause=60.0)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                async for _ in source.stream(ASK, TOOLS, Limits()):
                    pass
        return time.monotonic() - begin

    with FaultServer(lambda *_: [http(429, "{}", {"Retry-After": "60"})]) as server:
        assert asyncio.run(pausing(server.url)) < 2


@each
def test_trying_again_has_an_end(dialect: Dialect) -> None:
    with FaultServer(lambda *_: [http(500, "broken")]) as server:
        with pytest.raises(Unavailable, match=r"failed 3 times \(status 500: broken\); try again later"):
            reply(provider(dialect, server.url, tries=3))
        assert len(server.requests) == 3
    with FaultServer(lambda *_: [http(500, "{}", {"x-should-retry": "false"})]) as server:
        with pytest.raises(Unavailable, match="trying again will not help"):
            reply(provider(dialect, server.url))
        assert len(server.requests) == 1
    later = [http(429, "{}", {"Retry-After": "3600"})]
    with FaultServer(lambda *_: later) as server, pytest.raises(Unavailable, match="asks to wait 3600 s"):
        reply(provider(dialect, server.url))


@each
def test_pages_and_redirects_say_what_to_correct(dialect: Dialect) -> None:
    text = "<html><head><title>Sign in</title></head><body>" + "x" * 200_000
    page = [http(200, text, {"Content-Type": "text/html; charset=utf-8"})]
    with (
        FaultServer(lambda *_: page) as server,
        pytest.raises(UserError, match=r"page \(Sign in\); correct --base-url"),
    ):
        reply(provider(dialect, server.url))
    moved = {"Location": "https://elsewhere.example/v1/x?key=secret"}
    with FaultServer(lambda *_: [http(307, "", moved)]) as server:
        with pytest.raises(UserError, match=r"redirects to https://elsewhere.example/v1/x; give the address") as caught:
            reply(provider(dialect, server.url, key="k"))
        assert "secret" not in str(caught.value) and len(server.requests) == 1


@each
def test_one_connection_serves_a_run(dialect: Dialect) -> None:
    opened: list[Any] = []

    class Counting(FaultServer):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.append(writer)
            await super()._serve(reader, writer)

    async def run(url: str) -> None:
        source = provider(dialect, url, window=8000)
        for _ in range(5):
            async for _ in source.stream(ASK, TOOLS, Limits()):
                pass
        await source.aclose()

    with Counting(lambda *_: events(dialect.stream(FINE, 9))) as server:
        asyncio.run(run(server.url))
        assert len(server.requests) == 5
    assert len(opened) == 1


def test_a_reply_without_reason_or_end_mark() -> None:
    """Chat completions: one of the two is enough to know that the reply is whole."""
    chunks = [c for c in CHAT.stream(FINE, 9) if c != DONE and not (isinstance(c, dict) and c.get("usage"))]
    no_reason = [c for c in chunks if not c["choices"][0]["finish_reason"]]
    for stream in (chunks, [*no_reason, DONE]):
        with FaultServer(lambda *_, s=stream: events(s)) as server:
            end = reply(provider(CHAT, server.url))
            assert (end.message.content, len(server.requests)) == ("fine", 1)
            assert end.usage.completion > 0  # counted here where the server does not
    # A server that has said everything and leaves the connection open is not waited for.
    begin = time.monotonic()
    with FaultServer(lambda *_: [*events(chunks, ends=False), HANG]) as server:
        assert reply(provider(CHAT, server.url)).message.content == "fine"
    assert time.monotonic() - begin < 5


def test_the_server_gives_what_its_script_says() -> None:
    """The fault server itself: an event is cut where asked, a wait is a wait."""
    body = sse({"type": "x", "a": 1})
    assert body == b'event: x\ndata: {"type": "x", "a": 1}\n\n'
    assert cut(events([body]), 9) == b"HTTP/1.1 "
