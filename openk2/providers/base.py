"""The one protocol behind which every model stands: messages in, deltas out, then one whole reply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from openk2.chat.messages import Message, ToolSpec
from openk2.errors import UserError

FinishReason = Literal["stop", "length", "tool_calls"]


EFFORTS = ("low", "medium", "high", "max")


class WindowFull(UserError):
    """The conversation is longer than the model reads: no later try can help, a shorter conversation does."""


class Unavailable(UserError):
    """The service gives no reply now: unreachable, refused, used up, or failing again and again.

    What another model may take over from; a request that is itself at fault raises a plain UserError.
    """


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply, or the sum over several.

    `prompt` includes `cached`; `completion` includes `reasoning`. `money` is US dollars, None where no price is known.
    """

    prompt: int = 0
    cached: int = 0
    reasoning: int = 0
    completion: int = 0
    money: float | None = None

    def __add__(self, other: Usage) -> Usage:
        known = [m for m in (self.money, other.money) if m is not None]
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.completion + other.completion,
            sum(known) if known else None,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Usage:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens: read, read from the cache of the service, written (thinking included).

    `keeping` is what a token costs that is read and kept in the cache, where that is more than `input`.
    """

    input: float
    cached: float
    output: float
    keeping: float | None = None

    def cost(self, usage: Usage, kept: int = 0) -> float:
        """US dollars. `kept` of the fresh tokens went into the cache."""
        fresh = usage.prompt - usage.cached
        dear = kept * ((self.keeping or self.input) - self.input)
        return (fresh * self.input + dear + usage.cached * self.cached + usage.completion * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class Limits:
    """What one reply may use. None leaves the choice to the provider. Raises UserError for an unknown effort.

    `effort` is one of EFFORTS: how much to think, where the service takes such a word; others get `thinking_tokens`
    where they take those. `tool_choice` is "auto", "none", "required" or the name of the tool that has to be called.
    `thinking_tokens` limits thinking alone; `max_tokens` everything together. A text of `stop` ends the content and is
    not part of it; in what is thought or called it means nothing.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    tool_choice: str | None = None
    thinking_tokens: int | None = None
    effort: str | None = None
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.effort not in (None, *EFFORTS):
            raise UserError(f"{self.effort!r} is no effort; use {', '.join(EFFORTS)}.")


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply as it is being written, for people to watch; the `Reply` alone is recorded.

    `retry` says in `text` why the reply is being asked for again; the pieces shown before it are void. `wait` says
    how long nothing has come; what was shown stands.
    """

    kind: Literal["reasoning", "content", "call", "retry", "wait"]
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    message: Message
    usage: Usage
    finish_reason: FinishReason


class Provider(Protocol):
    """`window`: the tokens that a prompt and its reply may have together. None where it is not known, as for `price`.

    A provider that holds connections has `async aclose()`.
    """

    @property
    def name(self) -> str: ...

    @property
    def window(self) -> int | None: ...

    @property
    def price(self) -> Price | None: ...

    def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], limits: Limits
    ) -> AsyncIterator[Delta | Reply]:
        """Yield deltas, then exactly one `Reply`.

        Raises WindowFull for a conversation that is too long, Unavailable where another model may help, UserError for
        a request that no model would take. Closing the stream or cancelling its task ends the request at once.
        """
        ...
