"""Replies from a checkpoint on this machine: template, engine and parser, nothing else.

Calls are valid by construction (`chat/grammar.py`): of the tools given, after their schemas, numbered on.

Conversations at the same time share the engine's steps. What a prompt has in common with an earlier one is found in
the engine by its ids, so a step of an agent reads what is new and nothing twice. What the model sampled is sent back to
it as the same ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from openk2.chat.arguments import Vocabulary
from openk2.chat.call_ids import canonical, next_index
from openk2.chat.grammar import Grammar
from openk2.chat.messages import Message, ToolSpec
from openk2.chat.parser import ENDS, Parser
from openk2.chat.template import render
from openk2.chat.tokenizer import Tokenizer
from openk2.engine import Engine, Request, Sampling, ThinkingLimit
from openk2.errors import UserError
from openk2.model.checkpoint import profile_of
from openk2.providers.base import Delta, FinishReason, Limits, Reply, Usage, WindowFull

SHOW_SECONDS = 1 / 60  # deltas are gathered this long: waking the reader for each token would slow the writer
ENOUGH = "\n\nThat is enough thought; now the answer."  # closes thinking that reaches its limit


class LocalProvider:
    """A checkpoint folder as a provider. Raises UserError when it cannot be loaded.

    `openk2.json` in the folder may set `system` (used when a conversation brings no system message),
    `declare_tools` (false: the model knows its tools from training, none are declared), `temperature`, `top_p`,
    `thinking_tokens` (the most a reply thinks) and `thinking_closing` (the sentence that then ends its thinking).
    `cache_bytes`: the most memory for what is kept of texts.
    """

    def __init__(self, folder: str | Path, *, cache_bytes: int | None = None) -> None:
        folder = Path(folder)
        self.name = folder.resolve().name
        self.profile = profile_of(folder)
        self.tokenizer = Tokenizer.load(folder)
        self.engine = Engine.load(folder, cache_bytes=cache_bytes)
        if self.tokenizer.n_vocab > self.engine.config.vocab_size:
            raise UserError(
                f"The tokenizer in {folder} has {self.tokenizer.n_vocab} ids, the model only "
                f"{self.engine.config.vocab_size}; they do not belong together."
            )
        self._stops = frozenset(self.tokenizer.special[name] for name in ENDS)
        self._vocabulary = Vocabulary(self.tokenizer)
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
        request = await asyncio.to_thread(self._request, prompt, tools, limits, room, next_index(canonical(messages)))
        parser = Parser(self.tokenizer)
        reasoning = 0
        try:
            async for batch in self.engine.submit(request).stream():
                deltas: list[Delta] = []
                for token in batch:
                    _feed(parser, token, deltas)
                    reasoning += parser.thinking
                for delta in deltas:
                    yield delta
        finally:
            request.cancel()
        message = parser.finish()
        self._verified.add(message.token_ids)
        done = request.completion
        reason: FinishReason = "length" if not parser.ended else "tool_calls" if message.tool_calls else "stop"
        usage = Usage(done.prompt, done.cached, reasoning, completion=len(message.token_ids))
        yield Reply(message, usage, reason)

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """The ids that the model continues."""
        system = self.profile.get("system")
        if system and (not messages or messages[0].role != "system"):
            messages = [Message("system", system), *messages]
        declared = tools if self.profile.get("declare_tools", True) else None
        known = [self._with_own_ids(message) for message in messages]
        return render(self.tokenizer, known, declared, add_generation_prompt=True)

    def _request(
        self, prompt: list[int], tools: Sequence[ToolSpec], limits: Limits, room: int, first_call: int
    ) -> Request:
        """Explicit limits, else the checkpoint's own settings. A seed gives each step of a run its own numbers."""
        self._replies += 1
        temperature, top_p = limits.temperature, limits.top_p
        max_tokens = room if limits.max_tokens is None else min(room, limits.max_tokens)
        sampling = Sampling(
            temperature=float(self.profile.get("temperature", 0.0)) if temperature is None else temperature,
            top_p=float(self.profile.get("top_p", 1.0)) if top_p is None else top_p,
            seed=(0, self._replies) if limits.seed is None else (limits.seed, len(prompt)),
        )
        guide = Grammar(self._vocabulary, tools).guide(
            first_index=first_call, choice=limits.tool_choice or "auto", limit=max_tokens
        )
        return Request(
            prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop_ids=self._stops,
            constraint=guide,
            thinking=self._thinking(limits),
            wait=SHOW_SECONDS,
        )

    def _thinking(self, limits: Limits) -> ThinkingLimit | None:
        tokens = self.profile.get("thinking_tokens") if limits.thinking_tokens is None else limits.thinking_tokens
        if tokens is None or self.tokenizer.template != "thinking":
            return None
        if not isinstance(tokens, int) or tokens < 0:
            raise UserError(f"thinking_tokens is {tokens!r}; give the most tokens a reply may think, 0 or more.")
        special = self.tokenizer.special
        return ThinkingLimit(
            tokens,
            special["<think>"],
            special["</think>"],
            closing=self.tokenizer.encode(str(self.profile.get("thinking_closing", ENOUGH))),
            breaks={special["<|tool_calls_section_begin|>"], *self._stops},
        )

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


def _feed(parser: Parser, token: int, deltas: list[Delta]) -> None:
    """Add what an id shows; text of one kind is joined."""
    told = len(parser.calls)
    for piece in parser.feed(token):
        if piece.kind in ("reasoning", "content"):
            kind = "reasoning" if piece.kind == "reasoning" else "content"
            before = deltas.pop().text if deltas and deltas[-1].kind == kind else ""
            deltas.append(Delta(kind, before + piece.text))
    for call in parser.calls[told:]:
        deltas.append(Delta("call", f"{call.name}({call.arguments})"))
