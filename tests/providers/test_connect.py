"""Services by name, whose key goes where, and what happens when one is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fault_server import FaultServer, events, http  # type: ignore[import-not-found]
from test_conformance import ASK, TOOLS, collect, reply  # type: ignore[import-not-found]

from openk2.chat.messages import Message, ToolCall
from openk2.errors import UserError
from openk2.providers import connect, services
from openk2.providers.anthropic import AnthropicProvider
from openk2.providers.base import Delta, Limits, Price, Provider, Reply, Unavailable, Usage, WindowFull
from openk2.providers.fallback import Fallback
from openk2.providers.http import Remote
from openk2.providers.openai import OpenAIProvider
from openk2.providers.responses import ResponsesProvider
from openk2.providers.scripted import ScriptedProvider, call, say

from dialects import ANTHROPIC, CHAT, Said  # type: ignore[import-not-found]  # isort: skip

ALL_KEYS = {name for service in services.SERVICES for name in service.keys} | {"OPENK2_API_KEY"}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable holds its own name."""
    for name in ALL_KEYS:
        monkeypatch.setenv(name, name)


def made(*args: Any, **named: Any) -> Remote:
    provider = connect(*args, **named)
    assert isinstance(provider, Remote)
    return provider


@pytest.mark.parametrize(
    ("args", "named", "kind", "url", "key"),
    [
        (("kimi:kimi-k2-thinking",), {}, OpenAIProvider, "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
        (("openai:gpt-5.5",), {}, ResponsesProvider, "https://api.openai.com/v1", "OPENAI_API_KEY"),
        (("anthropic:claude-opus-5",), {}, AnthropicProvider, "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        (("openai:gpt-5.5",), {"api": "chat"}, OpenAIProvider, "https://api.openai.com/v1", "OPENAI_API_KEY"),
        (("openrouter:x/y:free",), {}, OpenAIProvider, "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        (("m", "http://localhost:8000/v1"), {}, OpenAIProvider, "http://localhost:8000/v1", "OPENK2_API_KEY"),
        (("m", "http://h/v1/chat/completions"), {}, OpenAIProvider, "http://h/v1", "OPENK2_API_KEY"),
        (("m", "http://h/v1/responses"), {}, ResponsesProvider, "http://h/v1", "OPENK2_API_KEY"),
        (("m", "http://h/v1"), {"api": "anthropic"}, AnthropicProvider, "http://h/v1", "OPENK2_API_KEY"),
        (("k", "https://api.moonshot.cn/v1"), {}, OpenAIProvider, "https://api.moonshot.cn/v1", "MOONSHOT_API_KEY"),
        (("k", "https://api.moonshot.ai/anthropic"), {}, AnthropicProvider, "https://api.moonshot.ai/anthropic/v1",
         "MOONSHOT_API_KEY"),
        (("m", "https://api.anthropic.com"), {}, AnthropicProvider, "https://api.anthropic.com/v1",
         "ANTHROPIC_API_KEY"),
        (("m", "http://h/v1"), {"key": "mine"}, OpenAIProvider, "http://h/v1", "mine"),
    ],
)  # fmt: skip
def test_services(args: Any, named: Any, kind: type, url: str, key: str) -> None:
    provider = made(*args, **named)
    assert (type(provider), provider.base_url, provider.key) == (kind, url, key)


def test_a_key_never_leaves_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in services.SERVICES:
        assert made(f"{service.name}:m").key == service.keys[0]
        for name in service.keys:
            monkeypatch.delenv(name)
        with pytest.raises(UserError, match=f"asks for a key; set {service.keys[0]}"):  # not the one for any address
            made(f"{service.name}:m")
        assert made("m", "http://api.openai.com.example/v1").key == "OPENK2_API_KEY"
    monkeypatch.delenv("OPENK2_API_KEY")
    assert made("m", "http://localhost/v1").key == ""


def test_names_that_are_none() -> None:
    for model in ("gpt-5", "nowhere:model", "", None):
        with pytest.raises(UserError, match=r"give --base-url, or name a service before it: kimi, openai"):
            connect(model)
    with pytest.raises(UserError, match="'grpc' is no API"):
        connect("m", "http://h", api="grpc")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is not a base URL"):
        connect("m", "localhost:8000")


def test_windows_and_prices_are_known_or_none() -> None:
    kimi = made("kimi:kimi-k2-thinking")
    assert (kimi.window, kimi.price) == (262_144, Price(0.60, 0.15, 2.50))
    assert made("anthropic:claude-haiku-4-5-20251001").price == Price(1.0, 0.1, 5.0, 1.25)
    assert made("kimi:kimi-k9").price is None and made("kimi:kimi-k9").window is None
    assert made("kimi-k2-thinking", "http://localhost/v1").price is None  # not Moonshot's price there
    assert made("kimi:kimi-k2-thinking", price=Price(1, 1, 1)).price == Price(1, 1, 1)
    for models in services.MODELS.values():
        for name, model in models.items():
            assert model.window >= 100_000, name
            if model.price:
                assert 0 < model.price.cached < model.price.input < model.price.output, name


def test_prices_as_people_write_them() -> None:
    assert services.price("0.6,2.5") == Price(0.6, 0.6, 2.5)
    assert services.price("0.6, 0.15, 2.5") == Price(0.6, 0.15, 2.5)
    for text in ("", "1", "a,b", "1,2,3,4", "-1,2", "nan,1"):
        with pytest.raises(UserError, match="is no price"):
            services.price(text)
    assert Price(0.6, 0.15, 2.5).cost(Usage(prompt=1000, cached=600, reasoning=50, completion=100)) == pytest.approx(
        (400 * 0.6 + 600 * 0.15 + 100 * 2.5) / 1e6
    )


def test_a_missing_key_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENK2_API_KEY")
    says = "asks for a key; set OPENK2_API_KEY to yours"
    with FaultServer(lambda *_: [http(401, "{}")]) as server, pytest.raises(Unavailable, match=says):
        reply(made("m", server.url))
    assert services.key_variable("api.moonshot.ai") == "MOONSHOT_API_KEY"


def test_the_next_takes_over_and_stays() -> None:
    with (
        FaultServer(lambda *_: [http(402, "{}")]) as gone,
        FaultServer(lambda *_: events(CHAT.stream(Said("fine"), 9))) as other,
    ):
        source = connect("first", gone.url, fallback=made("second", other.url))
        assert isinstance(source, Fallback) and source.name == "first"
        pieces = collect(source)  # type: ignore[arg-type]
        (note,) = [piece for piece in pieces if isinstance(piece, Delta) and piece.kind == "retry"]
        assert "is used up" in note.text and note.text.endswith("second takes over.")
        end = pieces[-1]
        assert isinstance(end, Reply) and end.message.content == "fine" and source.name == "second"
        collect(source)  # type: ignore[arg-type]
        assert (len(gone.requests), len(other.requests)) == (1, 2)


def test_faults_of_the_request_stay_faults() -> None:
    def boom(error: Exception) -> Provider:
        def step(_: Any) -> Message:
            raise error

        return ScriptedProvider([step])

    async def run(source: Provider) -> list[Delta | Reply]:
        return [piece async for piece in source.stream(ASK, TOOLS, Limits())]

    for error in (WindowFull("too long"), UserError("bad tool")):
        with pytest.raises(type(error), match=str(error)):
            asyncio.run(run(Fallback(boom(error), ScriptedProvider([say("no")]))))
    with pytest.raises(Unavailable, match="second gone"):
        asyncio.run(run(Fallback(boom(Unavailable("gone")), boom(Unavailable("second gone")))))


def test_each_is_sent_what_is_its_own() -> None:
    """A run that began with Claude goes on with Kimi: the thoughts go along, the signatures stay at home."""
    turn = Said("", "I count.", (("toolu_1", "next", "{}"),), mark="EqQBsecret==")
    with (
        FaultServer(
            lambda s, _: events(ANTHROPIC.stream(turn, 9)) if len(s.requests) == 1 else [http(403, "{}")]
        ) as claude,
        FaultServer(lambda *_: events(CHAT.stream(Said("Two.", "Then two."), 9))) as kimi,
    ):
        source = connect("claude", claude.url, api="anthropic", fallback=made("kimi-k2", kimi.url))
        first = reply(source).message  # type: ignore[arg-type]
        history = (*ASK, first, Message("tool", "2", tool_call_id="toolu_1"))
        last = reply(source, history).message  # type: ignore[arg-type]
        sent = kimi.requests[0]
    assert b"EqQBsecret==" in claude.requests[1].body and b"EqQBsecret==" not in sent.body
    assert sent.json["messages"][2]["reasoning_content"] == "I count."
    assert sent.json["messages"][2]["tool_calls"][0]["id"] == "functions.next:0"
    assert last.content == "Two."


def test_windows_and_scripts_with_prices() -> None:
    small, large = ScriptedProvider([], window=8000), ScriptedProvider([], window=100_000, price=Price(1, 1, 1))
    assert Fallback(large, small).window == 8000 and Fallback(large, small).price == Price(1, 1, 1)
    assert Fallback(ScriptedProvider([]), ScriptedProvider([])).window is None

    async def run() -> list[Delta | Reply]:
        source = ScriptedProvider([call(("t", "{}"), reasoning="one two")], price=Price(1e6, 0, 1e6))
        return [piece async for piece in source.stream(ASK, (), Limits())]

    end = asyncio.run(run())[-1]
    assert isinstance(end, Reply) and end.usage.money == end.usage.prompt + end.usage.completion
    assert end.message.tool_calls == (ToolCall("functions.t:0", "t", "{}"),)


def test_an_unknown_effort_is_said_before_anything_is_sent() -> None:
    with pytest.raises(UserError, match="'huge' is no effort; use low, medium, high, max"):
        Limits(effort="huge")
