"""Replies from a checkpoint on this machine: template, numpy engine and parser, nothing else.

Calls are valid by construction (`chat/grammar.py`): of the tools given, after their schemas, numbered on.

One session is kept whose ids are the beginning of the next prompt as long as a conversation only grows, so a step of
an agent reads what is new and nothing twice. What the model sampled is sent back to it as the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openk2.chat.arguments import Vocabulary
from openk2.chat.call_ids import canonical, next_index
from openk2.chat.grammar import Grammar
from openk2.chat.messages import Message, ToolSpec
from openk2.chat.parser import ENDS, Parser
from openk2.chat.template import render
from openk2.chat.tokenizer import Tokenizer
from openk2.engine import Engine, Session
from openk2.errors import UserError
from openk2.model.checkpoint import profile_of
from openk2.providers.base import Delta, FinishReason, Limits, Reply, Usage, WindowFull

READ_CHUNK = 512  # ids read between two looks at whether the reply is still wanted
SHOW_SECONDS = 1 / 60  # deltas are gathered this long: waking the reader for each token would slow the writer


class LocalProvider:
    """A checkpoint folder as a provider. Raises UserError when it cannot be loaded.

    `openk2.json` in the folder may set `system` (used when a conversation brings no system message),
    `declare_tools` (false: the model knows its tools from training, none are declared), `temperature` and `top_p`.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.name = folder.resolve().name
        self.profile = profile_of(folder)
        self.tokenizer = Tokenizer.load(folder)
        self.engine = Engine.load(folder)
        if self.tokenizer.n_vocab > self.engine.config.vocab_size:
            raise UserError(
                f"The tokenizer in {folder} has {self.tokenizer.n_vocab} ids, the model only "
                f"{self.engine.config.vocab_size}; they do not belong together."
            )
        self._stops = frozenset(self.tokenizer.special[name] for name in ENDS)
        self._vocabulary = Vocabulary(self.tokenizer)
        self._session: Session | None = None
        self._verified: set[tuple[int, ...]] = set()
        self._replies = 0

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        """Yield deltas, then the reply. Closing or cancelling the stream stops the model within a token.

        Raises UserError for a tool whose schema calls cannot be held to, before the model runs.
        """
        prompt = self.prompt(messages, tools)
        room = self.engine.window - len(prompt)
        if room < 1:
            raise WindowFull(
                f"The conversation is {len(prompt)} tokens long and {self.name} reads at most {self.engine.window}; "
                "ask a shorter question or use a model with a longer window."
            )
        first_call = next_index(canonical(messages))
        queue: asyncio.Queue[Delta | Reply | BaseException] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        stopped = threading.Event()

        def post(item: Delta | Reply | BaseException) -> None:
            if not stopped.is_set():
                with contextlib.suppress(RuntimeError):  # the loop was closed in this moment: nobody listens
                    loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                for item in _gathered(self._reply(prompt, tools, limits, room, first_call, stopped.is_set)):
                    post(item)
            except BaseException as error:  # raised where the reply is awaited
                post(error)

        loop.run_in_executor(None, work)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Reply):
                    return
        finally:
            stopped.set()

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """The ids that the model continues."""
        system = self.profile.get("system")
        if system and (not messages or messages[0].role != "system"):
            messages = [Message("system", system), *messages]
        declared = tools if self.profile.get("declare_tools", True) else None
        known = [self._with_own_ids(message) for message in messages]
        return render(self.tokenizer, known, declared, add_generation_prompt=True)

    def _reply(
        self,
        prompt: list[int],
        tools: Sequence[ToolSpec],
        limits: Limits,
        room: int,
        first_call: int,
        stopped: Callable[[], bool],
    ) -> Iterator[Delta | Reply]:
        sampling = self._sampling(limits, room, len(prompt))
        guide = Grammar(self._vocabulary, tools).guide(
            first_index=first_call, choice=limits.tool_choice or "auto", limit=sampling["max_tokens"]
        )
        session = self._take_session(prompt)
        cached = session.cached
        try:
            for start in range(len(session.ids), len(prompt), READ_CHUNK):
                if stopped():
                    return
                session.append(prompt[start : start + READ_CHUNK])
            parser = Parser(self.tokenizer)
            reasoning = 0
            for token in session.generate(**sampling, stop_ids=self._stops, constraint=guide):
                told = len(parser.calls)
                for piece in parser.feed(token):
                    if piece.kind in ("reasoning", "content"):
                        yield Delta("reasoning" if piece.kind == "reasoning" else "content", piece.text)
                for call in parser.calls[told:]:
                    yield Delta("call", f"{call.name}({call.arguments})")
                reasoning += parser.thinking
                if stopped():
                    return
        finally:
            self._session = session
        message = parser.finish()
        self._verified.add(message.token_ids)
        reason: FinishReason = "length" if not parser.ended else "tool_calls" if message.tool_calls else "stop"
        usage = Usage(len(prompt), cached, reasoning, completion=len(message.token_ids))
        yield Reply(message, usage, reason)

    def _sampling(self, limits: Limits, room: int, position: int) -> dict[str, Any]:
        """Explicit limits, else the checkpoint's own settings. A seed gives each step of a run its own numbers."""
        self._replies += 1
        temperature, top_p = limits.temperature, limits.top_p
        return {
            "max_tokens": room if limits.max_tokens is None else min(room, limits.max_tokens),
            "temperature": float(self.profile.get("temperature", 0.0)) if temperature is None else temperature,
            "top_p": float(self.profile.get("top_p", 1.0)) if top_p is None else top_p,
            "seed": (0, self._replies) if limits.seed is None else (limits.seed, position),
        }

    def _take_session(self, prompt: list[int]) -> Session:
        """A session whose ids begin the prompt: the kept one, a fork of it, or a new one.

        The kept session is taken away while it is in use, so a second reply at the same time gets one of its own.
        """
        session, self._session = self._session, None
        if session is None:
            return self.engine.session()
        if session.ids and prompt[: len(session.ids)] == session.ids:
            return session
        return session.fork(_shared(session.ids, prompt))

    def _with_own_ids(self, message: Message) -> Message:
        """The message, its token ids dropped when they are not this tokenizer's rendering of what it says."""
        ids = message.token_ids
        if not ids or ids in self._verified:
            return message
        parser = Parser(self.tokenizer)
        if min(ids) >= 0 and max(ids) < self.tokenizer.n_vocab:
            for token in ids:
                parser.feed(token)
            said = parser.finish()
            same_calls = [(c.name, c.arguments) for c in said.tool_calls] == [
                (c.name, c.arguments) for c in message.tool_calls
            ]
            if same_calls and (said.content, said.reasoning or "") == (message.content, message.reasoning or ""):
                self._verified.add(ids)
                return message
        return replace(message, token_ids=())


def _shared(a: list[int], b: list[int]) -> int:
    """The length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _gathered(items: Iterator[Delta | Reply]) -> Iterator[Delta | Reply]:
    """Join neighbouring deltas of one kind that come within SHOW_SECONDS."""
    waiting: Delta | None = None
    shown = time.monotonic()
    for item in items:
        same = waiting is not None and isinstance(item, Delta) and item.kind == waiting.kind != "call"
        if waiting is not None and not same:
            yield waiting
            waiting = None
        if isinstance(item, Reply):
            yield item
            return
        waiting = Delta(item.kind, waiting.text + item.text) if waiting is not None else item
        if time.monotonic() - shown > SHOW_SECONDS:
            shown = time.monotonic()
            yield waiting
            waiting = None
    if waiting is not None:
        yield waiting
