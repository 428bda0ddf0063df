"""Where replies come from; `connect` finds the right provider for a served model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openk2.providers.base import Price, Provider
    from openk2.providers.services import Api


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
    address that is none, a key that is none, or a service's key that is not set.
    """
    from openk2.errors import UserError
    from openk2.providers import services
    from openk2.providers.anthropic import AnthropicProvider
    from openk2.providers.fallback import Fallback
    from openk2.providers.http import host_of
    from openk2.providers.openai import OpenAIProvider
    from openk2.providers.responses import ResponsesProvider

    kinds = {"chat": OpenAIProvider, "responses": ResponsesProvider, "anthropic": AnthropicProvider}
    given = base_url is not None
    if base_url is None:
        found = services.named(model or "")
        if found is None:
            names = ", ".join(service.name for service in services.SERVICES)
            raise UserError(
                f"{model!r} is served nowhere that is known; give --base-url, or name a service before it: {names}"
                " (such as kimi:kimi-k2-thinking)."
            )
        base_url, model = found[0].base_url, found[1]
    host = host_of(base_url.strip())
    key = key or services.key_for(host, given=given)
    if key is None and not given:
        raise UserError(f"{host} asks for a key; set {services.key_variable(host)} to yours.")
    service = services.service_of(host)
    kind = api or _spoken(base_url) or (service.api if service else "chat")
    if kind not in kinds:
        raise UserError(f"{kind!r} is no API that is spoken here; use {', '.join(kinds)}.")
    listed = services.known(service, model)
    provider = kinds[kind](
        model,
        base_url,
        key=key,
        price=price or (listed.price if listed else None),
        window=listed.window if listed else None,
    )
    return provider if fallback is None else Fallback(provider, fallback)


def _spoken(base_url: str) -> Api | None:
    """What an address itself says: services give a second API under a path of its own."""
    path = base_url.strip().rstrip("/")
    if path.endswith("/messages") or "/anthropic" in path:
        return "anthropic"
    if path.endswith("/responses"):
        return "responses"
    return "chat" if path.endswith("/chat/completions") else None
