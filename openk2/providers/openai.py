"""Models behind an OpenAI-compatible chat-completions server: Kimi, vLLM, SGLang, llama.cpp and others.

The reasoning of every message goes back byte for byte. Each message's JSON is made once: a step joins bytes, it does
not serialise the history again. Servers differ in the optional fields they take; one that refuses a field is asked
again without it. Errors that time can mend are tried again with growing pauses, all others end the run at once.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any

import httpx

from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.errors import UserError
from openk2.providers import sse
from openk2.providers.base import Delta, FinishReason, Limits, Price, Reply, Usage

TRIES = 6
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between tries
LONGEST_PAUSE = 60.0  # seconds that a server's Retry-After may ask for
TIMEOUT = httpx.Timeout(connect=10.0, read=300.0, write=60.0, pool=10.0)  # a first token has taken 243 s in the wild
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
SPENT = ("insufficient_quota", "exceeded your current quota", "insufficient balance", "billing")
FINISH: dict[str, FinishReason] = {"length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"}


class Transient(Exception):
    """A failure that may pass: `pause` is what the server asked for, in seconds."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


class OpenAIProvider:
    """`model` None takes the only model that the server offers."""

    def __init__(
        self,
        model: str | None,
        base_url: str,
        *,
        key: str | None = None,
        price: Price | None = None,
        tries: int = TRIES,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self.model = model
        self.base_url = base_url.strip().rstrip("/").removesuffix("/chat/completions")
        self._host = _host(self.base_url)
        self.key = (key or os.environ.get("OPENK2_API_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise UserError("The API key holds characters that no key has; copy it again.")
        self.window: int | None = None
        self.price = price
        self.tries, self.pauses = tries, pauses
        self.without: set[str] = set()  # optional fields that this server refuses
        self.policy = "send"  # reasoning: "send" as it is, "fill" with "" where absent, "drop" where refused
        self.spoken = "reasoning_content"  # the name under which this server sends reasoning
        self._client: httpx.AsyncClient | None = None
        self._reached = False

    @property
    def name(self) -> str:
        return self.model or self.base_url

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        """See `Provider.stream`. Raises UserError for terminal answers and after the last try."""
        if self.model is None:
            self.model = await self._only_model()
        for attempt in range(self.tries):
            try:
                async with aclosing(self._attempt(messages, tools, limits)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except Transient as failure:
                if attempt == self.tries - 1:
                    raise UserError(
                        f"The server at {self.base_url} failed {self.tries} times ({failure}); try again later."
                    ) from None
                pause = self.pauses[min(attempt, len(self.pauses) - 1)]
                pause = max(pause, min(failure.pause or 0.0, LONGEST_PAUSE))
                yield Delta("retry", f"{failure}; trying again in {pause:g} s")
                await asyncio.sleep(pause)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def models(self) -> list[str]:
        """The names that the server lists; raises UserError when it cannot be reached."""
        try:
            response = await self._http().get(f"{self.base_url}/models", headers=self._headers())
            return [entry["id"] for entry in response.json()["data"]] if response.status_code == 200 else []
        except httpx.RequestError as error:
            raise self._unreachable(error) from None
        except (ValueError, KeyError, TypeError):
            return []

    async def _only_model(self) -> str:
        names = await self.models()
        if len(names) == 1:
            return names[0]
        if names:
            raise UserError(f"The server at {self.base_url} offers {_listed(names)}; choose one with --model.")
        raise UserError(f"The server at {self.base_url} does not list its models; name one with --model.")

    async def _attempt(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncGenerator[Delta | Reply]:
        while True:
            body = self._body(messages, tools, limits)
            url = f"{self.base_url}/chat/completions"
            try:
                async with self._http().stream("POST", url, content=body, headers=self._headers()) as response:
                    self._reached = True
                    if response.status_code != 200:
                        text = (await response.aread()).decode("utf-8", "replace")
                        if response.status_code in (400, 422) and self._adapt(text):
                            continue
                        await self._fail(response, text)
                    assembly = Assembly(sum(len(m.tool_calls) for m in messages))
                    if response.headers.get("content-type", "").startswith("application/json"):
                        await response.aread()
                        for delta in assembly.feed(_parsed(response.text)):
                            yield delta
                        assembly.done = True
                    else:
                        async for data in sse.events(response.aiter_bytes()):
                            if data == "[DONE]":
                                assembly.done = True
                                break
                            for delta in assembly.feed(_parsed(data)):
                                yield delta
                    self.spoken = assembly.spoken or self.spoken
                    yield assembly.reply(len(body))
                    return
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if not self._reached:
                    raise self._unreachable(error) from None
                raise Transient("the server could not be reached") from None
            except httpx.TimeoutException:
                raise Transient("the server was silent for too long") from None
            except httpx.RequestError as error:
                raise Transient(f"the connection broke ({type(error).__name__})") from None

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            # A proxy set for the outside world must not catch requests to a server on this machine.
            local = self._host in ("localhost", "127.0.0.1", "::1", "0.0.0.0")
            secure = self.base_url.startswith("https")
            self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=not local, verify=secure)
        return self._client

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def _body(self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits) -> bytes:
        fields: dict[str, Any] = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        if tools:
            fields["tools"] = [tool.to_wire() for tool in tools]
            if limits.tool_choice in ("auto", "none", "required"):
                fields["tool_choice"] = limits.tool_choice
            elif limits.tool_choice is not None:
                fields["tool_choice"] = {"type": "function", "function": {"name": limits.tool_choice}}
        longest = "max_completion_tokens" if "max_tokens" in self.without else "max_tokens"
        for name, value in (
            (longest, limits.max_tokens),
            ("temperature", limits.temperature),
            ("top_p", limits.top_p),
            ("seed", limits.seed),
        ):
            if value is not None:
                fields[name] = value
        head = _dump({name: value for name, value in fields.items() if name not in self.without})
        joined = b",".join(_wire(message, self.policy, self.spoken) for message in messages)
        return b'%b,"messages":[%b]}' % (head[:-1], joined)

    def _adapt(self, text: str) -> bool:
        """Learn from a refusal; True if the request is now another one that is worth sending."""
        lower = text.lower()
        if "reasoning_content" in lower or "reasoning" in lower.split('"'):
            wanted = any(word in lower for word in ("missing", "required", "must be"))
            policy = "fill" if wanted else "drop"
            if self.policy == "send":
                self.policy = policy
                return True
            return False
        for name in ("stream_options", "max_tokens", "temperature", "top_p", "seed"):
            # "max_tokens" may be refused for its size; only a server that names its successor wants another field.
            refused = "max_completion_tokens" in lower if name == "max_tokens" else name in lower
            if refused and name not in self.without:
                self.without.add(name)
                return True
        return False

    async def _fail(self, response: httpx.Response, text: str) -> None:
        """Raise what the status means."""
        status, said = response.status_code, _reason(text)
        spent = any(mark in text.lower() for mark in SPENT)
        if status in RETRIED and not (status == 429 and spent):
            raise Transient(f"status {status}: {said}", _seconds(response.headers.get("retry-after")))
        if status == 401 and not self.key:
            raise UserError(f"The server at {self.base_url} asks for a key; set OPENK2_API_KEY to yours.")
        if status in (401, 403):
            raise UserError(f"The server at {self.base_url} refused the key or the access ({status}: {said}).")
        if status == 404:
            names = await self.models()
            offer = f"it offers {_listed(names)}" if names else "check --base-url and --model"
            raise UserError(f"The server at {self.base_url} does not know the model {self.model!r}; {offer}.")
        if spent or status == 402:
            raise UserError(f"The account at {self.base_url} is used up ({said}); top it up or use another server.")
        raise UserError(f"The server at {self.base_url} refused the request ({status}: {said}).")

    def _unreachable(self, error: Exception) -> UserError:
        why = str(error) or type(error).__name__
        return UserError(f"No server answers at {self.base_url} ({why}); start it or correct --base-url.")


class Assembly:
    """One reply put together from streamed chunks. `calls_before` numbers calls that came without an id."""

    def __init__(self, calls_before: int = 0) -> None:
        self.reasoning: list[str] | None = None
        self.content: list[str] = []
        self.calls: list[dict[str, str]] = []
        self.usage: dict[str, Any] = {}
        self.finish: str | None = None
        self.spoken: str | None = None
        self.done = False
        self._slots: dict[Any, int] = {}
        self._calls_before = calls_before

    def feed(self, chunk: dict[str, Any]) -> list[Delta]:
        if error := chunk.get("error"):
            said = error.get("message") if isinstance(error, dict) else str(error)
            raise Transient(f"the server broke off: {said}")
        deltas: list[Delta] = []
        self.usage = chunk.get("usage") or self.usage
        for choice in (chunk.get("choices") or ())[:1]:
            self.usage = choice.get("usage") or self.usage  # where Kimi puts it
            self.finish = choice.get("finish_reason") or self.finish
            part: dict[str, Any] = choice.get("delta") or choice.get("message") or {}
            deltas += self._reasoning(part)
            if isinstance(part.get("content"), str) and part["content"]:
                self.content.append(part["content"])
                deltas.append(Delta("content", part["content"]))
            for call in part.get("tool_calls") or ():
                deltas += self._call(call)
        return deltas

    def _reasoning(self, part: dict[str, Any]) -> list[Delta]:
        for name in ("reasoning_content", "reasoning"):
            text = part.get(name)
            if isinstance(text, str):
                # An empty field is not the same as none: some servers want it back.
                self.reasoning = self.reasoning if self.reasoning is not None else []
                if text:
                    self.spoken = name
                    self.reasoning.append(text)
                    return [Delta("reasoning", text)]
        return []

    def _call(self, call: dict[str, Any]) -> list[Delta]:
        function = call.get("function") or {}
        name, arguments, id = function.get("name") or "", function.get("arguments") or "", call.get("id") or ""
        if not isinstance(arguments, str):  # some servers send the object itself
            arguments = json.dumps(arguments, ensure_ascii=False)
        key = call.get("index", id or None)
        slot = self._slots.get(key, -1) if key is not None else len(self.calls) - 1
        # Some servers give every call the index 0: a new id with a name is a new call.
        if slot < 0 or (id and name and self.calls[slot]["id"] not in ("", id)):
            self.calls.append({"id": "", "name": "", "arguments": ""})
            slot = self._slots[key] = len(self.calls) - 1
        entry = self.calls[slot]
        started = not entry["name"]
        entry["id"] = entry["id"] or id
        entry["name"] = entry["name"] or name
        entry["arguments"] += arguments
        text = (f"{name}(" if started and name else "") + arguments
        return [Delta("call", text)] if text else []

    def reply(self, sent: int) -> Reply:
        """The whole reply; `sent` is the size of the request in bytes, for servers that count no tokens."""
        if self.finish is None and not self.done:
            raise Transient("the stream ended in the middle of a reply")
        calls = tuple(
            ToolCall(
                entry["id"] or f"functions.{entry['name']}:{self._calls_before + i}", entry["name"], entry["arguments"]
            )
            for i, entry in enumerate(self.calls)
        )
        reasoning = None if self.reasoning is None else "".join(self.reasoning)
        message = Message("assistant", "".join(self.content), reasoning, calls)
        finish = FINISH.get(self.finish or "", "stop")
        if calls and finish == "stop":
            finish = "tool_calls"
        return Reply(message, _usage(self.usage, message, sent), finish)


def _host(base_url: str) -> str:
    """Raises UserError for what is no URL of a server."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > 65535:
        raise UserError(f"{base_url!r} is not a base URL; it looks like http://localhost:8000/v1.")
    return url.host


@lru_cache(maxsize=4096)
def _wire(message: Message, policy: str, spoken: str) -> bytes:
    """The JSON bytes of one message, made once for each policy."""
    wire = message.to_wire()
    if policy == "fill" and message.role == "assistant":
        wire.setdefault("reasoning_content", "")
    if policy == "drop":
        wire.pop("reasoning_content", None)
    elif spoken == "reasoning" and "reasoning_content" in wire:
        wire["reasoning"] = wire["reasoning_content"]
    return _dump(wire)


def _dump(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate: only the escaped form is valid
        return json.dumps(value, separators=(",", ":")).encode()


def _parsed(data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        raise Transient("the server sent a line that is not JSON") from None
    return value if isinstance(value, dict) else {}


def _usage(data: dict[str, Any], message: Message, sent: int) -> Usage:
    if not data:  # about four bytes a token: a budget needs a figure
        thought = len((message.reasoning or "").encode("utf-8", "replace")) // 4
        called = sum(len(c.arguments) + len(c.name) for c in message.tool_calls)
        return Usage(sent // 4, 0, thought, thought + (len(message.content) + called) // 4)
    prompt_details = data.get("prompt_tokens_details") or {}
    completion_details = data.get("completion_tokens_details") or {}
    cached = data.get("cached_tokens") or prompt_details.get("cached_tokens") or data.get("prompt_cache_hit_tokens")
    return Usage(
        prompt=data.get("prompt_tokens") or 0,
        cached=cached or 0,
        reasoning=completion_details.get("reasoning_tokens") or data.get("reasoning_tokens") or 0,
        completion=data.get("completion_tokens") or 0,
        money=data.get("cost") if isinstance(data.get("cost"), int | float) else None,
    )


def _reason(text: str) -> str:
    """The server's own sentence out of an error body, short."""
    try:
        data = json.loads(text)
        error = data.get("error", data)
        said = error.get("message") or data.get("detail") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        said = text
    said = " ".join(str(said or "no reason given").split()).rstrip(".")
    return said if len(said) <= 200 else said[:199] + "…"


def _seconds(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:
        return None


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
