"""Random conversations as a client may send them: text that looks like markup, odd ids, empty fields."""

from __future__ import annotations

import copy
import random
from typing import Any

from openk2.chat.messages import ToolSpec

NAMES = ["search", "python", "a-b.c", "get_weather", "read_file"]
PLAIN = [
    "Kenya", " the", "\n", '"', "{", "}", "漢字", "😀", "é", " 12_345", "functions.x:0", "\\", "  ", "\t", "’s",
    "\u0301", "ا",
]  # fmt: skip
MARKUP = [
    "</think>", "<think>", "<|im_end|>", "<|tool_call_begin|>", "<|tool_calls_section_begin|>", "[EOS]", "{{ x }}",
]  # fmt: skip
WORDS = PLAIN + MARKUP


def text(rng: random.Random, most: int, words: list[str] = WORDS) -> str:
    return "".join(rng.choices(words, k=rng.randint(0, most)))


def conversation(rng: random.Random, words: list[str] = WORDS) -> list[dict[str, Any]]:
    """Wire messages with canonical ids; each call is answered, in any order."""
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.6:
        messages.append({"role": "system", "content": text(rng, 6, words)})
    counter = 0
    for _ in range(rng.randint(0, 3)):
        messages.append(_user(rng, words))
        for _ in range(rng.randrange(4)):
            names = rng.choices(NAMES, k=rng.choice((1, 1, 1, 2, 3)))
            calls = []
            for name in names:
                arguments = rng.choice((text(rng, 5, words), {"ä": [1, None, "x"], "b": {"c": 0.5}}))
                call = {"id": f"functions.{name}:{counter}", "function": {"name": name, "arguments": arguments}}
                counter += 1
                calls.append({"type": "function", **call})
            message: dict[str, Any] = {
                "role": "assistant",
                "content": rng.choice((None, text(rng, 3, words))),
                "tool_calls": calls,
            }
            if rng.random() < 0.8:
                message["reasoning_content"] = text(rng, 8, words)
            messages.append(message)
            for call in rng.sample(calls, len(calls)):
                result = {"role": "tool", "content": text(rng, 8, words), "tool_call_id": call["id"]}
                if rng.random() < 0.5:
                    result["name"] = call["function"]["name"]
                messages.append(result)
        answer: dict[str, Any] = {"role": "assistant", "content": text(rng, 6, words)}
        if rng.random() < 0.8:
            answer["reasoning_content"] = text(rng, 8, words)
        if rng.random() < 0.1:
            answer["name"] = "Kimi"
        messages.append(answer)
    if messages and messages[-1]["role"] == "assistant" and rng.random() < 0.5:
        messages.append(_user(rng, words))
    return messages


def _user(rng: random.Random, words: list[str]) -> dict[str, Any]:
    content: Any = text(rng, 8, words)
    if rng.random() < 0.2:
        content = [{"type": "text", "text": text(rng, 4, words)} for _ in range(rng.randrange(3))]
    user = {"role": "user", "content": content}
    return {**user, "name": "Ann" + words[-1]} if rng.random() < 0.1 else user


def spoiled(rng: random.Random, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with ids as other providers write them: unique, numbered from 0 in each message, or neither."""
    messages = copy.deepcopy(messages)
    new: dict[str, str] = {}
    for message in messages:
        for i, call in enumerate(message.get("tool_calls", ())):
            name = call["function"]["name"]
            id = rng.choice((f"call_{rng.getrandbits(32):08x}", f"functions.{name}:{i}", f"functions_{name}_{i}"))
            new[call["id"]] = id
            call["id"] = id
        if message["role"] == "tool":
            message["tool_call_id"] = new[message["tool_call_id"]]
    return messages


def tools(rng: random.Random, words: list[str] = WORDS) -> list[ToolSpec]:
    return [
        ToolSpec(
            name, text(rng, 4, words), {"type": "object", "properties": {"z": {"type": "string"}, "a": {"enum": [1]}}}
        )
        for name in rng.sample(NAMES, rng.randrange(3))
    ]
