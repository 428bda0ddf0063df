"""What services really say, and what it is understood as."""

# ruff: noqa: E501  (sentences of others)

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest

from openk2.errors import UserError
from openk2.providers.base import Unavailable, WindowFull
from openk2.providers.failures import Refusal, Transient, meaning, pause, reason, room_left, window_size

WHERE = "The server at http://h/v1"
# (who, the sentence, the window it names)
TOO_LONG = [
    ("openai", "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens. Please reduce the length of the messages.", 128000),
    ("openai responses", "Your input exceeds the context window of this model. Please adjust your input and try again.", None),
    ("openai code", "context_length_exceeded", None),
    ("anthropic", "prompt is too long: 208310 tokens > 200000 maximum", 200000),
    ("anthropic both", "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length or `max_tokens` and try again", 200000),
    ("vllm", "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages, 1000 in the completion).", 4096),
    ("vllm prompt", "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no smaller.", 4096),
    ("vllm new", "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 tokens and your request has 3000 input tokens", 4096),
    ("sglang", "The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096),
    ("sglang both", "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens", 4096),
    ("llama.cpp", "the request exceeds the available context size, try increasing it", None),
    ("llama.cpp new", "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 4096),
    ("lm studio", "The number of tokens to keep from the initial prompt is greater than the context length", None),
    ("ollama", "prompt too long; exceeded max context length by 400 tokens", None),
    ("moonshot", "Invalid request: Your request exceeded model token limit: 262144 (requested: 262300)", 262144),
    ("moonshot input", "Input token length too long", None),
    ("deepseek", "This model's maximum context length is 131072 tokens. However, you requested 150000 tokens (149000 in the messages, 1000 in the completion). Please reduce the length of the messages or completion.", 131072),
    ("openrouter", "This endpoint's maximum context length is 131072 tokens. However, you requested about 190000 tokens (190000 of text input). Please reduce the length of either one.", 131072),
    ("mistral", "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", 32768),
    ("xai", "This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131072),
    ("groq", "Please reduce the length of the messages or completion.", None),
    ("gemini", "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).", None),
    ("bedrock", "Input is too long for requested model.", None),
    ("qwen", "Range of input length should be [1, 129024]", None),
    ("minimax", "invalid params, context window exceeds limit (2013)", None),
    ("glm", "Prompt exceeds max length", None),
    ("copilot", "prompt token count of 70000 exceeds the limit of 64000", None),
    ("litellm", "ContextWindowExceededError: exceeds the model's maximum context length of 8,192 tokens", 8192),
]  # fmt: skip


@pytest.mark.parametrize(("who", "said", "window"), TOO_LONG, ids=[who for who, _, _ in TOO_LONG])
def test_every_service_says_too_long_in_its_own_words(who: str, said: str, window: int | None) -> None:
    for status in (400, 0):
        error = meaning(Refusal(status, json.dumps({"error": {"message": said}})), WHERE)
        assert type(error) is WindowFull and said.rstrip(".")[:60] in str(error)
    assert window_size(said) == window


def test_what_is_not_about_the_window() -> None:
    for status, said, kind in [
        (429, "Rate limit reached: Limit 30000, Requested 40000 tokens per min. Please reduce the length of the messages", Transient),
        (400, "temperature: only 1 is allowed for this model", UserError),
        (400, "messages: context must be a list", UserError),
        (0, "Internal server error", Transient),
        (0, "something odd", Transient),
        (0, "invalid_request_error: tool_use ids are not unique", UserError),
        (503, "The model is overloaded", Transient),
        (0, "Incorrect API key provided", Unavailable),
    ]:  # fmt: skip
        assert type(meaning(Refusal(status, json.dumps({"error": {"message": said}})), WHERE)) is kind, said


def test_numeric_codes_in_a_stream_are_statuses() -> None:
    error = {"message": "Provider returned error", "code": 502, "metadata": {"raw": '{"error": {"message": "cold"}}'}}
    made = meaning(Refusal.in_stream(error), WHERE)
    assert type(made) is Transient and "Provider returned error: cold" in str(made)
    assert type(meaning(Refusal.in_stream({"message": "no", "code": 402}), WHERE)) is Unavailable
    assert type(meaning(Refusal.in_stream("plain text"), WHERE)) is Transient


def test_the_room_that_a_prompt_leaves() -> None:
    rooms = {who: room_left(said) for who, said, _ in TOO_LONG}
    told = {who: room for who, room in rooms.items() if room is not None}
    assert told.pop("anthropic both") == 11760
    assert told.pop("vllm") == 96 and told.pop("vllm new") == 1096
    assert all(room <= 0 for room in told.values())  # the prompt alone is too long


def test_pauses_in_all_their_forms() -> None:
    assert pause({"retry-after": "7"}) == 7.0
    assert pause({"retry-after": "0.5"}) == 0.5
    assert pause({"retry-after-ms": "250", "retry-after": "1"}) == 0.25
    later = pause({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert later is not None and 25 < later <= 31
    assert pause({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0.0
    assert pause({"retry-after": "soon"}) is None and pause({}) is None


def test_reasons_are_one_short_line() -> None:
    assert reason('{"error": {"message": "a\\n b."}}') == "a b"
    assert reason('[{"error": {"message": "gemini"}}]') == "gemini"
    assert reason('{"detail": "fastapi"}') == "fastapi"
    assert reason('{"error": "text"}') == "text"
    assert reason("<html><head><title>502 Bad\nGateway</title></head>") == "502 Bad Gateway"
    assert reason("") == reason("{}") == "no reason given"
    assert len(reason("x" * 5000)) == 200
