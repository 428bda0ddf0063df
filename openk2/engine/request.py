"""One reply that is asked of the scheduler, and how its ids come back: to a thread that waits or to an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from openk2.engine.sampler import Constraint, Logprob, Sampler, Sampling
from openk2.engine.stopping import StopTexts
from openk2.engine.thinking import ThinkingBudget, ThinkingLimit
from openk2.errors import UserError

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(slots=True)
class Completion:
    """A finished reply. `prompt` ids were given, of which `cached` were not computed again.

    `logits` [V], for what would follow the prompt, only where no token was asked for. `stop_text`: what ended the
    reply, `stop_behind`: how many characters its last id wrote from the beginning of it on.
    """

    ids: list[int]
    finish_reason: FinishReason
    prompt: int
    cached: int
    logprobs: list[Logprob] = field(default_factory=list)
    logits: np.ndarray | None = None
    stop_text: str | None = None
    stop_behind: int = 0


class Request:
    """Ids to go on from and how. `max_tokens` 0 only reads them and gives the logits of what would follow.

    `wait` is the least time in seconds between two wakings of whoever reads: gathering ids costs less than a switch of
    threads for each. One reader only.
    """

    def __init__(
        self,
        ids: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop_ids: Collection[int] = (),
        stop_texts: StopTexts | None = None,
        constraint: Constraint | None = None,
        thinking: ThinkingLimit | None = None,
        wait: float = 0.0,
    ) -> None:
        self.prompt = len(ids)
        self.ids = list(ids)  # prompt and reply; the scheduler's
        self.max_tokens = max_tokens
        self.sampler = Sampler(sampling, ids)
        self.cached: int | None = None  # of the prompt; known when the reply begins
        self.cancelled = False
        self._stop_ids = stop_ids
        self._stop_texts = stop_texts
        self._constraint = constraint
        self._thinking = ThinkingBudget(thinking) if thinking else None
        self._logprobs: list[Logprob] = []
        self._taken = len(ids)  # ids[:taken] were handed to the reader
        self._wait = wait
        self._woken = 0.0
        self._ready = threading.Event()
        self._wake: Callable[[], None] = self._ready.set
        self._completion: Completion | None = None
        self._error: BaseException | None = None

    # --- for the reader -------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the reply before its next token. What came so far stays; later calls change nothing."""
        self.cancelled = True

    def batches(self) -> Generator[list[int], None, None]:
        """The reply's ids as they come, one or more at a time. Leaving early cancels. Raises what ended the reply."""
        try:
            while not self._done:
                self._ready.wait()
                self._ready.clear()
                if new := self._take():
                    yield new
            if new := self._take():
                yield new
            self._raise()
        finally:
            self.cancel()

    def result(self) -> Completion:
        """Wait for the end. Raises what ended the reply."""
        try:
            while not self._done:
                self._ready.wait()
                self._ready.clear()
        finally:
            self.cancel()
        self._raise()
        assert self._completion is not None
        return self._completion

    async def stream(self) -> AsyncIterator[list[int]]:
        """As `batches`, in an event loop."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed in this moment: nobody listens
                loop.call_soon_threadsafe(ready.set)

        self._wake = wake
        try:
            while not self._done:
                if new := self._take():
                    yield new
                elif not self._done:
                    await ready.wait()
                    ready.clear()
            if new := self._take():
                yield new
            self._raise()
        finally:
            self.cancel()

    @property
    def completion(self) -> Completion:
        """The finished reply, once its last ids were read."""
        assert self._completion is not None
        return self._completion

    @property
    def _done(self) -> bool:
        return self._completion is not None or self._error is not None

    def _take(self) -> list[int]:
        new = self.ids[self._taken :]
        self._taken += len(new)
        return new

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # --- for the scheduler ----------------------------------------------------------------------------------------

    def follow(self, logits: np.ndarray | None) -> FinishReason | None:
        """Append the next id, chosen from logits [V] where there are some, then all that are forced.

        Returns why the reply is over, None where it goes on. Raises UserError where the logits are not finite.
        """
        if logits is not None and (reason := self._append(self._choose(logits), logits)):
            return reason
        while (token := self._forced()) is not None:
            if reason := self._append(token, None):
                return reason
        self._notify()
        return None

    def finish(self, reason: FinishReason, logits: np.ndarray | None = None) -> None:
        found = self._stop_texts
        self._completion = Completion(
            self.ids[self.prompt :],
            reason,
            self.prompt,
            self.cached or 0,
            self._logprobs,
            None if logits is None else logits.copy(),
            found.found if found else None,
            found.behind if found else 0,
        )
        self._wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._wake()

    def _choose(self, logits: np.ndarray) -> int:
        return self.sampler.choose(logits, self._constraint)

    def _forced(self) -> int | None:
        token = self._constraint.forced() if self._constraint else None
        return self._thinking.forced() if token is None and self._thinking else token

    def _append(self, token: int, logits: np.ndarray | None) -> FinishReason | None:
        if self.sampler.sampling.logprobs is not None:
            known = Logprob(token, 0.0) if logits is None else self.sampler.logprob(logits, token)
            self._logprobs.append(known)
        self.sampler.accept(token)
        if self._constraint:
            self._constraint.accept(token)
        if self._thinking:
            self._thinking.accept(token)
        self.ids.append(token)
        if token in self._stop_ids or (self._stop_texts and self._stop_texts.accept(token)):
            return "stop"
        return "length" if len(self.ids) - self.prompt >= self.max_tokens else None

    def _notify(self) -> None:
        if self._wait:
            now = time.monotonic()
            if now - self._woken < self._wait:
                return
            self._woken = now
        self._wake()


def check(request: Request, window: int, vocabulary: int) -> None:
    """Raise UserError when the ids do not fit the window or the vocabulary; cut max_tokens to the window."""
    ids = request.ids
    if not ids:
        raise UserError("There is nothing to go on from; give at least one token.")
    if len(ids) > window:
        raise UserError(f"The text is {len(ids)} tokens long, the model reads at most {window}; shorten it.")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise UserError("A token id is outside the model's vocabulary; tokenizer and model do not belong together.")
    request.max_tokens = min(request.max_tokens, window - len(ids))
