"""What a service's refusal means: time mends it, another model may help, the conversation is too long, it is wrong.

Services say the same in different words and under different codes, before a reply and in the middle of one. Here is
the one place that knows them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from openk2.errors import UserError
from openk2.providers.base import Unavailable, WindowFull

LONGEST_PAUSE = 120.0  # seconds that a service may ask us to wait; who asks for more is unavailable
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
PASSING_CODES = (
    "overloaded", "rate_limit", "server_error", "internal", "api_error", "timeout", "unavailable", "upstream",
)  # fmt: skip
SPENT = (
    "insufficient_quota", "exceeded your current quota", "exceeded_current_quota", "insufficient balance",
    "insufficient credits", "credit balance is too low", "billing", "arrearage", "spend limit", "spending limit",
)  # fmt: skip
KEY = ("invalid_api_key", "incorrect api key", "authentication", "invalid x-api-key", "permission_error")

# Each in the words of: OpenAI chat, vLLM, DeepSeek, OpenRouter, SGLang, LiteLLM; OpenAI Responses; Anthropic (two);
# Moonshot (two); vLLM; SGLang, Together; llama.cpp (two); LM Studio; Ollama; Mistral; xAI; Groq; Gemini; Bedrock;
# DashScope; MiniMax; Zhipu, z.ai (two); GitHub Copilot; Cohere.
WINDOW = re.compile(
    r"maximum context length|context[_ ]length[_ ]exceeded"
    r"|exceeds? (?:the |its )?(?:model'?s )?context (?:window|length)"
    r"|prompt is too long|exceed context limit"
    r"|exceeded model token limit|input token length too long"
    r"|longer than the maximum model length"
    r"|longer than the model'?s context length"
    r"|exceeds? the available context size|exceed_context_size|context size has been exceeded"
    r"|greater than the context length|context the overflows"
    r"|prompt too long"
    r"|too large for model with \d+"
    r"|maximum prompt length is"
    r"|reduce the length of the (?:messages|prompt|input)"
    r"|input token count.{0,40}exceeds the maximum"
    r"|input is too long for requested model"
    r"|range of input length should be"
    r"|context window exceeds limit"
    r"|prompt exceeds max length|model_context_window_exceeded"
    r"|token count of \d+ exceeds the limit of|max_prompt_tokens_exceeded"
    r"|too many tokens: ",
    re.IGNORECASE,
)
_SIZE = re.compile(
    r"(?:maximum context length (?:is|of)|token limit ?:|model length of|context length \(|context size \("
    r"|maximum prompt length is|model with|context limit: \d+ \+ \d+ >|tokens >) ?(\d[\d,]*)",
    re.IGNORECASE,
)
_SUM = re.compile(r"(\d+) \+ (\d+) > (\d+)")  # Anthropic: prompt + max_tokens > window
_PARTS = re.compile(r"context length is (\d+) tokens.{0,80}?(\d+) (?:in the messages|input tokens|of text input)", re.S)


class Transient(Exception):
    """A failure that may pass: `pause` is what the service asked for, in seconds."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


class Refusal(Exception):
    """A request that was refused, as it came: `status` is 0 where the refusal came in the middle of a stream."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {}

    @classmethod
    def in_stream(cls, error: Any) -> Refusal:
        """From the error object of a stream; a numeric code in it is a status."""
        code = error.get("code") if isinstance(error, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 0
        return cls(status, json.dumps({"error": error}, ensure_ascii=False))

    @property
    def about_window(self) -> bool:
        # A limit on tokens a minute is also told in tokens, and passes.
        return self.status in (0, 400, 413, 422, 500) and bool(WINDOW.search(self.text))


def meaning(refusal: Refusal, where: str) -> Exception:
    """The error to raise for a refusal; `where` begins its sentence ("The server at URL")."""
    status, said, lower = refusal.status, reason(refusal.text), refusal.text.lower()
    if refusal.about_window:
        return WindowFull(f"The conversation is longer than the model reads: {said}.")
    if status == 413:
        return WindowFull(f"{where} takes no request of this size ({said}); the conversation has to be shorter.")
    if status == 402 or any(mark in lower for mark in SPENT):
        return Unavailable(f"The account at {_behind_at(where)} is used up ({said}); top it up or use another model.")
    if status in (401, 403) or (status == 0 and any(mark in lower for mark in KEY)):
        return Unavailable(f"{where} refused the key or the access ({status or 'in the stream'}: {said}).")
    passing = status in PASSING or (status == 0 and any(mark in lower for mark in PASSING_CODES))
    should = refusal.headers.get("x-should-retry")  # OpenAI and Anthropic know better than their status codes
    if should == "true" or (passing and should != "false"):
        asked = pause(refusal.headers)
        if asked is not None and asked > LONGEST_PAUSE:
            return Unavailable(f"{where} asks to wait {asked:.0f} s ({said}); go on then, or use another model.")
        return Transient(f"status {status}: {said}" if status else f"the server broke off: {said}", asked)
    if passing:
        return Unavailable(f"{where} failed and says that trying again will not help ({status}: {said}).")
    if status == 0 and "invalid" not in lower:
        return Transient(f"the server broke off: {said}")
    return UserError(f"{where} refused the request ({status or 'in the stream'}: {said}).")


def window_size(text: str) -> int | None:
    """The window in tokens, where a refusal names it."""
    match = _SIZE.search(text)
    return int(match[1].replace(",", "")) if match else None


def room_left(text: str) -> int | None:
    """The tokens that the prompt leaves for the reply, where a refusal of prompt and reply together tells."""
    if match := _SUM.search(text):
        return int(match[3]) - int(match[1])
    if match := _PARTS.search(text):
        return int(match[1]) - int(match[2])
    return None


def pause(headers: Mapping[str, str]) -> float | None:
    """The seconds that a service asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def reason(text: str) -> str:
    """The service's own sentence out of an error body, short. A web page gives its title."""
    try:
        data = json.loads(text)
        data = data[0] if isinstance(data, list) else data  # Gemini sends a list of one
        error = data.get("error", data)
        said = error.get("message") or data.get("detail") or error.get("code") if isinstance(error, dict) else error
        inner = (error.get("metadata") or {}).get("raw") if isinstance(error, dict) else None
        if inner and isinstance(inner, str):  # OpenRouter: what the provider behind it said
            said = f"{said}: {reason(inner)}"
    except (ValueError, AttributeError, IndexError):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        said = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    said = " ".join(str(said or "no reason given").split()).rstrip(".")
    return said if len(said) <= 200 else said[:199] + "…"


def _behind_at(where: str) -> str:
    return where.partition(" at ")[2] or where
