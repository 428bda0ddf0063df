"""Search engines behind one method, `search(query, k) -> hits`, and a cache of what they said.

Keys come from the environment: TAVILY_API_KEY, BRAVE_API_KEY, SERPER_API_KEY, EXA_API_KEY, or SEARXNG_URL for one's own
SearXNG (with `json` among its formats). `engine()` takes the one that is named, else the first that has its key.
Moonshot's own search runs on its server: `moonshot_search` declares it and hands the arguments back, as its docs ask.
"""

from __future__ import annotations

import html
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from openk2.chat.messages import ToolSpec
from openk2.errors import UserError
from openk2.paths import cache_dir
from openk2.tools.base import Tool, ToolError

SECONDS = 20.0
KEPT_SECONDS = 24 * 3600.0  # how long an answer is taken from the cache
KEPT_ANSWERS = 5000
MOONSHOT = "$web_search"


@dataclass(frozen=True, slots=True)
class Found:
    title: str
    url: str
    snippet: str
    date: str = ""  # as the engine writes it


class Engine(Protocol):
    name: str

    async def search(self, query: str, k: int) -> list[Found]: ...


@dataclass(frozen=True, slots=True)
class Api:
    """How one engine is asked and how its answer is read."""

    variable: str  # of the environment: its key, or its address
    request: Callable[[str, str, int], httpx.Request]  # key, query, k
    rows: Callable[[Any], Any]
    title: str
    url: str
    snippet: str
    date: str


def _post(url: str, headers: dict[str, str], body: dict[str, Any]) -> httpx.Request:
    return httpx.Request("POST", url, headers=headers, json=body)


def _get(url: str, headers: dict[str, str], query: dict[str, Any]) -> httpx.Request:
    return httpx.Request("GET", url, headers=headers, params=query)


# Fields as the engines' API references give them.
APIS = {
    "tavily": Api(
        "TAVILY_API_KEY",
        lambda key, query, k: _post(
            "https://api.tavily.com/search", {"Authorization": f"Bearer {key}"}, {"query": query, "max_results": k}
        ),
        lambda data: data["results"], "title", "url", "content", "published_date",
    ),
    "brave": Api(
        "BRAVE_API_KEY",
        lambda key, query, k: _get(
            "https://api.search.brave.com/res/v1/web/search",
            {"X-Subscription-Token": key, "Accept": "application/json"},
            {"q": query, "count": min(k, 20)},
        ),
        lambda data: data.get("web", {}).get("results", []), "title", "url", "description", "age",
    ),
    "serper": Api(
        "SERPER_API_KEY",
        lambda key, query, k: _post(
            "https://google.serper.dev/search", {"X-API-KEY": key}, {"q": query, "num": max(k, 10)}
        ),
        lambda data: data.get("organic", []), "title", "link", "snippet", "date",
    ),
    "exa": Api(
        "EXA_API_KEY",
        lambda key, query, k: _post(
            "https://api.exa.ai/search",
            {"x-api-key": key},
            {"query": query, "numResults": k, "contents": {"text": {"maxCharacters": 500}}},
        ),
        lambda data: data["results"], "title", "url", "text", "publishedDate",
    ),
    "searxng": Api(
        "SEARXNG_URL",
        lambda address, query, k: _get(f"{address.rstrip('/')}/search", {}, {"q": query, "format": "json"}),
        lambda data: data["results"], "title", "url", "content", "publishedDate",
    ),
}  # fmt: skip


class ApiEngine:
    """One of `APIS` with its key. A person chose it, so the person's proxy settings hold."""

    def __init__(
        self, name: str, key: str, *, cache: Path | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.name, self._key, self._transport = name, key, transport
        self._cache = Cache(cache or cache_dir() / "web-search.sqlite")

    async def search(self, query: str, k: int) -> list[Found]:
        """The first k hits. Raises ToolError with what the engine said."""
        kept = self._cache.get(self.name, query, k)
        if kept is not None:
            return kept
        found = await self._ask(query, k)
        self._cache.put(self.name, query, k, found)
        return found

    async def _ask(self, query: str, k: int) -> list[Found]:
        api = APIS[self.name]
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=SECONDS) as client:
                response = await client.send(api.request(self._key, query, k))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = f"{type(error).__name__}: {error}"
            raise ToolError(f"The search engine {self.name} was not reached ({why}).") from None
        if response.status_code != 200:
            raise ToolError(f"The search engine {self.name} answered {response.status_code}: {_said(response)}")
        try:
            rows = api.rows(response.json())
            found = [
                Found(_plain(row.get(api.title)), row[api.url], _plain(row.get(api.snippet)), _plain(row.get(api.date)))
                for row in rows
                if isinstance(row, dict) and isinstance(row.get(api.url), str)
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ToolError(f"The search engine {self.name} answered something that is not its API's form.") from None
        return found[:k]


def _said(response: httpx.Response) -> str:
    if response.status_code in (401, 403):
        return "the key is not accepted; a person must set it right."
    if response.status_code in (402, 429):
        return "its quota is used up or it is asked too often; wait, or use the documents."
    return " ".join(_plain(response.text[:300]).split())


def _plain(value: Any) -> str:
    """A field as plain text: engines put <strong> and entities around what matched."""
    if value is None:
        return ""
    return html.unescape(re.sub(r"</?(strong|b|em|mark)>", "", str(value))).strip()


class Cache:
    """Answers by engine, query and k, in one SQLite file. Whatever ails the file, the search goes on without it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, engine: str, query: str, k: int) -> list[Found] | None:
        try:
            with closing(self._open()) as db:
                row = db.execute(
                    "SELECT found FROM answers WHERE engine = ? AND query = ? AND k = ? AND time > ?",
                    (engine, query, k, time.time() - KEPT_SECONDS),
                ).fetchone()
            return [Found(*fields) for fields in json.loads(row[0])] if row else None
        except (OSError, sqlite3.Error, ValueError, TypeError):
            return None

    def put(self, engine: str, query: str, k: int, found: list[Found]) -> None:
        rows = json.dumps([[hit.title, hit.url, hit.snippet, hit.date] for hit in found])
        try:
            with closing(self._open()) as db, db:
                row = (engine, query, k, time.time(), rows)
                db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", row)
                db.execute(
                    "DELETE FROM answers WHERE rowid NOT IN (SELECT rowid FROM answers ORDER BY time DESC LIMIT ?)",
                    (KEPT_ANSWERS,),
                )
        except (OSError, sqlite3.Error, ValueError):
            return

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=2.0)
        db.execute(
            "CREATE TABLE IF NOT EXISTS answers"
            "(engine TEXT, query TEXT, k INTEGER, time REAL, found TEXT, PRIMARY KEY (engine, query, k))"
        )
        return db


def engine(name: str | None = None, **more: Any) -> ApiEngine:
    """The engine called `name`, else the first whose variable is set. Raises UserError where none is."""
    if name is not None and name not in APIS:
        raise UserError(f"There is no search engine {name!r}: choose from {', '.join(APIS)}.")
    for choice in [name] if name else APIS:
        if key := os.environ.get(APIS[choice].variable):
            return ApiEngine(choice, key, **more)
    wanted = APIS[name].variable if name else ", ".join(api.variable for api in APIS.values())
    raise UserError(f"The web cannot be searched: set {'' if name else 'one of '}{wanted} in the environment.")


# ------------------------------------------------------------------------------------------------ Moonshot's own


class BuiltinSpec(ToolSpec):
    """A tool that the server itself runs; only its name is declared."""

    def to_wire(self) -> dict[str, Any]:
        return {"type": "builtin_function", "function": {"name": self.name}}


class MoonshotSearch(Tool):
    def spec(self) -> ToolSpec:
        return BuiltinSpec(self.name, self.description, self.parameters)


def moonshot_search() -> Tool:
    """Moonshot's `$web_search`: its result is the call's arguments; the server searches when it sees them back."""
    return MoonshotSearch(
        MOONSHOT,
        "Search the web; the server that answers runs it.",
        lambda **arguments: arguments,
        idempotent=True,
        egress=True,
        untrusted=True,
        schema={"type": "object"},
    )
