"""Where replies come from; `connect` finds the right one for a served model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from openk2.providers.base import Price, Provider

Api = Literal["chat", "responses", "anthropic"]


def connect(
    model: str | None,
    base_url: str | None = None,
    *,
    api: Api | None = None,
    key: str | None = None,
    price: Price | None = None,
    fallback: Provider | None = None,
) -> Provider:
    """The provider of a served model; nothing is sent yet.

    `model` is a name at `base_url`, or `SERVICE:NAME` with a service of `services.py` (`kimi:kimi-k2-thinking`), which
    needs no `base_url`; None takes the only model that the server offers. `api` says what the server speaks where its
    host does not. `fallback` takes over when the service is unavailable. Raises UserError for an unknown service, an
    address that is none, or a key that is none.
    """
    from openk2.providers.openai import OpenAIProvider

    return OpenAIProvider(model, base_url or "", key=key, price=price)
