"""The services that are known by name: where they are, what they speak, which variable holds their key; their models.

Windows and prices are what the services list, in US dollars for a million tokens, collected from their pages and from
models.dev (MIT) in October 2026. A model that is not here has no window and no price until `--price` or the service
itself tells.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from openk2.errors import UserError
from openk2.providers.base import Price

Api = Literal["chat", "responses", "anthropic"]
ANY_KEY = "OPENK2_API_KEY"  # goes to whatever address the person gives, and nowhere else


@dataclass(frozen=True, slots=True)
class Service:
    """`name` stands before the colon in `kimi:kimi-k2-thinking`. `hosts`: others where the same key is meant."""

    name: str
    base_url: str
    keys: tuple[str, ...]
    api: Api = "chat"
    hosts: tuple[str, ...] = ()


SERVICES = (
    Service("kimi", "https://api.moonshot.ai/v1", ("MOONSHOT_API_KEY", "KIMI_API_KEY"), hosts=("api.moonshot.cn",)),
    Service("openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "responses"),
    Service("anthropic", "https://api.anthropic.com/v1", ("ANTHROPIC_API_KEY",), "anthropic"),
    Service("deepseek", "https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",)),
    Service("openrouter", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",)),
    Service(
        "qwen", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", ("DASHSCOPE_API_KEY",),
        hosts=("dashscope.aliyuncs.com",),
    ),
    Service("glm", "https://api.z.ai/api/paas/v4", ("ZAI_API_KEY", "ZHIPUAI_API_KEY"), hosts=("open.bigmodel.cn",)),
    Service(
        "gemini", "https://generativelanguage.googleapis.com/v1beta/openai", ("GEMINI_API_KEY", "GOOGLE_API_KEY")
    ),
    Service("mistral", "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",)),
    Service("groq", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",)),
    Service("xai", "https://api.x.ai/v1", ("XAI_API_KEY",)),
    Service("together", "https://api.together.xyz/v1", ("TOGETHER_API_KEY",)),
    Service("fireworks", "https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY",)),
    Service("cerebras", "https://api.cerebras.ai/v1", ("CEREBRAS_API_KEY",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """`window`: the tokens that a prompt and its reply may have together."""

    window: int
    price: Price | None = None


MODELS = {
    "kimi": {
        "kimi-k3": Model(1_048_576, Price(3.00, 0.30, 15.00)),
        "kimi-k2.7-code-highspeed": Model(262_144, Price(1.90, 0.38, 8.00)),
        "kimi-k2.7-code": Model(262_144, Price(0.95, 0.19, 4.00)),
        "kimi-k2.6": Model(262_144, Price(0.95, 0.16, 4.00)),
        "kimi-k2.5": Model(262_144, Price(0.60, 0.10, 3.00)),
        "kimi-k2-thinking-turbo": Model(262_144, Price(1.15, 0.15, 8.00)),
        "kimi-k2-thinking": Model(262_144, Price(0.60, 0.15, 2.50)),
    },
    "anthropic": {
        "claude-opus-5-5": Model(1_000_000, Price(4.00, 0.20, 20.00, 5.00)),
        "claude-opus-5": Model(1_000_000, Price(5.00, 0.50, 25.00, 6.25)),
        "claude-opus-4-8": Model(1_000_000, Price(5.00, 0.50, 25.00, 6.25)),
        "claude-opus-4-7": Model(1_000_000, Price(5.00, 0.50, 25.00, 6.25)),
        "claude-opus-4-6": Model(1_000_000, Price(5.00, 0.50, 25.00, 6.25)),
        "claude-opus-4-5": Model(200_000, Price(5.00, 0.50, 25.00, 6.25)),
        "claude-opus-4-1": Model(200_000, Price(15.00, 1.50, 75.00, 18.75)),
        "claude-sonnet-5-5": Model(1_000_000, Price(2.00, 0.10, 10.00, 2.50)),
        "claude-sonnet-5": Model(1_000_000, Price(2.00, 0.20, 10.00, 2.50)),
        "claude-sonnet-4-6": Model(1_000_000, Price(3.00, 0.30, 15.00, 3.75)),
        "claude-sonnet-4-5": Model(200_000, Price(3.00, 0.30, 15.00, 3.75)),
        "claude-haiku-4-5": Model(200_000, Price(1.00, 0.10, 5.00, 1.25)),
    },
    "openai": {  # from 5.4 on they read more, at another price
        "gpt-5.6": Model(272_000, Price(2.00, 0.20, 10.00, 2.50)),
        "gpt-5.5": Model(272_000, Price(5.00, 0.50, 30.00)),
        "gpt-5.4-nano": Model(272_000, Price(0.20, 0.02, 1.25)),
        "gpt-5.4-mini": Model(272_000, Price(0.75, 0.075, 4.50)),
        "gpt-5.4": Model(272_000, Price(2.50, 0.25, 15.00)),
        "gpt-5-mini": Model(400_000, Price(0.25, 0.025, 2.00)),
        "gpt-5": Model(400_000, Price(1.25, 0.125, 10.00)),
    },
    "deepseek": {  # at peak hours; at all others half of it
        "deepseek-v4-pro": Model(1_000_000, Price(1.32, 0.044, 3.96)),
        "deepseek-v4-flash": Model(1_000_000, Price(0.44, 0.014, 1.32)),
    },
    "glm": {"glm-4.7": Model(204_800, Price(0.60, 0.11, 2.20))},
}


def service_of(host: str) -> Service | None:
    """The service at a host."""
    for service in SERVICES:
        if host == service.base_url.split("/")[2] or host in service.hosts:
            return service
    return None


def named(model: str) -> tuple[Service, str] | None:
    """`kimi:NAME` as the service and the name; None where no service stands before a colon."""
    name, colon, rest = model.partition(":")
    service = next((s for s in SERVICES if s.name == name), None)
    return (service, rest) if colon and service else None


def known(service: Service | None, model: str | None) -> Model | None:
    """What the table has of a model; the date behind a name (`claude-haiku-4-5-20251001`) changes nothing."""
    plain = re.sub(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$", "", model or "")
    return MODELS.get(service.name, {}).get(plain) if service else None


def key_for(host: str, *, given: bool) -> str | None:
    """The key for a host: its service's own, else OPENK2_API_KEY where the person gave the address (`given`)."""
    service = service_of(host)
    names = (*(service.keys if service else ()), *((ANY_KEY,) if given else ()))
    return next((os.environ[name] for name in names if os.environ.get(name, "").strip()), None)


def key_variable(host: str) -> str:
    """The variable in which the key for a host is looked for."""
    service = service_of(host)
    return service.keys[0] if service else ANY_KEY


def price(text: str) -> Price:
    """`IN,OUT` or `IN,CACHED,OUT` in US dollars for a million tokens. Raises UserError for anything else."""
    try:
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) not in (2, 3) or not all(0 <= number < 1e6 for number in numbers):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{text!r} is no price; give dollars for a million tokens as IN,OUT or IN,CACHED,OUT, such as 0.6,0.15,2.5."
        ) from None
    return Price(numbers[0], numbers[-2] if len(numbers) == 3 else numbers[0], numbers[-1])
