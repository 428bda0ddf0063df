"""This agent as an MCP server: `ask` runs a question as `k2 ask` does, `search`, `open` and `find` read the documents.

Whoever asks may name documents, but only below the folders that the person named when the server was started.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError as Failed
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, TextContent, ToolAnnotations

from openk2 import __version__
from openk2.agent.events import Event, ReplyReceived, ToolFinished, ToolStarted
from openk2.agent.log import Log, new_id
from openk2.agent.loop import Watch
from openk2.agent.parts import Parts
from openk2.agent.setup import Setup
from openk2.errors import UserError
from openk2.tools import toolset
from openk2.tools.base import ToolError
from openk2.tools.formats import shorten

INSTRUCTIONS = (
    "ask answers a question by thinking, searching documents and computing; it may take minutes and tells its progress."
    " search, open and find read the same documents, each line as [id:line] text."
)
LINE = 120  # characters of a progress message
READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


def made(setup: Setup, runs: Path, roots: Sequence[Path]) -> MCPServer:
    """The server. `roots`: below which folders `ask` may be given documents. Raises UserError as the index does."""
    server = MCPServer("openk2", version=__version__, instructions=INSTRUCTIONS, log_level="ERROR")

    async def ask(
        question: str, ctx: Context, mode: Literal["agent", "chat"] = "agent", docs: list[str] | None = None
    ) -> CallToolResult:
        """Answer a question by thinking, searching the documents and computing; facts come with the lines they rest on.

        Args:
            question: The question, whole: nothing of this conversation is known there.
            mode: agent uses tools, chat only answers.
            docs: Files or folders to search instead of the server's own.
        """
        try:
            places = tuple(str(_below(path, roots)) for path in docs or ())
            asked = replace(setup, mode=mode, docs=places or setup.docs)
            return await _answer(asked, runs, question, ctx)
        except UserError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)

    server.add_tool(ask, annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
    for tool in toolset(["search", "open", "find"], index=replace(setup, mode="agent").index()).values():
        server.add_tool(_said(tool.function), name=tool.name, description=tool.description, annotations=READS)
    return server


def _said(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its failures as the client's model is to read them; the library keeps all others to itself."""

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except (ToolError, UserError) as error:
            raise Failed(str(error)) from None

    return call


def _below(path: str, roots: Sequence[Path]) -> Path:
    place = Path(path).expanduser().resolve()
    if not any(place.is_relative_to(root.resolve()) for root in roots):
        raise UserError(f"{path} is not below {', '.join(map(str, roots))}; start `k2 mcp` with --docs for its folder.")
    if not place.exists():
        raise UserError(f"There is no file or folder {path}.")
    return place


async def _answer(setup: Setup, runs: Path, question: str, ctx: Context) -> CallToolResult:
    if not question.strip():
        raise UserError("The question is empty.")
    started = setup.started(new_id(), question.strip())
    with Log.create(runs / started.run) as log:
        log.append(started)
        parts = await asyncio.to_thread(Parts.open, log)
        try:
            async with _telling(ctx) as watch:
                end = await parts.worker(log, watch=lambda _name, item: watch(item)).run()
        finally:
            await parts.aclose()
        found = parts.sources(log, end)
    lines = [f"[{source.id}:{source.line}] {source.title} - {source.text}" for source in found if source.text]
    text = "\n".join([end.answer, *(["", "Sources", *lines] if lines else [])])
    told = {
        "answer": end.answer,
        "sources": [source.to_json() for source in found],
        "finish_reason": end.reason,
        "steps": end.steps,
        "run": started.run,
    }
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=told)


@contextlib.asynccontextmanager
async def _telling(ctx: Context) -> AsyncIterator[Watch]:
    """A watch that tells the client of each step and call; a client that does not listen costs nothing."""
    told: asyncio.Queue[str | None] = asyncio.Queue()

    async def tell() -> None:
        number = 0
        while (message := await told.get()) is not None:
            number += 1
            with contextlib.suppress(Exception):  # gone: the answer is still written down
                await ctx.report_progress(number, None, message)

    teller = asyncio.create_task(tell())
    try:
        yield lambda event: told.put_nowait(_message(event)) if _message(event) else None
    finally:
        told.put_nowait(None)
        await teller


def _message(event: Event | Any) -> str:
    if isinstance(event, ReplyReceived):
        thought = (event.message.reasoning or event.message.content).strip().split("\n")
        return shorten(f"thought: {thought[-1]}", LINE) if thought[-1] else ""
    if isinstance(event, ToolStarted):
        return shorten(f"{event.name} {event.arguments}", LINE)
    if isinstance(event, ToolFinished) and event.is_error:
        return shorten(f"{event.name} failed: {event.content}", LINE)
    return ""


# ------------------------------------------------------------------------------------------------ over HTTP

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def http_app(server: MCPServer, token: str) -> App:
    """The server as a web application at /mcp, for this machine and for whoever has the token."""
    local = ["127.0.0.1:*", "localhost:*", "[::1]:*"]
    security = TransportSecuritySettings(
        allowed_hosts=local, allowed_origins=[f"http://{host}" for host in local]
    )  # a web page that has this machine's address under its own name
    return guarded(server.streamable_http_app(transport_security=security), token)


def guarded(app: App, token: str) -> App:
    """`app` for requests that carry `Authorization: Bearer TOKEN`; 401 for all others."""

    async def check(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given = next((value for key, value in scope["headers"] if key == b"authorization"), b"")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b"Give the token that `k2 mcp` has printed."})
                return
        await app(scope, receive, send)

    return check
