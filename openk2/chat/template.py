"""The chat templates of K2 Thinking and K2-Instruct (0711 in its corrected form, and 0905), rendered to token ids.

    tools      <|im_system|>tool_declare<|im_middle|>{JSON}<|im_end|>
    system     <|im_system|>{name or system}<|im_middle|>{content}<|im_end|>
    user       <|im_user|>{name or user}<|im_middle|>{content}<|im_end|>
    assistant  <|im_assistant|>{name or assistant}<|im_middle|><think>{reasoning}</think>{content}[calls]<|im_end|>
    tool       <|im_system|>{name or tool}<|im_middle|>## Return of {tool_call_id}\n{content}<|im_end|>
    calls      <|tool_calls_section_begin|> each: <|tool_call_begin|>{id}<|tool_call_argument_begin|>{arguments}
               <|tool_call_end|>, then <|tool_calls_section_end|>

Markup is ids; every text between is encoded as ordinary text, so it cannot contain markup. Tool ids are put right
first (`chat/call_ids.py`), as Moonshot's service does.

`Tokenizer.template` says which of the two is written. "thinking": reasoning is kept for the messages after the last
assistant message without calls (the turn in work) and is empty before it. "instruct": no `<think></think>` and no
reasoning at all; a default system message is followed by a line break, as the published template has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from openk2.chat.call_ids import canonical
from openk2.chat.messages import BadMessage, Message, ToolSpec
from openk2.chat.tokenizer import Tokenizer

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
_OPENING = {
    "system": "<|im_system|>",
    "user": "<|im_user|>",
    "assistant": "<|im_assistant|>",
    "tool": "<|im_system|>",
}


def render(
    tok: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None = None,
    *,
    add_generation_prompt: bool = False,
) -> list[int]:
    """The ids of a conversation as the checkpoint's template writes it.

    An assistant message that keeps its reasoning and has `token_ids` contributes exactly those. Without a system
    message at the start, K2's default one is inserted. Raises BadMessage for an unknown role.
    """
    return render_canonical(tok, canonical(messages), tools, add_generation_prompt=add_generation_prompt)


def render_canonical(
    tok: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] | None = None,
    *,
    add_generation_prompt: bool = False,
) -> list[int]:
    """As `render`, of a conversation whose tool ids are right already (`call_ids.canonical`)."""
    ids = _preamble(tok, messages, tools)
    kept_from = _kept_from(tok, messages)
    for i, message in enumerate(messages):
        ids += render_message(tok, message) if i >= kept_from else _render_history(tok, message)
    if add_generation_prompt:
        ids += generation_prompt(tok)
    return ids


def render_message(tok: Tokenizer, message: Message) -> list[int]:
    """The ids of one message with its reasoning: what `render` writes for it in the turn in work."""
    header = _header(tok, message)
    if message.role != "assistant":
        return header + tok.encode(_text(message)) + [tok.special["<|im_end|>"]]
    return header + sampled(tok, message)


def generation_prompt(tok: Tokenizer) -> list[int]:
    """The ids after which the model writes `<think>`, its reasoning, and the rest of its message."""
    return [tok.special["<|im_assistant|>"], *tok.encode("assistant"), tok.special["<|im_middle|>"]]


def render_for_training(
    tok: Tokenizer, messages: Sequence[Message], tools: Sequence[ToolSpec] | None = None
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and a mask that is 1 on each token the model itself samples in the last user turn.

    The last turn keeps its reasoning, its final answer included, so that every assistant message stands behind
    exactly the ids it would have been generated behind. Earlier turns are history: no reasoning, mask 0. Without
    thinking no turn is changed by a later one, and every assistant message has mask 1.
    """
    messages = canonical(messages)
    ids = _preamble(tok, messages, tools)
    mask = [0] * len(ids)
    answered = bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls
    kept_from = _kept_from(tok, messages[:-1] if answered else messages)
    for i, message in enumerate(messages):
        header = _header(tok, message)
        trained = i >= kept_from and message.role == "assistant"
        whole = header + sampled(tok, message) if trained else _render_history(tok, message)
        ids += whole
        mask += [0] * len(header) + [int(trained)] * (len(whole) - len(header))
        if trained and message.token_ids and len(whole) - len(header) > len(message.token_ids):
            mask[-1] = 0  # the end of a message that was cut off is ours, not the model's
    return ids, mask


def sampled(tok: Tokenizer, message: Message) -> list[int]:
    """The ids of an assistant message behind its header, through `<|im_end|>`: as sampled if known, else rendered."""
    if message.token_ids:
        end = tok.special["<|im_end|>"]
        cut_off = message.token_ids[-1] != end
        return [*message.token_ids, end] if cut_off else list(message.token_ids)
    return _render_assistant(tok, message, message.reasoning or "")


def tool_json(tools: Sequence[ToolSpec]) -> str:
    """The tools as K2 declares them: OpenAI's array as compact JSON with sorted keys."""
    wire = [tool.to_wire() for tool in tools]
    return json.dumps(wire, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _preamble(tok: Tokenizer, messages: Sequence[Message], tools: Sequence[ToolSpec] | None) -> list[int]:
    special = tok.special
    ids: list[int] = []
    if tools:
        ids += [special["<|im_system|>"], *tok.encode("tool_declare"), special["<|im_middle|>"]]
        ids += [*tok.encode(tool_json(tools)), special["<|im_end|>"]]
    if not messages or messages[0].role != "system":
        if tok.template == "thinking":
            ids += render_message(tok, Message("system", DEFAULT_SYSTEM))
        elif messages:
            ids += render_message(tok, Message("system", DEFAULT_SYSTEM)) + tok.encode("\n")
    return ids


def _kept_from(tok: Tokenizer, messages: Sequence[Message]) -> int:
    """Where history ends: behind the last assistant message without calls. Without thinking nothing is history."""
    if tok.template == "instruct":
        return 0
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].role == "assistant" and not messages[i].tool_calls:
            return i + 1
    return 0


def _header(tok: Tokenizer, message: Message) -> list[int]:
    opening = _OPENING.get(message.role)
    if opening is None:
        raise BadMessage(f"unknown role {message.role!r}: use system, user, assistant or tool")
    return [tok.special[opening], *tok.encode(message.name or message.role), tok.special["<|im_middle|>"]]


def _render_history(tok: Tokenizer, message: Message) -> list[int]:
    if message.role != "assistant":
        return render_message(tok, message)
    return _header(tok, message) + _render_assistant(tok, message, "")


def _render_assistant(tok: Tokenizer, message: Message, reasoning: str) -> list[int]:
    special = tok.special
    ids: list[int] = []
    if tok.template == "thinking":
        ids = [special["<think>"], *tok.encode(reasoning), special["</think>"]]
    ids += tok.encode(message.content)
    if message.tool_calls:
        ids.append(special["<|tool_calls_section_begin|>"])
        for call in message.tool_calls:
            ids += [special["<|tool_call_begin|>"], *tok.encode(call.id)]
            ids += [special["<|tool_call_argument_begin|>"], *tok.encode(call.arguments), special["<|tool_call_end|>"]]
        ids.append(special["<|tool_calls_section_end|>"])
    ids.append(special["<|im_end|>"])
    return ids


def _text(message: Message) -> str:
    if message.role != "tool":
        return message.content
    return f"## Return of {message.tool_call_id or ''}\n{message.content}"
