"""How the chat-completions services differ: where reasoning goes back, how thinking is asked for.

What is known is in the table; of every other server the provider learns from its replies and refusals.
Sources: the services' own API pages and the complaints of their users, as of autumn 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openk2.providers.base import Limits

Thinking = Callable[[str, Limits], dict[str, Any]]  # (model, limits): the fields of the request

# What an effort may be called, best first; a refused word gives way to the next.
WORDS = {
    "low": ("low",),
    "medium": ("medium", "high"),
    "high": ("high",),
    "max": ("max", "xhigh", "high"),
}


@dataclass(frozen=True, slots=True)
class Vendor:
    """`echo`: the fields under which reasoning goes back. `fill`: an empty one where a message has no reasoning.

    `longest` is the name of the limit on a reply, `default` what it is set to where nobody set it: some services cut
    replies after 1,024 tokens otherwise. `short_ids`: ids of calls are nine letters and digits.
    """

    echo: tuple[str, ...] = ("reasoning_content", "reasoning")
    thinking: Thinking | None = None
    fill: bool = False
    longest: str = "max_tokens"
    default: int | None = None
    short_ids: bool = False


def effort(model: str, limits: Limits) -> dict[str, Any]:
    """OpenAI's field, which most others took over."""
    fields: dict[str, Any] = {}
    if limits.thinking_tokens == 0:
        fields["reasoning_effort"] = "none"
    elif limits.effort:
        fields["reasoning_effort"] = WORDS[limits.effort][0]
    return fields


def any_server(model: str, limits: Limits) -> dict[str, Any]:
    """vLLM's name for a limit on thinking beside OpenAI's for effort; each is dropped where it is refused."""
    fields = effort(model, limits)
    if limits.thinking_tokens:
        fields["thinking_token_budget"] = limits.thinking_tokens
    return fields


def switched(model: str, limits: Limits) -> dict[str, Any]:
    """DeepSeek: thinking is on or off, and takes an effort."""
    if limits.thinking_tokens == 0:
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled"}, **effort(model, limits)}


def kimi(model: str, limits: Limits) -> dict[str, Any]:
    """K2 Thinking and K2.7 always think; K2.5 and K2.6 have a switch, K3 an effort (low, high, max)."""
    if "k2.5" in model or "k2.6" in model:
        if limits.thinking_tokens == 0:
            return {"thinking": {"type": "disabled"}}
        return {"thinking": {"type": "enabled", **({"keep": "all"} if "k2.6" in model else {})}}
    if "k3" in model and limits.effort:
        return {"reasoning_effort": "high" if limits.effort == "medium" else limits.effort}
    return {}


def glm(model: str, limits: Limits) -> dict[str, Any]:
    if limits.thinking_tokens == 0:
        return {"thinking": {"type": "disabled"}}
    return {"thinking": {"type": "enabled", "clear_thinking": False}}


def qwen(model: str, limits: Limits) -> dict[str, Any]:
    fields: dict[str, Any] = {"enable_thinking": limits.thinking_tokens != 0}
    if limits.thinking_tokens:
        fields["thinking_budget"] = limits.thinking_tokens
    return fields


def openrouter(model: str, limits: Limits) -> dict[str, Any]:
    """One object for all models behind it, with an effort or a number of tokens; the price comes where asked for."""
    reasoning: dict[str, Any] = {"enabled": True}
    if limits.thinking_tokens == 0:
        reasoning = {"effort": "none"}
    elif limits.effort:
        reasoning = {"effort": "xhigh" if limits.effort == "max" else limits.effort}
    elif limits.thinking_tokens:
        reasoning = {"max_tokens": limits.thinking_tokens}
    return {"reasoning": reasoning, "usage": {"include": True}}


MOONSHOT = Vendor(("reasoning_content",), kimi, fill=True, longest="max_completion_tokens", default=32_768)
VENDORS = {
    "api.moonshot.ai": MOONSHOT,
    "api.moonshot.cn": MOONSHOT,
    "api.kimi.com": MOONSHOT,
    "api.deepseek.com": Vendor(("reasoning_content",), switched, fill=True),
    "api.z.ai": Vendor(("reasoning_content",), glm),
    "open.bigmodel.cn": Vendor(("reasoning_content",), glm),
    "dashscope.aliyuncs.com": Vendor(("reasoning_content",), qwen),
    "dashscope-intl.aliyuncs.com": Vendor(("reasoning_content",), qwen),
    "openrouter.ai": Vendor(("reasoning",), openrouter),
    "api.openai.com": Vendor((), effort, longest="max_completion_tokens"),
    "generativelanguage.googleapis.com": Vendor((), effort),
    "api.x.ai": Vendor(("reasoning_content",), effort),
    "api.groq.com": Vendor(("reasoning",), effort),
    "api.cerebras.ai": Vendor(("reasoning",), effort),
    "api.together.xyz": Vendor(("reasoning",), effort),
    "api.fireworks.ai": Vendor(("reasoning_content",), effort),
    "api.mistral.ai": Vendor((), effort, short_ids=True),
}


def vendor(host: str) -> Vendor:
    return VENDORS.get(host, Vendor(thinking=any_server))
