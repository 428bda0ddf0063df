"""The local provider on the real engine, with a tiny checkpoint whose next token depends on the last one only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openk2.chat.messages import Message, ToolCall, ToolSpec
from openk2.chat.template import generation_prompt, render, render_message
from openk2.chat.tokenizer import Tokenizer
from openk2.chat.train_tokenizer import MIN_VOCAB, train
from openk2.errors import UserError
from openk2.model.checkpoint import Stored, save
from openk2.model.config import ModelConfig
from openk2.providers.base import Delta, Limits, Reply
from openk2.providers.local import LocalProvider

CALL = (
    "<think>", "ok", "</think>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "plan:7",
    "<|tool_call_argument_begin|>", "{}", "<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>",
)  # fmt: skip
SAY = ("<think>", "ok", "</think>", "Das ƒine", "<|im_end|>")
NO_END = ("<think>", "ok", "<think>")
THINKS_ON = ("<think>", "ok", "ok")
TOOLS = [ToolSpec("plan", "Plan.", {"type": "object", "properties": {}})]
USER = [Message("user", "Hi")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers", reason="training a tokenizer needs the train extra")
    folder = tmp_path_factory.mktemp("tokenizer")
    train(["one two three four five six seven eight nine ten"] * 3, MIN_VOCAB + 8, folder)
    return folder


def checkpoint(
    folder: Path, tokenizer: Path, script: Sequence[str], profile: dict[str, Any] | None = None, window: int = 2048
) -> Path:
    """A model that writes `script` behind `<|im_middle|>`: attention and experts add nothing, the head is a bigram."""
    tok = Tokenizer.load(tokenizer)
    config = ModelConfig(
        hidden_size=256, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, moe_intermediate_size=32,
        n_routed_experts=4, num_experts_per_tok=2, vocab_size=tok.n_vocab, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=8, max_position_embeddings=window,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = {
        "self_attn.q_proj": (32, 256), "self_attn.kv_a_proj_with_mqa": (24, 256), "self_attn.kv_b_proj": (32, 16),
        "self_attn.o_proj": (256, 16),
    }  # fmt: skip
    tensors: dict[str, np.ndarray] = {"model.norm.weight": np.ones(256)}
    for layer in range(2):
        name = f"model.layers.{layer}."
        tensors |= {name + f"{norm}.weight": np.ones(256) for norm in ("input_layernorm", "post_attention_layernorm")}
        tensors[name + "self_attn.kv_a_layernorm.weight"] = np.ones(16)
        tensors |= {name + f"{part}.weight": rng.normal(size=shape) for part, shape in shapes.items()}
        tensors[name + "self_attn.o_proj.weight"][:] = 0
        blocks = ["mlp."] if layer == 0 else ["mlp.shared_experts.", *(f"mlp.experts.{e}." for e in range(4))]
        for block in blocks:
            for part, shape in (("gate", (32, 256)), ("up", (32, 256)), ("down", (256, 32))):
                tensors[f"{name}{block}{part}_proj.weight"] = np.zeros(shape)
    tensors["model.layers.1.mlp.gate.weight"] = rng.normal(size=(4, 256))
    tensors["model.layers.1.mlp.gate.e_score_correction_bias"] = np.zeros(4)
    embedding = rng.normal(size=(tok.n_vocab, 256))
    tensors["model.embed_tokens.weight"] = embedding
    tensors["lm_head.weight"] = head = np.zeros((tok.n_vocab, 256))
    last = tok.special["<|im_middle|>"]
    for part in script:
        for token in [tok.special[part]] if part in tok.special else tok.encode(part):
            head[token] += embedding[last]
            last = token
    stored = {name: Stored.bf16(tensor) for name, tensor in tensors.items()}
    save(folder, config, stored, tokenizer=tokenizer, profile=profile)
    return folder


def run(
    provider: LocalProvider, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), limits: Limits | None = None
) -> tuple[list[Delta], Reply]:
    async def collect() -> list[Delta | Reply]:
        return [item async for item in provider.stream(messages, tools, limits or Limits())]

    *deltas, reply = asyncio.run(collect())
    assert isinstance(reply, Reply)
    return [delta for delta in deltas if isinstance(delta, Delta)], reply


def test_an_answer(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, SAY))
    deltas, reply = run(provider, USER)
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == "ok"
    assert "".join(d.text for d in deltas if d.kind == "content") == "Das ƒine"
    assert (reply.message.reasoning, reply.message.content, reply.finish_reason) == ("ok", "Das ƒine", "stop")
    tok = provider.tokenizer
    assert tok.decode(reply.message.token_ids) == "<think>ok</think>Das ƒine<|im_end|>"
    prompt = render(tok, USER, add_generation_prompt=True)
    usage = reply.usage
    assert (usage.prompt, usage.cached, usage.completion) == (len(prompt), 0, len(reply.message.token_ids))
    assert usage.reasoning == 1 + len(tok.encode("ok"))


def test_calls_count_over_the_conversation_and_nothing_is_read_twice(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, CALL))
    messages = list(USER)
    think = provider.tokenizer.special["<think>"]
    for i in range(5):
        deltas, reply = run(provider, messages, TOOLS)
        assert reply.finish_reason == "tool_calls"
        assert reply.message.tool_calls == (ToolCall(f"functions.plan:{i}", "plan", "{}"),)
        assert Delta("call", "plan({})") in deltas
        written = f"<think>ok</think><|tool_calls_section_begin|><|tool_call_begin|>functions.plan:{i}"
        assert provider.tokenizer.decode(reply.message.token_ids).startswith(written)
        if i:
            added = [*render_message(provider.tokenizer, messages[-1]), *generation_prompt(provider.tokenizer)]
            assert reply.usage.prompt - reply.usage.cached == 2 + len(added)  # the ends of section and message too
        messages += [reply.message, Message("tool", f"done {i}", tool_call_id=f"functions.plan:{i}")]
    assert provider.prompt(messages, TOOLS).count(think) == 5


def test_a_call_that_cannot_be_is_not_made(tmp_path: Path, tokenizer: Path) -> None:
    """The model's own call of `plan:7` with `{}` becomes one of the tool there is, after its schema."""
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, CALL))
    schema = {"type": "object", "properties": {"n": {"const": 3}}, "required": ["n"], "additionalProperties": False}
    _, reply = run(provider, USER, [ToolSpec("count", "", schema)], Limits(max_tokens=60))
    (call,) = reply.message.tool_calls[:1]
    assert (call.id, json.loads(call.arguments)) == ("functions.count:0", {"n": 3})
    _, reply = run(provider, USER, TOOLS, Limits(max_tokens=30, tool_choice="none"))
    assert reply.message.tool_calls == ()
    _, reply = run(provider, USER, (), Limits(max_tokens=30))
    assert reply.message.tool_calls == ()
    bad = ToolSpec("odd", "", {"properties": {"x": {"if": {}}}})
    with pytest.raises(UserError, match=r"'odd'.*'if' at /properties/x"):
        run(provider, USER, [bad])


def test_a_demanded_call_is_made(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, SAY))
    for choice in ("required", "plan"):
        _, reply = run(provider, USER, TOOLS, Limits(max_tokens=100, tool_choice=choice))
        assert [c.id for c in reply.message.tool_calls][:1] == ["functions.plan:0"]
        assert reply.finish_reason == "tool_calls"
    with pytest.raises(UserError, match="no such tool"):
        run(provider, USER, TOOLS, Limits(tool_choice="fly"))
    with pytest.raises(UserError, match="allow more"):
        run(provider, USER, TOOLS, Limits(max_tokens=5, tool_choice="plan"))


def test_prompt_is_the_template(tmp_path: Path, tokenizer: Path) -> None:
    profile = {"system": "Be openk2.", "declare_tools": False}
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, SAY, profile))
    own = [Message("system", "Be openk2."), *USER]
    assert provider.prompt(USER, TOOLS) == render(provider.tokenizer, own, add_generation_prompt=True)
    plain = LocalProvider(checkpoint(tmp_path / "plain", tokenizer, SAY))
    assert plain.prompt(own, TOOLS) == render(plain.tokenizer, own, TOOLS, add_generation_prompt=True)


def test_a_changed_conversation_reuses_its_beginning(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, SAY))
    first = [Message("system", "A long system prompt. " * 10), Message("user", "one")]
    _, before = run(provider, first)
    _, after = run(provider, [first[0], Message("user", "two")])
    assert after.usage.cached > len(provider.tokenizer.encode(first[0].content)) > 0
    assert after.message == before.message
    _, again = run(provider, [first[0], Message("user", "two")])
    assert again.usage.cached == again.usage.prompt - 1


def test_a_limit_and_the_window_end_a_reply(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, NO_END, window=100))
    _, reply = run(provider, USER, limits=Limits(max_tokens=7))
    assert (reply.finish_reason, reply.usage.completion) == ("length", 7)
    _, reply = run(provider, USER)
    assert reply.finish_reason == "length"
    assert reply.usage.prompt + reply.usage.completion == 100
    with pytest.raises(UserError, match="reads at most 100"):
        run(provider, [Message("user", "Hi " * 200)])


def test_ids_of_another_tokenizer_are_not_used(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, CALL))
    _, reply = run(provider, USER, TOOLS)
    expected = provider.prompt([*USER, replace(reply.message, token_ids=())])
    for wrong in [(1, 2, 3), (10**6,), (*reply.message.token_ids[:1], 5, *reply.message.token_ids[1:])]:
        assert provider.prompt([*USER, replace(reply.message, token_ids=wrong)]) == expected


def test_closing_the_stream_stops_the_model(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, NO_END, window=100_000))

    async def leave_early() -> float:
        async with aclosing(provider.stream(USER, (), Limits())) as stream:  # type: ignore[type-var]
            async for _ in stream:
                break
        return time.monotonic()

    left = asyncio.run(leave_early())
    while provider.engine.scheduler.load.running:
        assert time.monotonic() - left < 5  # the whole window would take far longer
        time.sleep(0.01)
    _, reply = run(provider, USER, limits=Limits(max_tokens=3))
    assert reply.usage.completion == 3


def test_two_replies_at_once(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, CALL))

    async def one(text: str) -> Reply:
        async for item in provider.stream([Message("user", text)], TOOLS, Limits()):
            if isinstance(item, Reply):
                return item
        raise AssertionError("no reply")

    async def both() -> list[Reply]:
        return await asyncio.gather(*(one(text) for text in ("one", "two", "three three")))

    assert len({reply.message for reply in asyncio.run(both())}) == 1


def test_many_conversations_share_steps_and_prefixes(tmp_path: Path, tokenizer: Path) -> None:
    folder = checkpoint(tmp_path, tokenizer, NO_END, window=100_000)
    system = Message("system", "one two three four five six seven eight nine ten " * 40)
    texts = [f"{word} five" for word in ("one", "two", "three", "four", "six", "seven")]
    limits = Limits(max_tokens=100)
    alone = [run(LocalProvider(folder), [system, Message("user", t)], limits=limits)[1].message for t in texts]
    provider = LocalProvider(folder)

    async def one(text: str) -> Reply:
        async for item in provider.stream([system, Message("user", text)], (), limits):
            if isinstance(item, Reply):
                return item
        raise AssertionError("no reply")

    async def all_of_them() -> list[Reply]:
        return await asyncio.gather(*map(one, texts))

    replies = asyncio.run(all_of_them())
    assert [reply.message for reply in replies] == alone
    load = provider.engine.scheduler.load
    prompt, written = sum(r.usage.prompt for r in replies), sum(r.usage.completion for r in replies)
    assert load.steps < written / 2  # they were written side by side
    assert load.computed_tokens < written + prompt / 4  # and what they have in common was read once
    assert all(r.usage.cached > 0 for r in replies[1:])
    _, again = run(provider, [system, Message("user", texts[3])], limits=Limits(max_tokens=1))
    assert again.usage.cached == again.usage.prompt - 1


@pytest.mark.parametrize(
    ("stop", "content"),
    [(["ine"], "Das ƒ"), (["ok"], None), (["s ƒ", "xyz"], "Da"), (["D"], ""), (["e", "ƒine"], "Das "), (["eX"], None)],
)
def test_a_stop_text_ends_the_content_and_means_nothing_in_thought(
    tmp_path: Path, tokenizer: Path, stop: list[str], content: str | None
) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, SAY))
    deltas, reply = run(provider, USER, limits=Limits(stop=stop))
    wanted = "Das ƒine" if content is None else content
    assert (reply.message.reasoning, reply.message.content, reply.finish_reason) == ("ok", wanted, "stop")
    assert "".join(d.text for d in deltas if d.kind == "content") == wanted
    assert "".join(d.text for d in deltas if d.kind == "reasoning") == "ok"
    again = provider.prompt([*USER, reply.message, *USER])  # the model is shown what the person was shown
    assert provider.tokenizer.decode(again).count("ine") == wanted.count("ine")
    with pytest.raises(UserError, match="stop text is empty"):
        run(provider, USER, limits=Limits(stop=["a", ""]))


def test_a_stop_text_means_nothing_in_a_call(tmp_path: Path, tokenizer: Path) -> None:
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, CALL))
    _, reply = run(provider, USER, TOOLS, Limits(stop=["plan", "{", "}"]))
    assert reply.message.tool_calls == (ToolCall("functions.plan:0", "plan", "{}"),)
    assert reply.message.token_ids and reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("source", ["limits", "profile"])
def test_thinking_ends_at_its_limit_with_a_sentence(tmp_path: Path, tokenizer: Path, source: str) -> None:
    closing = " one two"
    profile: dict[str, Any] = {"thinking_closing": closing}
    limits = Limits(max_tokens=60, thinking_tokens=9)
    if source == "profile":
        profile["thinking_tokens"], limits = 9, Limits(max_tokens=60)
    provider = LocalProvider(checkpoint(tmp_path, tokenizer, THINKS_ON, profile))
    _, reply = run(provider, USER, limits=limits)
    tok = provider.tokenizer
    ids = list(reply.message.token_ids)
    end = tok.special["</think>"]
    assert ids[0] == tok.special["<think>"] and end in ids
    sentence = tok.encode(closing)
    assert ids.index(end) == 1 + 9 + len(sentence) and ids[10 : ids.index(end)] == sentence
    assert (reply.message.reasoning or "").endswith(closing) and reply.finish_reason == "length"
    assert reply.usage.reasoning == 1 + 9 + len(sentence) and reply.usage.completion == 60
    with pytest.raises(UserError, match="thinking_tokens"):
        run(provider, USER, limits=Limits(thinking_tokens=-1))


def test_seeds(tmp_path: Path, tokenizer: Path) -> None:
    folder = checkpoint(tmp_path, tokenizer, SAY, {"temperature": 30.0})

    def sample(seed: int | None) -> tuple[int, ...]:
        return run(LocalProvider(folder), USER, limits=Limits(max_tokens=20, seed=seed))[1].message.token_ids

    assert sample(1) == sample(1) != sample(2)
    assert run(LocalProvider(folder), USER, limits=Limits(temperature=0.0))[1].message.content == "Das ƒine"


@pytest.mark.parametrize("damage", ["config.json", "tiktoken.model", "model.safetensors", "openk2.json"])
def test_a_damaged_checkpoint_is_told_in_a_sentence(tmp_path: Path, tokenizer: Path, damage: str) -> None:
    folder = checkpoint(tmp_path, tokenizer, SAY, {"temperature": 0.0})
    (folder / damage).write_bytes((folder / damage).read_bytes()[:10])
    with pytest.raises(UserError):
        LocalProvider(folder)


def test_nan_weights_are_told_in_a_sentence(tmp_path: Path, tokenizer: Path) -> None:
    from openk2.model.checkpoint import load

    folder = checkpoint(tmp_path, tokenizer, SAY)
    tensors = {name: Stored(t.dtype, np.array(t.bits)) for name, t in load(folder).items()}
    tensors["model.norm.weight"].bits[:] = 0x7FC0
    save(folder, ModelConfig.from_folder(folder), tensors)
    with pytest.raises(UserError, match="not numbers"):
        run(LocalProvider(folder), USER)
