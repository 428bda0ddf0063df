"""The chat formats against Jinja, and the properties a renderer needs so that training and serving see the same ids.

The four properties are those that tinker-cookbook asks of its renderers (Apache-2.0, renderers/README.md): the prompt
is the chat template's; training examples stand behind exactly those prompts; what is rendered parses back to the same
message; a prompt extends the ones before it.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openk2.chat.messages import Message
from openk2.chat.parser import Parser
from openk2.chat.template import generation_prompt, render, render_for_training, render_message
from openk2.chat.tokenizer import Tokenizer

from conversations import PLAIN, WORDS, conversation, tools  # isort: skip

HERE = Path(__file__).parent


def jinja(template: str) -> Any:
    """A template compiled as transformers compiles a checkpoint's own."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="the oracle is rendered by jinja")
    return utils._compile_jinja_template(template)


def read(messages: list[dict[str, Any]]) -> list[Message]:
    return [Message.from_wire(message) for message in messages]


def sorted_keys(value: Any) -> Any:
    """Kimi's tokenizer sorts the tools before it gives them to the template."""
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def test_prompts_are_the_templates_text(either: Tokenizer) -> None:
    oracle = jinja((HERE / "kimi.jinja").read_text("utf-8"))
    rng = random.Random(1)
    for _ in range(300):
        messages, declared, prompt = conversation(rng), tools(rng), rng.random() < 0.5
        expected = oracle.render(
            messages=messages, tools=[sorted_keys(tool.to_wire()) for tool in declared], add_generation_prompt=prompt,
            thinking=either.template == "thinking",
        )  # fmt: skip
        ids = render(either, read(messages), declared, add_generation_prompt=prompt)
        assert either.decode(ids) == expected


def test_prompts_are_the_templates_ids(either: Tokenizer) -> None:
    """Where no text looks like markup, the ids are those of the whole rendered text with its special tokens."""
    oracle = jinja((HERE / "kimi.jinja").read_text("utf-8"))
    rng = random.Random(2)
    for _ in range(150):
        messages, declared = conversation(rng, PLAIN), tools(rng, PLAIN)
        text = oracle.render(
            messages=messages, tools=[sorted_keys(tool.to_wire()) for tool in declared], add_generation_prompt=True,
            thinking=either.template == "thinking",
        )  # fmt: skip
        expected = either._encoding.encode(text, allowed_special="all")
        assert render(either, read(messages), declared, add_generation_prompt=True) == expected


def test_what_clients_leave_out(either: Tokenizer) -> None:
    """Results without id or call, messages without content, no messages at all."""
    oracle = jinja((HERE / "kimi.jinja").read_text("utf-8"))
    result = {"role": "tool", "content": "x"}
    for messages in (
        [], [result], [{"role": "system", "content": ""}, {**result, "tool_call_id": "lost"}],
        [{"role": "user", "content": None}], [{"role": "user", "content": []}, {"role": "assistant", "content": None}],
        [{"role": "assistant", "content": "a"}],
    ):  # fmt: skip
        for prompt in (False, True):
            thinking = either.template == "thinking"
            expected = oracle.render(messages=messages, tools=[], add_generation_prompt=prompt, thinking=thinking)
            assert either.decode(render(either, read(messages), add_generation_prompt=prompt)) == expected


@pytest.mark.parametrize("name", ["thinking", "instruct"])
def test_prompts_are_those_of_a_released_template(small: Tokenizer, name: str) -> None:
    """`OPENK2_KIMI_TEMPLATES`: a folder with thinking.jinja and instruct.jinja, a checkpoint's chat_template.jinja."""
    path = Path(os.environ.get("OPENK2_KIMI_TEMPLATES", ".")) / f"{name}.jinja"
    if not path.exists():
        pytest.skip("OPENK2_KIMI_TEMPLATES does not hold the released templates")
    released, restated = jinja(path.read_text("utf-8")), jinja((HERE / "kimi.jinja").read_text("utf-8"))
    rng = random.Random(3)
    for _ in range(2000):
        values = {
            "messages": conversation(rng),
            "tools": [sorted_keys(tool.to_wire()) for tool in tools(rng)],
            "add_generation_prompt": rng.random() < 0.5,
        }
        assert released.render(**values) == restated.render(**values, thinking=name == "thinking")


def turn(rng: random.Random) -> list[Message]:
    """A conversation that ends with an answer; the model speaks without a name, as behind the generation prompt."""
    while True:
        messages = read(conversation(rng))
        if messages and messages[-1].role == "assistant":
            return [replace(m, name=None) if m.role == "assistant" else m for m in messages]


def spans(mask: list[int]) -> list[tuple[int, int]]:
    """Beginnings and ends of the runs of ones."""
    edges = [i for i in range(len(mask) + 1) if (mask[i] if i < len(mask) else 0) != (mask[i - 1] if i else 0)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_training_stands_behind_the_prompts(either: Tokenizer) -> None:
    """The ids before each masked span are the prompt that the message would have been generated behind."""
    rng = random.Random(4)
    for _ in range(60):
        messages, declared = turn(rng), tools(rng)
        ids, mask = render_for_training(either, messages, declared)
        answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
        if either.template == "thinking":
            ended = [i for i in answers if not messages[i].tool_calls and i < len(messages) - 1]
            answers = [i for i in answers if i > max(ended, default=-1)]
        found = spans(mask)
        assert len(found) == len(answers)
        for (begin, _), i in zip(found, answers, strict=True):
            assert ids[:begin] == render(either, messages[:i], declared, add_generation_prompt=True)


def test_what_is_trained_parses_back(either: Tokenizer) -> None:
    """The mask covers exactly the message: its ids, parsed as sampled ids are, give the same message."""
    rng = random.Random(5)
    for _ in range(60):
        messages = turn(rng)
        ids, mask = render_for_training(either, messages)
        found = spans(mask)
        trained = [m for m in messages if m.role == "assistant"][-len(found) :]
        for (begin, end), message in zip(found, trained, strict=True):
            parser = Parser(either)
            for token in ids[begin:end]:
                assert not parser.ended
                parser.feed(token)
            assert parser.ended
            reasoning = (message.reasoning or "") if either.template == "thinking" else None
            assert replace(parser.finish(), token_ids=()) == replace(message, reasoning=reasoning)


def test_a_message_that_was_cut_off_is_not_taught_to_end(either: Tokenizer) -> None:
    sampled = tuple(either.encode("Half an ans"))
    ids, mask = render_for_training(either, [Message("user", "Hi"), Message("assistant", "x", token_ids=sampled)])
    assert ids[-len(sampled) - 1 :] == [*sampled, either.special["<|im_end|>"]]
    assert mask[-len(sampled) - 1 :] == [1] * len(sampled) + [0]


def test_prompts_of_a_turn_extend_each_other(either: Tokenizer) -> None:
    """Prompt + what was sampled + results = next prompt; without thinking this holds over turns too."""
    rng = random.Random(6)
    extended = 0
    for _ in range(60):
        messages, declared = turn(rng), tools(rng)
        prompts = {
            i: render(either, messages[:i], declared, add_generation_prompt=True)
            for i, m in enumerate(messages)
            if m.role == "assistant"
        }
        for i, following in zip(prompts, list(prompts)[1:], strict=False):
            if either.template == "thinking" and not messages[i].tool_calls:
                continue  # a turn ended: its reasoning leaves the prompt
            said = render_message(either, messages[i])[len(generation_prompt(either)) :]
            between = [t for m in messages[i + 1 : following] for t in render_message(either, m)]
            assert prompts[following] == prompts[i] + said + between + generation_prompt(either)
            extended += 1
    assert extended > 20


def test_the_end_of_a_turn_empties_its_reasoning_and_nothing_else(tok: Tokenizer) -> None:
    rng = random.Random(7)
    for _ in range(60):
        messages = turn(rng)
        emptied = [replace(m, reasoning=None) if m.role == "assistant" else m for m in messages]
        asked = Message("user", "And?")
        assert render(tok, [*messages, asked]) == render(tok, [*emptied, asked])
        before = [replace(m, reasoning=None) if m.role == "assistant" else m for m in messages[:-1]]
        start = render(tok, before)  # the same conversation, all of it in work, had it no reasoning
        assert render(tok, [*messages, asked])[: len(start)] == start


def test_no_text_becomes_a_special_token(either: Tokenizer) -> None:
    """Names, contents, reasoning, arguments, ids, tools: the special ids depend on the structure alone."""
    rng = random.Random(8)
    for _ in range(60):
        state = rng.getstate()
        messages, declared = read(conversation(rng)), tools(rng)
        rng.setstate(state)
        harmless, plain = read(conversation(rng, [word.strip("<|>") for word in WORDS])), tools(rng)
        special = [i for i in render(either, messages, declared) if either.is_special(i)]
        assert special == [i for i in render(either, harmless, plain) if either.is_special(i)]
