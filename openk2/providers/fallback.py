"""Several providers as one: where the first is unavailable, the next takes over.

Each sends back what is its own: signed and encrypted reasoning goes only to the model that made it, plain reasoning to
whoever reads it. A conversation that is too long or a request that is at fault stays an error: another model would
only hide it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from openk2.chat.messages import Message, ToolSpec
from openk2.providers.base import Delta, Limits, Price, Provider, Reply, Unavailable


class Fallback:
    """`first`, then `others` in their order. Once one has taken over it stays, for a run should not pay for each try.

    `window` is the smallest that is known: whoever takes over has to read the conversation.
    """

    def __init__(self, first: Provider, *others: Provider) -> None:
        self.providers = (first, *others)
        self._at = 0

    @property
    def name(self) -> str:
        return self._current.name

    @property
    def window(self) -> int | None:
        return min((p.window for p in self.providers if p.window is not None), default=None)

    @property
    def price(self) -> Price | None:
        return self._current.price

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        """See `Provider.stream`. Raises Unavailable when the last one is."""
        while True:
            at = self._at
            stream: Any = self.providers[at].stream(messages, tools, limits)
            try:
                async with aclosing(stream):
                    async for piece in stream:
                        yield piece
                return
            except Unavailable as failure:
                if at + 1 >= len(self.providers):
                    raise
                self._at = max(self._at, at + 1)
                yield Delta("retry", f"{failure} {self._current.name} takes over.")

    async def aclose(self) -> None:
        for provider in self.providers:
            if close := getattr(provider, "aclose", None):
                await close()

    @property
    def _current(self) -> Provider:
        return self.providers[self._at]
