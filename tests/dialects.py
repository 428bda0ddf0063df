"""The three APIs as their documents show them: how each streams a reply, answers whole, fails, and is sent history."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openk2.providers.anthropic import AnthropicProvider
from openk2.providers.http import Remote
from openk2.providers.openai import OpenAIProvider
from openk2.providers.responses import ResponsesProvider

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Said:
    """What the model says: calls are (id, name, arguments)."""

    content: str = ""
    reasoning: str | None = None
    calls: tuple[tuple[str, str, str], ...] = ()
    prompt: int = 100
    cached: int = 60
    thought: int = 7
    written: int = 20
    mark: str = "EqQBCgIYAhIM"  # signature, or encrypted reasoning


@dataclass(frozen=True)
class Dialect:
    """`stream` gives the events of a reply in pieces of so many characters, `whole` the answer without streaming,
    `thoughts` what a request sends back of reasoning, `window` the service's error for a conversation too long."""

    name: str
    provider: Callable[..., Remote]
    stream: Callable[[Said, int], list[Any]]
    whole: Callable[[Said], dict[str, Any]]
    thoughts: Callable[[dict[str, Any]], list[str]]
    window: str
    model: str = "stub"
    other: dict[str, Any] = field(default_factory=dict)


def pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def chat_stream(said: Said, size: int) -> list[Any]:
    def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "stub",
            "choices": [choice],
        }

    out = [chunk(role="assistant", content="")]
    out += [chunk(reasoning_content=piece) for piece in pieces(said.reasoning or "", size)]
    out += [chunk(content=piece) for piece in pieces(said.content, size)]
    for index, (id, name, arguments) in enumerate(said.calls):
        head = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
        out.append(chunk(tool_calls=[head]))
        parts = pieces(arguments, size)
        out += [chunk(tool_calls=[{"index": index, "function": {"arguments": part}}]) for part in parts]
    out.append(chunk(finish="tool_calls" if said.calls else "stop"))
    return [*out, {**chunk(), "choices": [], "usage": chat_usage(said)}, DONE]


def chat_usage(said: Said) -> dict[str, Any]:
    return {
        "prompt_tokens": said.prompt,
        "completion_tokens": said.written,
        "total_tokens": said.prompt + said.written,
        "prompt_tokens_details": {"cached_tokens": said.cached},
        "completion_tokens_details": {"reasoning_tokens": said.thought},
    }


def chat_whole(said: Said) -> dict[str, Any]:
    calls = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in said.calls]
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "reasoning_content": said.reasoning}
    message |= {"tool_calls": calls} if calls else {}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": chat_usage(said)}


def anthropic_blocks(said: Said) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.reasoning is not None:
        blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": said.mark})
    if said.content:
        blocks.append({"type": "text", "text": said.content})
    for id, name, arguments in said.calls:
        blocks.append({"type": "tool_use", "id": id, "name": name, "input": json.loads(arguments)})
    return blocks


def anthropic_stream(said: Said, size: int) -> list[Any]:
    usage = {
        "input_tokens": said.prompt - said.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached,
        "output_tokens": 1,
    }
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": None, "usage": usage}
    out: list[Any] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    arguments = iter([a for _, _, a in said.calls])
    for index, block in enumerate(anthropic_blocks(said)):
        kind = block["type"]
        empty: dict[str, Any] = {**block, **({"text": ""} if kind == "text" else {})}
        deltas: list[dict[str, Any]] = []
        if kind == "thinking":
            empty |= {"thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": p} for p in pieces(block["thinking"], size)]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        elif kind == "text":
            deltas = [{"type": "text_delta", "text": p} for p in pieces(block["text"], size)]
        else:
            empty["input"] = {}
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in ["", *pieces(next(arguments), size)]]
        out.append({"type": "content_block_start", "index": index, "content_block": empty})
        out += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        out.append({"type": "content_block_stop", "index": index})
    counts = {"output_tokens": said.written, "output_tokens_details": {"thinking_tokens": said.thought}}
    stop = {"stop_reason": "tool_use" if said.calls else "end_turn", "stop_sequence": None}
    return [*out, {"type": "message_delta", "delta": stop, "usage": counts}, {"type": "message_stop"}]


def anthropic_whole(said: Said) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": anthropic_blocks(said),
        "stop_reason": "tool_use" if said.calls else "end_turn",
        "usage": {
            "input_tokens": said.prompt - said.cached,
            "cache_read_input_tokens": said.cached,
            "output_tokens": said.written,
            "output_tokens_details": {"thinking_tokens": said.thought},
        },
    }


def anthropic_thoughts(request: dict[str, Any]) -> list[str]:
    blocks = [block for turn in request["messages"] if turn["role"] == "assistant" for block in turn["content"]]
    return [block["thinking"] for block in blocks if block["type"] == "thinking"]


def responses_items(said: Said) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if said.reasoning is not None:
        summary = [{"type": "summary_text", "text": said.reasoning}] if said.reasoning else []
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": said.mark})
    if said.content:
        part = {"type": "output_text", "text": said.content, "annotations": [], "logprobs": []}
        items.append({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]})
    for id, name, arguments in said.calls:
        call = {"id": f"fc_{id}", "type": "function_call", "status": "completed", "call_id": id}
        items.append({**call, "name": name, "arguments": arguments})
    return items


def responses_stream(said: Said, size: int) -> list[Any]:
    opened = {"id": "resp_1", "object": "response", "status": "in_progress", "error": None, "output": []}
    out: list[Any] = [{"type": "response.created", "response": opened}]
    for index, item in enumerate(responses_items(said)):
        at = {"output_index": index, "item_id": item["id"]}
        kind, text, part = "response.function_call_arguments", item.get("arguments", ""), {"type": "none"}
        if item["type"] == "reasoning":
            kind, text = "response.reasoning_summary_text", said.reasoning or ""
            at["summary_index"], part = 0, {"type": "summary_text", "text": ""}
            opening, empty = "response.reasoning_summary_part", {**item, "summary": []}
        elif item["type"] == "message":
            kind, text = "response.output_text", said.content
            at["content_index"], part = 0, {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            opening, empty = "response.content_part", {**item, "content": [], "status": "in_progress"}
        else:
            opening, empty = "", {**item, "arguments": "", "status": "in_progress"}
        out.append({"type": "response.output_item.added", "output_index": index, "item": empty})
        if opening:
            out.append({"type": f"{opening}.added", **at, "part": part})
        out += [{"type": f"{kind}.delta", **at, "delta": piece, "logprobs": []} for piece in pieces(text, size)]
        ended = {"arguments": text, "name": item["name"]} if item["type"] == "function_call" else {"text": text}
        out.append({"type": f"{kind}.done", **at, **ended, "logprobs": []})
        if opening:
            out.append({"type": f"{opening}.done", **at, "part": {**part, "text": text}})
        out.append({"type": "response.output_item.done", "output_index": index, "item": item})
    out.append({"type": "response.completed", "response": responses_whole(said)})
    return [{**event, "sequence_number": number} for number, event in enumerate(out)]


def responses_whole(said: Said) -> dict[str, Any]:
    usage = {
        "input_tokens": said.prompt,
        "input_tokens_details": {"cached_tokens": said.cached},
        "output_tokens": said.written,
        "output_tokens_details": {"reasoning_tokens": said.thought},
    }
    answer = {"id": "resp_1", "object": "response", "status": "completed", "error": None}
    return {**answer, "output": responses_items(said), "usage": usage}


def responses_thoughts(request: dict[str, Any]) -> list[str]:
    found = [item for item in request["input"] if item.get("type") == "reasoning"]
    return ["".join(part["text"] for part in item["summary"]) for item in found]


def chat_thoughts(request: dict[str, Any]) -> list[str]:
    found = [message for message in request["messages"] if message["role"] == "assistant"]
    return [message["reasoning_content"] for message in found if "reasoning_content" in message]


CHAT = Dialect(
    "chat", OpenAIProvider, chat_stream, chat_whole, chat_thoughts,
    '{"error": {"message": "This model\'s maximum context length is 8192 tokens. However, your messages resulted in '
    '9000 tokens.", "type": "invalid_request_error", "code": "context_length_exceeded"}}',
)  # fmt: skip
ANTHROPIC = Dialect(
    "anthropic", AnthropicProvider, anthropic_stream, anthropic_whole, anthropic_thoughts,
    '{"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 208310 tokens > '
    '200000 maximum"}}',
)  # fmt: skip
RESPONSES = Dialect(
    "responses", ResponsesProvider, responses_stream, responses_whole, responses_thoughts,
    '{"error": {"message": "Your input exceeds the context window of this model. Please adjust your input and try '
    'again.", "type": "invalid_request_error", "code": "context_length_exceeded"}}',
)  # fmt: skip
DIALECTS = (CHAT, ANTHROPIC, RESPONSES)
