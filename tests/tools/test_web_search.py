"""Search engines: what is asked, how their documented answers are read, the cache, and Moonshot's own search."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from openk2.errors import UserError
from openk2.tools import toolset, web_search
from openk2.tools.base import ToolError, ToolResult
from openk2.tools.web_search import APIS, ApiEngine, Found, engine

CASSETTES = json.loads((Path(__file__).parent / "web_search.json").read_text(encoding="utf-8"))


class Played(httpx.AsyncBaseTransport):
    """Answers with what is given and keeps what was asked."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.answer, self.status, self.asked = answer, status, []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        body = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return httpx.Response(self.status, content=body)


def search(made: ApiEngine, query: str = "shade ferns", k: int = 2) -> list[Found]:
    return asyncio.run(made.search(query, k))


@pytest.mark.parametrize("name", list(APIS))
def test_each_engine(name: str, tmp_path: Path) -> None:
    cassette = CASSETTES[name]
    played = Played(cassette["answer"])
    key = "https://search.example/" if name == "searxng" else "k3y"
    found = search(ApiEngine(name, key, cache=tmp_path / "c.sqlite", transport=played))
    assert [[hit.title, hit.url, hit.snippet, hit.date] for hit in found] == cassette["found"]
    (asked,) = played.asked
    assert f"{asked.method} {asked.url.copy_with(query=None)}" == cassette["request"]["line"]
    for header, value in cassette["request"]["headers"].items():
        assert asked.headers[header] == value
    sent = json.loads(asked.content) if asked.method == "POST" else dict(asked.url.params)
    assert sent == cassette["request"]["sent"] and "k3y" not in str(asked.url)


def test_the_cache_answers_again_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(CASSETTES["brave"]["answer"])
    made = ApiEngine("brave", "k3y", cache=tmp_path / "c.sqlite", transport=played)
    first = search(made)
    assert search(made) == first and search(ApiEngine("brave", "x", cache=tmp_path / "c.sqlite")) == first
    assert len(played.asked) == 1
    search(made, k=1)
    search(made, query="moss")
    assert len(played.asked) == 3
    now = web_search.time.time()
    monkeypatch.setattr(web_search.time, "time", lambda: now + web_search.KEPT_SECONDS + 1)
    search(made)
    assert len(played.asked) == 4


def test_a_damaged_cache_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "c.sqlite").write_bytes(b"noise " * 1000)
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "c.sqlite", tmp_path / "file" / "c.sqlite"):
        assert search(ApiEngine("brave", "k", cache=path, transport=Played(CASSETTES["brave"]["answer"])))


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        ({}, 401, "the key is not accepted"),
        ({}, 429, "quota is used up"),
        (b"<html>oops</html>", 500, "answered 500: <html>oops</html>"),
        (b"not json", 200, "not its API's form"),
        ({"results": [3]}, 200, ""),
        ({"other": 1}, 200, "not its API's form"),
        ([], 200, "not its API's form"),
        (httpx.ConnectError("no route"), 200, "was not reached"),
    ],
)
def test_what_goes_wrong_is_a_sentence(answer: Any, status: int, says: str, tmp_path: Path) -> None:
    made = ApiEngine("tavily", "k", cache=tmp_path / "c.sqlite", transport=Played(answer, status))
    if not says:
        assert search(made) == []
        return
    with pytest.raises(ToolError, match=says):
        search(made)
    assert made._cache.get("tavily", "shade ferns", 2) is None  # a failure is not kept


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for api in APIS.values():
        monkeypatch.delenv(api.variable, raising=False)


@pytest.mark.usefixtures("no_keys")
def test_the_engine_is_the_one_that_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="one of TAVILY_API_KEY, BRAVE_API_KEY"):
        engine()
    with pytest.raises(UserError, match="set EXA_API_KEY"):
        engine("exa")
    with pytest.raises(UserError, match="no search engine 'bing'"):
        engine("bing")
    monkeypatch.setenv("SERPER_API_KEY", "k")
    assert engine().name == "serper"
    monkeypatch.setenv("BRAVE_API_KEY", "k")
    assert engine().name == "brave" and engine("serper").name == "serper"


def test_moonshots_search_is_declared_and_handed_back() -> None:
    made = toolset(["$web_search"])["$web_search"]
    assert made.spec().to_wire() == {"type": "builtin_function", "function": {"name": "$web_search"}}
    arguments = '{"search_result": {"search_id": "täg1"}, "usage": {"total_tokens": 13046}}'
    result = asyncio.run(made.run(arguments))
    assert not result.is_error and json.loads(result.content) == json.loads(arguments)
    assert result == ToolResult(arguments) and made.untrusted and made.egress
