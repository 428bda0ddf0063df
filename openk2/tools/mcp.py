"""Tools of other programs, by the Model Context Protocol: over a pipe (`command`) or streamable HTTP (`url`).

    [mcp.github]                                     # in the settings file; tools become github_create_issue ...
    command = ["npx", "-y", "@modelcontextprotocol/server-github"]
    env = { GITHUB_TOKEN = "${GITHUB_TOKEN}" }       # taken from the environment; nothing else of it is passed on
    timeout = 60                                     # seconds for one call
    approve = "writes"                               # always, never, or what does not call itself read-only

What a server says, its tools' descriptions among it, is text from outside. A server that ends is started again once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import mimetypes
import os
import re
import secrets
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from openk2.errors import UserError
from openk2.paths import install
from openk2.tools import beneath
from openk2.tools.base import DEFAULT_OUTPUT_LIMIT, Tool, ToolError, ToolResult, cut
from openk2.tools.provenance import Provenance, visible

NAME_LENGTH = 64  # characters of a tool's name that model APIs take
DESCRIPTION_LENGTH = 2000
START_SECONDS = 30.0
MAX_PAGES = 400  # of a server's list of tools
MAX_FILE = 32 << 20  # bytes of an image or another file in a result
STARTS = 2  # of one server in one run: the first and one more

Approve = Literal["always", "writes", "never"]


@dataclass(frozen=True)
class ServerSettings:
    """One server as a person wrote it down. Exactly one of `command` and `url` is given."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0  # seconds
    approve: Approve = "writes"


def settings(table: Mapping[str, Any]) -> list[ServerSettings]:
    """The servers of the settings file's `[mcp.NAME]` tables. Raises UserError, naming the entry that is wrong."""
    return [_server(name, entry) for name, entry in table.items()]


def _server(name: str, entry: Any) -> ServerSettings:
    def wrong(what: str) -> UserError:
        return UserError(f"The settings [mcp.{name}] are wrong: {what}.")

    if not re.fullmatch(r"[A-Za-z]\w{0,23}", name, re.ASCII):
        raise wrong("a server's name is a letter and up to 23 letters, digits or _")
    if not isinstance(entry, Mapping):
        raise wrong("it is not a table")
    known = ("command", "url", "env", "cwd", "headers", "timeout", "approve")
    if unknown := sorted(set(entry) - set(known)):
        raise wrong(f"{unknown[0]} is not known; known are {', '.join(known)}")
    command = entry.get("command", [])
    words = shlex.split(command) if isinstance(command, str) else command
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise wrong("command is a text or a list of texts")
    url = entry.get("url", "")
    if not isinstance(url, str) or bool(words) == bool(url):
        raise wrong("give either command or url")
    if url and not url.startswith(("http://", "https://")):
        raise wrong("url begins with https:// or http://")
    timeout, approve = entry.get("timeout", 60.0), entry.get("approve", "writes")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 3600:
        raise wrong("timeout is a number of seconds up to 3600")
    if approve not in ("always", "writes", "never"):
        raise wrong("approve is always, writes or never")
    texts: dict[str, dict[str, str]] = {}
    for key in ("env", "headers"):
        values = entry.get(key, {})
        if not isinstance(values, Mapping) or not all(isinstance(value, str) for value in values.values()):
            raise wrong(f"{key} is a table of texts")
        texts[key] = {str(k): _expanded(v, wrong) for k, v in values.items()}
    cwd = entry.get("cwd", "")
    if not isinstance(cwd, str):
        raise wrong("cwd is a text")
    return ServerSettings(name, tuple(words), url, texts["env"], cwd, texts["headers"], float(timeout), approve)


def _expanded(text: str, wrong: Any) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise wrong(f"{match[1]} is not set in the environment")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


# ------------------------------------------------------------------------------------------------ one server


class Server:
    """A connection that is kept by a task of its own, because it must end in the task that began it."""

    def __init__(self, settings: ServerSettings, transport: Any = None) -> None:
        self.settings = settings
        self._transport = transport  # for tests: a server in this process
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._starting = asyncio.Lock()
        self._starts = 0
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    async def client(self) -> Any:
        """The connected client, started (again) where it is not. Raises ToolError."""
        async with self._starting:
            if self._task is None or self._task.done():
                if self._starts >= STARTS:
                    name = self.settings.name
                    raise ToolError(f"The server {name} has ended again and is not started a third time.{self._last()}")
                await self._start()
            return self._client

    async def _start(self) -> None:
        self._starts += 1
        self._stop = asyncio.Event()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._serve(ready))
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(ready)
        except TimeoutError:
            self._task.cancel()
            raise ToolError(f"The server {self.settings.name} did not answer within {START_SECONDS:g} s.") from None
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise ToolError(f"The server {self.settings.name} could not be started ({why}).{self._last()}") from None

    async def _serve(self, ready: asyncio.Future[None]) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                self._client = await stack.enter_async_context(await self._connection(stack))
                ready.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            error = _first(error)
            if not ready.done() and isinstance(error, Exception):
                ready.set_exception(error)
                ready.exception()  # told to whoever waits; nobody may
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _connection(self, stack: contextlib.AsyncExitStack) -> Any:
        from mcp.client import Client

        place = self.settings
        if self._transport is not None:
            return Client(self._transport, read_timeout_seconds=place.timeout)
        if place.url:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            http = httpx2.AsyncClient(headers=dict(place.headers), timeout=httpx2.Timeout(30.0, read=place.timeout + 5))
            await stack.enter_async_context(http)
            transport = streamable_http_client(place.url, http_client=http)
        else:
            from mcp.client.stdio import StdioServerParameters, stdio_client

            program, *arguments = place.command
            parameters = StdioServerParameters(
                command=program, args=arguments, env=dict(place.env), cwd=place.cwd or None,
                encoding_error_handler="replace",
            )  # fmt: skip
            transport = stdio_client(parameters, errlog=self._errors)
        return Client(transport, read_timeout_seconds=place.timeout)

    async def list(self) -> list[Any]:
        """All tools that the server declares."""
        client, found, cursor = await self.client(), [], None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """The server's result. Raises ToolError; a call during which the server ends is not repeated."""
        from mcp.shared.exceptions import MCPError
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        client = await self.client()
        try:
            return await client.call_tool(name, arguments)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise ToolError(await self._ended()) from None
            if error.code == REQUEST_TIMEOUT:
                raise ToolError(f"{self.settings.name} did not answer in {self.settings.timeout:g} seconds.") from None
            raise ToolError(f"{self.settings.name} refused the call: {visible(error.message)[:500]}") from None
        except (OSError, RuntimeError) as error:
            raise ToolError(f"{await self._ended()} ({type(error).__name__})") from None

    async def _ended(self) -> str:
        await self.aclose()
        about = f"The server {self.settings.name} ended during this call; what the call did is unknown.{self._last()}"
        try:
            await self.client()
        except ToolError as error:
            return f"{about} {error}"
        return f"{about} It was started again."

    def _last(self) -> str:
        """The last line that the server wrote to its error output."""
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].strip().splitlines()
        return f" It last wrote: {visible(lines[-1])[:300]}" if lines else ""

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is None or task.done():
            return
        self._stop.set()
        done, _ = await asyncio.wait({task}, timeout=8.0)
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=2.0)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# ------------------------------------------------------------------------------------------------ all of them


class Servers:
    """The servers of a run. `start` connects them; `tools` are theirs, by the names a model calls them."""

    def __init__(self, servers: Iterable[Server], workspace: Path, provenance: Provenance | None = None) -> None:
        self.servers = tuple(servers)
        self.workspace = workspace.resolve()
        self.provenance = provenance or Provenance()
        self.tools: dict[str, Tool] = {}
        self.problems: list[str] = []  # of servers that are not there: the run goes on without them

    @classmethod
    async def start(
        cls, settings: Iterable[ServerSettings], workspace: Path, provenance: Provenance | None = None
    ) -> Servers:
        """Connect all servers at once. Raises UserError where the SDK is not installed."""
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise UserError(f"MCP servers need the package mcp: {install('mcp')}.") from None
        made = cls(map(Server, settings), workspace, provenance)
        await made.connect()
        return made

    async def connect(self) -> None:
        listed = await asyncio.gather(*(server.list() for server in self.servers), return_exceptions=True)
        for server, tools in zip(self.servers, listed, strict=True):
            if isinstance(tools, BaseException):
                if not isinstance(tools, Exception):
                    raise tools
                own = isinstance(tools, ToolError)
                self.problems.append(str(tools) if own else f"The server {server.settings.name} failed: {tools}")
                continue
            for declared in tools:
                made = self._tool(server, declared)
                self.tools[made.name] = made

    def _tool(self, server: Server, declared: Any) -> Tool:
        place, hints = server.settings, declared.annotations
        reads = bool(hints and hints.read_only_hint)
        asks = place.approve == "always" or (place.approve == "writes" and not reads)
        name = safe_name(place.name, declared.name, self.tools)
        about = " ".join(visible(declared.description or declared.title or declared.name).split())
        schema = declared.input_schema if isinstance(declared.input_schema, dict) else {}
        return Tool(
            name,
            about[:DESCRIPTION_LENGTH],
            partial(self._call, server, declared.name, name),
            idempotent=reads,
            needs_approval=asks,
            timeout=place.timeout + START_SECONDS,
            output_limit=DEFAULT_OUTPUT_LIMIT + 1000,
            egress=True,
            untrusted=True,
            schema={"type": "object", "properties": {}, **schema},
        )

    async def _call(self, server: Server, declared: str, name: str, /, **arguments: Any) -> ToolResult:
        result = await server.call(declared, arguments)
        parts: list[str] = []
        files: list[str] = []
        for block in result.content:
            parts.append(await self._shown(block, name, files))
        if not any(parts) and result.structured_content is not None:
            parts = [json.dumps(result.structured_content, ensure_ascii=False)]
        text = cut("\n".join(part for part in parts if part) or "(nothing)", DEFAULT_OUTPUT_LIMIT)
        source = f"result of {declared} from the server {server.settings.name}"
        return ToolResult(self.provenance.wrap(text, source), result.is_error, tuple(files), server.settings.url)

    async def _shown(self, block: Any, name: str, files: list[str]) -> str:
        if block.type == "text":
            return block.text
        if block.type in ("image", "audio"):
            return await self._saved(block.data, block.mime_type, name, files)
        if block.type == "resource_link":
            return f"({block.name}: {block.uri})"
        resource = getattr(block, "resource", None)
        if getattr(resource, "text", None) is not None:
            return resource.text  # type: ignore[union-attr]
        if getattr(resource, "blob", None) is not None:
            return await self._saved(resource.blob, resource.mime_type or "", name, files)  # type: ignore[union-attr]
        return f"(a part of the kind {block.type}, which is not shown)"

    async def _saved(self, data: str, kind: str, name: str, files: list[str]) -> str:
        """Put a file of a result into the workspace; its name is ours, not the server's."""
        if len(data) > MAX_FILE * 4 // 3:
            return f"({kind or 'a file'} of more than {MAX_FILE >> 20} MB, not kept)"
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            return f"({kind or 'a file'} that is damaged)"
        ending = mimetypes.guess_extension(kind.partition(";")[0].strip()) or ".bin"
        place = beneath.place_in(self.workspace, f"{name[:40]}-{secrets.token_hex(3)}{ending}")
        assert place is not None
        await asyncio.to_thread(beneath.write, place, content)
        files.append(place.shown)
        return f"({kind or 'a file'} saved as {place.shown})"

    async def aclose(self) -> None:
        await asyncio.gather(*(server.aclose() for server in self.servers))


def safe_name(server: str, name: str, taken: Mapping[str, Any]) -> str:
    """`SERVER_NAME` with the letters that every model API and Kimi's call ids take, at most 64, and not taken."""
    plain = re.sub(r"\W", "_", f"{server}_{name}", flags=re.ASCII)
    if len(plain) > NAME_LENGTH:
        plain = f"{plain[: NAME_LENGTH - 9]}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    made, number = plain, 2
    while made in taken:
        made = f"{plain[: NAME_LENGTH - 5]}_{number}"
        number += 1
    return made
