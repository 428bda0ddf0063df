"""One reply of the model: reserved in the budget, watched as it is written, on disk before anything depends on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from openk2.agent import context, guard, prompts
from openk2.agent.budget import Ledger
from openk2.agent.calls import Append
from openk2.agent.entries import size
from openk2.agent.events import Guarded, Note, ReplyReceived
from openk2.agent.state import State
from openk2.chat.messages import Message, ToolSpec
from openk2.errors import UserError
from openk2.providers.base import Delta, Limits, Provider, Reply

Purpose = Literal["step", "answer", "notes"]

BABBLES = 2  # replies without end that the model is told about; the next ends the run
SECOND_TEMPERATURE = 0.7  # a greedy model would only repeat the empty reply


class Asking:
    """Asks for replies. `append` writes an event to the log, `watch` sees what is being written."""

    def __init__(
        self,
        provider: Provider,
        specs: Sequence[ToolSpec],
        state: State,
        append: Append,
        watch: Callable[[Any], None],
    ) -> None:
        self.provider, self.specs, self.state = provider, specs, state
        self._append, self._watch = append, watch
        self._digest = context.Digest(specs)
        self.partial = ""  # content of the reply that is being written

    async def reply(self, ledger: Ledger, limits: Limits, purpose: Purpose = "step", word: str = "") -> None:
        """One reply. `word` ends the conversation for this reply alone, and no call may answer it.

        Raises Spent where the ledger has no room for it, and what the provider raises.
        """
        state = self.state
        conversation, read, chars = context.messages(state), context.tokens(state), context.chars(state)
        if word:
            last = Message("user", word)
            conversation, chars = [*conversation, last], chars + size([last])
            read += round(size([last]) / context.CHARS_A_TOKEN)
            limits = replace(limits, tool_choice="none")
        grant = ledger.reserve(
            prompt=read,
            price=self.provider.price,
            wanted=limits.max_tokens,
            last=purpose == "answer",
        )
        limits = replace(limits, max_tokens=grant.tokens)
        if again := state.empty_replies:
            self._append(Note(text="The reply held neither an answer nor a call; asking again."))
            warmer = limits.temperature or SECOND_TEMPERATURE
            limits = replace(limits, temperature=warmer, seed=(limits.seed or 0) + again)
        begin, reply = time.monotonic(), None
        try:
            reply = await self._listen(self.provider.stream(conversation, self.specs, limits))
        finally:
            ledger.settle(grant, reply.usage if reply else None)
        if reply is None:
            return
        self._append(
            ReplyReceived(
                message=reply.message,
                usage=reply.usage,
                finish_reason=reply.finish_reason,
                seconds=round(time.monotonic() - begin, 4),
                purpose=purpose,
                request=self._digest.of(conversation),
                chars=chars,
                window=self.provider.window,
            )
        )
        self.partial = ""

    async def _listen(self, stream: Any) -> Reply | None:
        """The reply at the end of a stream; None where it repeated itself without end and was stopped."""
        babble, self.partial = guard.Babble(), ""
        async with aclosing(stream):
            async for piece in stream:
                if isinstance(piece, Reply):
                    return piece
                if self._hear(piece, babble):
                    babble = guard.Babble()
                if babble.heard:
                    told = sum(e.kind == "babble" and e.seq > self.state.turn for e in self.state.guards)
                    action = "nudge" if told < BABBLES and self.state.habits.steer else "stop"
                    self._append(Guarded(kind="babble", action=action, text=prompts.BABBLE))
                    self.partial = ""
                    return None
        raise UserError(f"The model {self.provider.name} ended its stream without a reply; resume to try again.")

    def _hear(self, piece: Delta, babble: guard.Babble) -> bool:
        """Show a piece; True where the reply begins anew."""
        if piece.kind == "retry":
            self.partial = ""
            self._append(Note(text=piece.text))
        elif piece.kind == "content":
            self.partial += piece.text
        self._watch(piece)
        if piece.kind in ("reasoning", "content"):
            babble.feed(piece.text)
        return piece.kind == "retry"
