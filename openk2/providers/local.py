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
from typing import Literal

from openk2.chat.arguments import Vocabulary
from openk2.chat.call_ids import canonical, next_index
from openk2.chat.grammar import Grammar
from openk2.chat.messages import Message, ToolSpec
from openk2.chat.parser import ENDS, Parser
from openk2.chat.template import render_canonical
from openk2.chat.tokenizer import Tokenizer
from openk2.engine import Engine, Request, Sampling, StopTexts, ThinkingLimit
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
        self.window, self.price = self.engine.window, None
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
        conversation = self._conversation(messages)
        prompt = self._render(conversation, tools)
        room = self.engine.window - len(prompt)
        if room < 1:
            raise WindowFull(
                f"The conversation is {len(prompt)} tokens long and {self.name} reads at most {self.engine.window}; "
                "ask a shorter question or use a model with a longer window."
            )
        request = await asyncio.to_thread(self._request, prompt, tools, limits, room, next_index(conversation))
        reading = Reading(self.tokenizer, limits.stop)
        try:
            async for batch in self.engine.submit(request).stream():
                for delta in reading.feed(batch):
                    yield delta
        finally:
            request.cancel()
        done = request.completion
        message = reading.finish(done.stop_behind if done.stop_text else 0)
        for delta in reading.deltas:
            yield delta
        self._verified.add(message.token_ids)
        ended = reading.parser.ended or done.stop_text is not None
        reason: FinishReason = "length" if not ended else "tool_calls" if message.tool_calls else "stop"
        usage = Usage(done.prompt, done.cached, reading.reasoning, completion=len(done.ids))
        yield Reply(message, usage, reason)

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """The ids that the model continues."""
        return self._render(self._conversation(messages), tools)

    def _conversation(self, messages: Sequence[Message]) -> list[Message]:
        """What the model reads: with a system message, and the calls numbered."""
        system = self.profile.get("system")
        if system and (not messages or messages[0].role != "system"):
            messages = [Message("system", system), *messages]
        return canonical([self._with_own_ids(message) for message in messages])

    def _render(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        declared = tools if self.profile.get("declare_tools", True) else None
        return render_canonical(self.tokenizer, conversation, declared, add_generation_prompt=True)

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
            stop_texts=self._stop_texts(limits.stop),
            constraint=guide,
            thinking=self._thinking(limits),
            wait=SHOW_SECONDS,
        )

    def _stop_texts(self, texts: Sequence[str]) -> StopTexts | None:
        if not texts:
            return None
        special = self.tokenizer.special
        begins = [special[name] for name in ("<think>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>")]
        ends = [special[name] for name in ("</think>", "<|tool_calls_section_end|>")]
        return StopTexts(texts, self.tokenizer.text_stream().feed, begins=begins, ends=ends)

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


class Reading:
    """One reply as its ids come: what to show of it, and in the end the message.

    With stop texts, what the last id wrote is held back, and so much before it as may begin one.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.parser = Parser(tokenizer)
        self.reasoning = 0  # tokens
        self.deltas: list[Delta] = []
        self._keep = max(map(len, stop)) - 1 if stop else None
        self._held = ""
        self._written = 0  # characters of the content

    def feed(self, ids: Sequence[int]) -> list[Delta]:
        """What became certain; text of one kind is joined."""
        self.deltas = []
        for token in ids:
            told = len(self.parser.calls)
            for piece in self.parser.feed(token):
                if piece.kind == "content":
                    self._content(piece.text)
                elif piece.kind == "reasoning":
                    self._release()
                    self._add("reasoning", piece.text)
            for call in self.parser.calls[told:]:
                self._release()
                self.deltas.append(Delta("call", f"{call.name}({call.arguments})"))
            self.reasoning += self.parser.thinking
        return self.deltas

    def finish(self, cut: int) -> Message:
        """The message without the last `cut` characters of its content, which began a stop text; `deltas`: the rest.

        Its ids are dropped where some of the content is: what the model wrote is then not what it is shown again.
        """
        self.deltas = []
        message = self.parser.finish()
        if cut:
            content = message.content[: self._written - cut]
            self._held = self._held[: len(self._held) - cut] if cut <= len(self._held) else ""
            message = replace(message, content=content, token_ids=())
        self._release()
        return message

    def _content(self, text: str) -> None:
        self._written += len(text)
        if self._keep is not None:
            self._release(self._keep)
        self._held += text
        if self._keep is None:
            self._release()

    def _release(self, keep: int = 0) -> None:
        if shown := self._held[: max(0, len(self._held) - keep)]:
            self._held = self._held[len(shown) :]
            self._add("content", shown)

    def _add(self, kind: Literal["reasoning", "content"], text: str) -> None:
        before = self.deltas.pop().text if self.deltas and self.deltas[-1].kind == kind else ""
        self.deltas.append(Delta(kind, before + text))
