"""What all models behind HTTP have in common: one request and its stream, tried again where time mends what failed.

The exchange runs in a task of its own and hands over what came; the reader of it is never blocked by the network. So
a stream that says nothing is seen and told, and closing or cancelling a reply ends its connection at once.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol

import httpx

from openk2.chat.call_ids import call_id, next_index
from openk2.chat.messages import Message, Native, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers import sse
from openk2.providers.base import Delta, Limits, Price, Reply, Unavailable, Usage
from openk2.providers.failures import Refusal, Transient, meaning, reason, room_left, window_size

TRIES = 8
FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0  # seconds; the pauses between tries double, each drawn at random up to its length
QUIET = 20.0  # seconds without a token until the first `wait`; each further one after twice the time
SILENT = 600.0  # seconds without a token, but perhaps with signs of life, until the try is given up
TIMEOUT = httpx.Timeout(connect=10.0, read=300.0, write=60.0, pool=None)  # a first token has taken 243 s in the wild
ROOM = 512  # tokens that a reply should have: where the window leaves less, the conversation is too long
LESSONS = 12  # refused fields that one request may teach
TAIL = 2.0  # seconds that a reply which is whole waits for its counts
REST = 0.1  # seconds that a stream gets to end behind its last event: its connection then serves the next request
WINDOWS = ("context_length", "max_model_len", "context_window", "max_context_length")  # in lists of models
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


class Reading(Protocol):
    """A reply that is being put together. Raises Transient, Refusal or UserError for what is none."""

    enough: bool  # nothing more is needed: a connection that breaks now breaks nothing
    complete: bool  # nothing more can come
    rest: list[Delta]  # what only `reply` made certain
    kept: int  # tokens of the prompt that went into the service's cache

    def feed(self, event: dict[str, Any]) -> list[Delta]: ...

    def whole(self, answer: dict[str, Any]) -> list[Delta]:
        """The answer of a server that does not stream."""
        ...

    def end(self) -> list[Delta]:
        """The end mark `[DONE]`."""
        ...

    def reply(self) -> Reply: ...


class Remote(ABC):
    """A model at `base_url`; None takes the only one that the server offers.

    `first_pause`, `quiet` and `silent` are in seconds.
    """

    api: ClassVar[str]
    path: ClassVar[str]

    def __init__(
        self,
        model: str | None,
        base_url: str,
        *,
        key: str | None = None,
        price: Price | None = None,
        window: int | None = None,
        tries: int = TRIES,
        first_pause: float = FIRST_PAUSE,
        quiet: float = QUIET,
        silent: float = SILENT,
    ) -> None:
        self.model = model
        self.base_url = base_url.strip().rstrip("/").removesuffix(self.path).rstrip("/")
        self.host = host_of(self.base_url)
        self.key = (key or "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError("The API key holds characters that no key has; copy it again.")
        self.price, self.window = price, window
        self.tries, self.first_pause, self.quiet, self.silent = tries, first_pause, quiet, silent
        self.without: set[str] = set()  # optional fields that this server refuses
        self.most: int | None = None  # tokens of a reply that this server allows, where it told
        self.void: set[Native] = set()  # native forms that this server does not take back any more
        self._sent: dict[str, Any] = {}  # the fields of the last request, but for the messages
        self._client: httpx.AsyncClient | None = None
        self._reached = self._asked = False
        self._set_up()

    @abstractmethod
    def _set_up(self) -> None:
        """Make what a kind of provider keeps beside this."""

    @property
    def name(self) -> str:
        return self.model or self.base_url

    @property
    def where(self) -> str:
        """The beginning of a sentence about this server."""
        return f"The server at {self.base_url}"

    @property
    def origin(self) -> str:
        """Whose native forms of messages these are: what one model signed, another refuses."""
        return f"{self.api} {self.host} {self.model}"

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        """See `Provider.stream`."""
        if self.model is None:
            self.model = await self._only_model()
        asking = None
        if self.window is None and not self._asked:
            asking, self._asked = asyncio.create_task(self._ask_window()), True
        try:
            async with aclosing(self._tries(messages, tools, limits)) as pieces:
                async for piece in pieces:
                    if asking and isinstance(piece, Reply):
                        await asyncio.wait({asking}, timeout=TAIL)
                    yield piece
        finally:
            if asking:
                asking.cancel()
                await asyncio.wait({asking})

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def models(self) -> list[str]:
        """The names that the server lists; raises Unavailable when it cannot be reached."""
        return [str(entry["id"]) for entry in await self._entries()]

    async def _entries(self) -> list[dict[str, Any]]:
        try:
            response = await self._http().get(f"{self.base_url}/models", headers=self._headers())
            entries = response.json()["data"] if response.status_code == 200 else []
            return [entry for entry in entries if "id" in entry]
        except httpx.RequestError as error:
            raise self._unreachable(error) from None
        except (ValueError, KeyError, TypeError):
            return []

    async def _ask_window(self) -> None:
        """Beside the first request: servers such as vLLM and OpenRouter list what their models read."""
        try:
            entry = next((entry for entry in await self._entries() if entry["id"] == self.model), {})
        except Unavailable:
            return
        sizes = [entry.get(name) for name in WINDOWS]
        self.window = self.window or next((size for size in sizes if isinstance(size, int) and size > 0), None)

    async def _tries(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncGenerator[Delta | Reply]:
        for attempt in range(self.tries):
            try:
                async with aclosing(self._attempt(messages, tools, limits)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except Transient as failure:
                if attempt == self.tries - 1:
                    raise Unavailable(f"{self.where} failed {self.tries} times ({failure}); try again later.") from None
                pause = random.uniform(0, min(LAST_PAUSE, self.first_pause * 2**attempt))
                pause = max(pause, failure.pause or 0.0)
                yield Delta("retry", f"{failure}; trying again in {pause:.1f} s")
                await asyncio.sleep(pause)

    @abstractmethod
    def _headers(self) -> dict[str, str]: ...

    @abstractmethod
    def _body(self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits) -> bytes: ...

    @abstractmethod
    def _reading(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sent: int) -> Reading:
        """`sent` is the size of the request in bytes, for servers that count no tokens."""

    @abstractmethod
    def _adapt(self, text: str, messages: Sequence[Message]) -> bool:
        """Learn from a refusal; True if the request is now another one that is worth sending."""

    def _longest(self, limits: Limits, default: int | None = None) -> int | None:
        """The tokens that the reply may have."""
        wanted = limits.max_tokens or default
        return wanted if wanted is None or self.most is None else min(wanted, self.most)

    def _learn_most(self, text: str, asked: int | None) -> bool:
        """From the refusal of a limit on the reply: the largest number in it that is below what was asked for."""
        allowed = [n for n in map(int, re.findall(r"\d+", text)) if 256 <= n < (asked or 0)]
        self.most = max(allowed, default=self.most)
        return bool(allowed)

    def _forget(self, messages: Sequence[Message]) -> bool:
        """Send the native forms of these messages no more; True if there were any."""
        before = len(self.void)
        self.void |= {m.native for m in messages if m.native and m.native.origin == self.origin}
        return len(self.void) > before

    def _own(self, message: Message) -> Native | None:
        """The native form to send back."""
        native = message.native
        return native if native and native.origin == self.origin and native not in self.void else None

    def _numbered(self, message: Message, messages: Sequence[Message]) -> Message:
        """The message with call ids that no other call of the conversation has; good ones are kept."""
        if not message.tool_calls:
            return message
        used = {call.id for m in messages for call in m.tool_calls}
        calls: list[ToolCall] = []
        number = max(next_index(messages), sum(len(m.tool_calls) for m in messages))
        for call in message.tool_calls:
            if call.id in used or not self._keeps(call, number):
                call = replace(call, id=call_id(call.name, number))
            used.add(call.id)
            calls.append(call)
            number += 1
        return replace(message, tool_calls=tuple(calls))

    def _keeps(self, call: ToolCall, number: int) -> bool:
        """Whether the id that a call came with is one that this service can be sent; `number` is the call's own."""
        return bool(call.id)

    def _priced(self, usage: Usage, kept: int) -> Usage:
        if usage.money is None and self.price is not None:
            return replace(usage, money=self.price.cost(usage, kept))
        return usage

    async def _attempt(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncGenerator[Delta | Reply]:
        for _ in range(LESSONS):
            body = self._body(messages, tools, limits)
            reading = self._reading(messages, tools, len(body))
            try:
                async with aclosing(self._exchange(body, reading)) as deltas:
                    async for delta in deltas:
                        yield delta
                reply = reading.reply()
                for delta in reading.rest:
                    yield delta
                message = self._numbered(reply.message, messages)
                yield replace(reply, message=message, usage=self._priced(reply.usage, reading.kept))
                return
            except Refusal as refusal:
                if refusal.about_window:
                    self.window = self.window or window_size(refusal.text)
                    shorter = self._fitting(limits, refusal.text)
                    if shorter is None:
                        raise meaning(refusal, self.where) from None
                    limits = shorter
                elif refusal.status not in (400, 422) or not self._adapt(refusal.text, messages):
                    raise await self._meaning(refusal) from None
        raise UserError(f"{self.where} refuses one field of the request after another; it speaks another protocol.")

    def _fitting(self, limits: Limits, text: str) -> Limits | None:
        """Limits whose reply fits beside the prompt; None where the prompt alone is too long."""
        room = room_left(text)
        if room is not None:
            return replace(limits, max_tokens=room) if ROOM <= room != limits.max_tokens else None
        return None if limits.max_tokens is None else replace(limits, max_tokens=None)

    async def _exchange(self, body: bytes, reading: Reading) -> AsyncGenerator[Delta]:
        """Send, and feed what comes to `reading`, until it is complete. Tells of silence."""
        came: asyncio.Queue[Came] = asyncio.Queue()
        task = asyncio.create_task(self._fetch(body, came.put_nowait))
        clock = asyncio.get_running_loop().time
        heard, told = clock(), self.quiet
        try:
            while not reading.complete:
                silence = clock() - heard
                if came.empty() and reading.enough and silence >= TAIL:
                    return
                if came.empty() and silence >= self.silent:
                    raise Transient(f"no token came for {silence:.0f} s")
                if came.empty() and silence >= told:
                    yield Delta("wait", f"no token for {told:g} s")
                    told *= 2
                patience = TAIL if reading.enough else min(told, self.silent)
                try:
                    async with asyncio.timeout(max(0.001, patience - silence)):
                        what, item = await came.get()
                except TimeoutError:
                    continue
                match what:
                    case "closed":
                        return
                    case "failed":
                        if reading.enough and isinstance(item, Transient):
                            return
                        raise item
                    case "whole":
                        deltas = reading.whole(item)
                    case "end":
                        deltas = reading.end()
                    case _:
                        deltas = reading.feed(item)
                if deltas or reading.enough:
                    heard, told = clock(), self.quiet
                for delta in deltas:
                    yield delta
            await asyncio.wait({task}, timeout=REST)
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _fetch(self, body: bytes, put: Callable[[Came], None]) -> None:
        """One request; all that comes of it, failures too, goes to `put`."""
        try:
            url = f"{self.base_url}{self.path}"
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream", **self._headers()}
            async with self._http().stream("POST", url, content=body, headers=headers) as response:
                self._reached = True
                kind = response.headers.get("content-type", "")
                if response.status_code != 200:
                    raise self._refusal(response, await _text(response))
                if kind.startswith("text/html"):
                    title = reason(await _text(response))
                    raise Unavailable(f"{self.where} answers with a web page ({title}); correct --base-url.")
                if kind.startswith("application/json"):
                    put(("whole", _parsed((await response.aread()).decode("utf-8", "replace"))))
                else:
                    async for data in sse.events(response.aiter_bytes()):
                        put(("end", None) if data.strip() == "[DONE]" else ("event", _parsed(data)))
                put(("closed", None))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            put(("failed", Transient("the server could not be reached") if self._reached else self._unreachable(error)))
        except httpx.TimeoutException:
            put(("failed", Transient("the server was silent for too long")))
        except httpx.RequestError as error:
            put(("failed", Transient(f"the connection broke ({type(error).__name__})")))
        except Exception as error:
            put(("failed", error))

    def _refusal(self, response: httpx.Response, text: str) -> Exception:
        if response.is_redirect:
            target = response.headers.get("location", "elsewhere").partition("?")[0]
            return UserError(f"{self.where} redirects to {target}; give the address that it means with --base-url.")
        return Refusal(response.status_code, text, response.headers)

    async def _meaning(self, refusal: Refusal) -> Exception:
        if refusal.status == 401 and not self.key:
            from openk2.providers.services import key_variable

            return Unavailable(f"{self.where} asks for a key; set {key_variable(self.host)} to yours.")
        if refusal.status == 404:
            names = await self.models()
            if self.model not in names:
                offer = f"it offers {listed(names)}" if names else "check --base-url and --model"
                return Unavailable(f"{self.where} does not know the model {self.model!r}; {offer}.")
        return meaning(refusal, self.where)

    async def _only_model(self) -> str:
        names = await self.models()
        if len(names) == 1:
            return names[0]
        if names:
            raise UserError(f"{self.where} offers {listed(names)}; choose one with --model.")
        raise UserError(f"{self.where} does not list its models; name one with --model.")

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            # A proxy set for the outside world must not catch requests to a server on this machine.
            secure = self.base_url.startswith("https")
            self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=self.host not in LOCAL, verify=secure)
        return self._client

    def _unreachable(self, error: Exception) -> Unavailable:
        from openk2.providers.services import service_of

        why = str(error) or type(error).__name__
        mend = "check the network" if service_of(self.host) else "start it or correct --base-url"
        return Unavailable(f"No server answers at {self.base_url} ({why}); {mend}.")


Came = tuple[Literal["event", "whole", "end", "closed", "failed"], Any]


def host_of(base_url: str) -> str:
    """Raises UserError for what is no URL of a server."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65535:
        raise UserError(f"{base_url!r} is not a base URL; it looks like http://localhost:8000/v1.")
    return url.host


def dump(value: Any) -> bytes:
    """JSON as it goes over the wire."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate: only the escaped form is valid
        return json.dumps(value, separators=(",", ":")).encode()


def estimated(message: Message, sent: int) -> Usage:
    """For servers that count no tokens: about four bytes a token. A budget needs a figure."""
    thought = len((message.reasoning or "").encode("utf-8", "replace")) // 4
    called = sum(len(c.arguments) + len(c.name) for c in message.tool_calls)
    return Usage(sent // 4, 0, thought, thought + (len(message.content) + called) // 4)


def listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


async def _text(response: httpx.Response, most: int = 65_536) -> str:
    """The beginning of a body that is only going to be quoted."""
    begun = b""
    async for piece in response.aiter_bytes():
        begun += piece
        if len(begun) > most:
            break
    return begun.decode("utf-8", "replace")


def _parsed(data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        raise Transient("the server sent a line that is not JSON") from None
    return value if isinstance(value, dict) else {}
