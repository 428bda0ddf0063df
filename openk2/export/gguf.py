"""A checkpoint as one GGUF file of architecture `deepseek2`, as llama.cpp's own converter names and lays it out.

kv_b_proj is split by head into attn_k_b (transposed) and attn_v_b, since llama.cpp runs absorbed attention; the experts
of a layer are stacked into one tensor; norms, the router and its bias are f32. INT4 in groups of 32 becomes q4_0 with
the same integers and scales: exact where fp16 holds the scale.

What the loader (llama.cpp as of 2026) does with it, and what is therefore refused or said:
- it does not read `rope.scaling.yarn_beta_fast` for this architecture and takes 32: a model with 1, as Kimi K2's own
  configuration has, is another network there unless it is started with `--yarn-beta-fast 1`;
- it takes rms_norm_eps for the latent norms as well, where the original has 1e-6;
- it knows YaRN with mscale equal to mscale_all_dim, one shared expert or more, experts in every layer after the dense
  ones, and takes a network of 26 or 27 layers for one without q_lora_rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError
from openk2.export import vocabulary
from openk2.export.gguf_file import BLOCK, KINDS, Tensor, encode, fp16_error, q4_0, write
from openk2.export.hf import fits
from openk2.model.checkpoint import TOKENIZER_FILES, pieces
from openk2.model.config import ModelConfig
from openk2.model.convert import FolderSource, Progress
from openk2.model.expected import BIAS, storage, weights
from openk2.model.safetensors import Stored

_FILE_TYPES = {"f32": 0, "q4_0": 2, "q8_0": 7, "bf16": 32}
_GATING = {"softmax": 1, "sigmoid": 2}
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5

_NAMES = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight", "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight", "mlp.gate.weight": "ffn_gate_inp.weight",
    f"mlp.gate.{BIAS}": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}  # fmt: skip


def export(
    source: Path,
    out: Path,
    experts: str | None = None,
    dense: str = "bf16",
    *,
    tokenizer: Path | None = None,
    progress: Progress = lambda done, total: None,
    note: Callable[[str], None] = lambda sentence: None,
) -> int:
    """Write checkpoint `source` as file `out`; returns its size. `experts`, `dense`: f32, bf16, q8_0 or q4_0.

    `experts` None is q4_0 for INT4, else bf16. A matrix whose rows do not divide into blocks of 32 is bf16 instead.
    Without a tokenizer the file has the size of the vocabulary only, for measurements. `note` is given what a person
    must know of the result. Raises UserError for a network that llama.cpp's deepseek2 cannot be, and as
    `gguf_file.write`.
    """
    opened = FolderSource(source)
    config = opened.config
    if tokenizer is None and all((source / name).exists() for name in TOKENIZER_FILES):
        tokenizer = source
    experts = experts or ("q4_0" if storage(config) == "int4" else "bf16")
    metadata = describe(config, source.resolve().name, experts)
    metadata |= words(tokenizer, config) if tokenizer else {"tokenizer.ggml.model": "none"}
    lost: list[float] = []
    size = write(out, metadata, list(layers(opened, experts, dense, lost)), progress)
    if lost:
        exact = "every scale is exact in fp16" if not max(lost) else f"fp16 scales change a weight by {max(lost):.2g}"
        note(f"INT4 is kept as it is in q4_0: {exact}{' at most' if max(lost) else ''}.")
    if (fast := metadata.get("deepseek2.rope.scaling.yarn_beta_fast", 32.0)) != 32:
        note(f"Start llama.cpp with --yarn-beta-fast {fast:g}: it does not read that here and is wrong without.")
    return size


def describe(config: ModelConfig, name: str, experts: str) -> dict[str, Any]:
    """The keys that say what the network is. Raises UserError for one that the architecture cannot be."""
    lite = config.num_hidden_layers in (26, 27)
    for wrong, what in (
        (config.moe_layer_freq != 1, "experts in some of the later layers only"),
        (not config.n_shared_experts, "no shared expert"),
        (config.scoring_func not in _GATING, f"expert scores by {config.scoring_func}"),
        (lite and config.q_lora_rank is not None, f"a q_lora_rank with {config.num_hidden_layers} layers"),
    ):
        if wrong:
            raise UserError(f"llama.cpp's deepseek2 knows no network with {what}; use --format hf.")
    attention = {
        "head_count": config.num_attention_heads, "head_count_kv": 1,
        "layer_norm_rms_epsilon": float(config.rms_norm_eps), "kv_lora_rank": config.kv_lora_rank,
        "key_length": config.kv_lora_rank + config.qk_rope_head_dim, "value_length": config.kv_lora_rank,
        "key_length_mla": config.qk_head_dim, "value_length_mla": config.v_head_dim,
    }  # fmt: skip
    if not lite:
        attention["q_lora_rank"] = config.q_lora_rank or 0  # the loader asks for it; 0 is none
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size, "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": config.n_routed_experts, "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts, "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_weights_scale": float(config.routed_scaling_factor), "expert_weights_norm": config.norm_topk_prob,
        "expert_gating_func": _GATING[config.scoring_func], "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group, "rope.dimension_count": config.qk_rope_head_dim,
        "rope.freq_base": float(config.rope_theta),
        **{f"attention.{key}": value for key, value in attention.items()}, **_yarn(config),
    }  # fmt: skip
    general = {"architecture": "deepseek2", "type": "model", "name": name, "file_type": _FILE_TYPES[experts],
               "quantization_version": 2}  # fmt: skip
    return {f"general.{k}": v for k, v in general.items()} | {f"deepseek2.{k}": v for k, v in keys.items()}


def _yarn(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        return {}
    config.rope_frequencies()  # refuses what is not YaRN
    mscale = scaling.get("mscale_all_dim")
    if not mscale or scaling.get("mscale") != mscale:
        raise UserError("llama.cpp's deepseek2 knows YaRN only with mscale equal to mscale_all_dim; use --format hf.")
    return {
        "rope.scaling.type": "yarn", "rope.scaling.factor": float(scaling["factor"]),
        "rope.scaling.original_context_length": int(
            scaling.get("original_max_position_embeddings") or config.max_position_embeddings
        ),
        "rope.scaling.yarn_log_multiplier": 0.1 * float(mscale),  # the loader divides by 0.1 again
        "rope.scaling.yarn_beta_fast": float(scaling.get("beta_fast") or 32),
        "rope.scaling.yarn_beta_slow": float(scaling.get("beta_slow") or 1),
    }  # fmt: skip


def words(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """The tokenizer's keys: GPT-2's BPE with llama.cpp's pre-tokenizer `kimi-k2`, and the chat template."""
    tokenizer = Tokenizer.load(folder)
    fits(tokenizer, config.vocab_size, folder)
    letters, ordinary = vocabulary.byte_letters(), vocabulary.tokens(tokenizer)
    named = {i: name for name, i in tokenizer.special.items()}
    rest = range(len(ordinary), config.vocab_size)
    texts = [vocabulary.spelled(token, letters) for token in ordinary] + [named.get(i, f"[PAD{i}]") for i in rest]
    if len(set(texts)) != len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise UserError(f"Two tokens of {folder} are spelled {twice!r}, which GGUF cannot hold; use --format hf.")
    eos = config.eos_token_id if isinstance(config.eos_token_id, int) else tokenizer.special["<|im_end|>"]
    ids = {"bos": config.bos_token_id, "eos": eos, "padding": config.pad_token_id}
    joined = vocabulary.merges(ordinary)
    # llama.cpp's template engine cannot sort keys; a client that wants the exact bytes sorts them itself.
    template = vocabulary.chat_template(folder).replace(", sort_keys=True", "")
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "kimi-k2", "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [_NORMAL] * len(ordinary) + [_CONTROL if i in named else _UNUSED for i in rest],
        "tokenizer.ggml.merges": [
            f"{vocabulary.spelled(a, letters)} {vocabulary.spelled(b, letters)}" for a, b in joined
        ],
        **{f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if isinstance(i, int)},
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": template,
    }  # fmt: skip


def layers(source: FolderSource, experts: str, dense: str, lost: list[float]) -> Iterator[Tensor]:
    """Every tensor of the file, in order. Writing INT4 as q4_0 appends to `lost` what fp16 scales change."""
    config, found = source.config, weights(source.config)
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}  # fmt: skip
    for name, shape in found.items():
        if name in top:
            yield _plain(source, name, top[name], shape, dense)
            continue
        _, _, layer, rest = name.split(".", 3)
        at = f"blk.{layer}."
        if rest in _NAMES:
            yield _plain(source, name, at + _NAMES[rest], shape, dense)
        elif rest == "self_attn.kv_b_proj.weight":
            yield from _split_heads(source, name, at, dense)
        elif rest.startswith("mlp.experts.0."):
            part = rest.split(".")[-2].removesuffix("_proj")
            names = [name.replace(".experts.0.", f".experts.{i}.") for i in range(config.n_routed_experts)]
            kind = _kind(experts, shape)
            stack = (len(names), *shape)
            yield Tensor(f"{at}ffn_{part}_exps.weight", kind, stack, _stacked(source, names, shape, kind, lost))


def _kind(wanted: str, shape: tuple[int, ...]) -> str:
    return "bf16" if KINDS[wanted].values == BLOCK and shape[-1] % BLOCK else wanted


def _plain(source: FolderSource, name: str, new: str, shape: tuple[int, ...], dense: str) -> Tensor:
    kind = "f32" if len(shape) == 1 or "ffn_gate_inp" in new else _kind(dense, shape)
    return Tensor(new, kind, shape, _stacked(source, [name], shape, kind, []))


def _stacked(
    source: FolderSource, names: list[str], shape: tuple[int, ...], kind: str, lost: list[float]
) -> Callable[[], Iterator[np.ndarray]]:
    def data() -> Iterator[np.ndarray]:
        for name in names:
            for first, last in pieces(shape):
                ready = source.int4(name, first, last) if kind == "q4_0" else None
                if ready:
                    scale = Stored("BF16", ready[1]).float32()
                    lost.append(fp16_error(scale))
                    yield q4_0(ready[0], scale)
                else:
                    yield encode(source.rows(name, first, last), kind)

    return data


def _split_heads(source: FolderSource, name: str, at: str, dense: str) -> Iterator[Tensor]:
    """kv_b_proj [heads * (nope + v), latent] -> attn_k_b [heads, latent, nope] and attn_v_b [heads, v, latent]."""
    config = source.config
    heads, nope, value, latent = (
        config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank,
    )  # fmt: skip

    def by_head() -> np.ndarray:
        return source.rows(name, 0, heads * (nope + value)).reshape(heads, nope + value, latent)

    k_shape, v_shape = (heads, latent, nope), (heads, value, latent)
    k, v = _kind(dense, k_shape), _kind(dense, v_shape)
    yield Tensor(f"{at}attn_k_b.weight", k, k_shape, lambda: iter([encode(by_head()[:, :nope].swapaxes(1, 2), k)]))
    yield Tensor(f"{at}attn_v_b.weight", v, v_shape, lambda: iter([encode(by_head()[:, nope:], v)]))
