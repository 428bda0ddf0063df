from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openk2.engine import Engine
from openk2.engine.twin import Twin
from openk2.engine.weights import Weights
from openk2.errors import UserError
from openk2.model.checkpoint import save
from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.safetensors import Stored
from openk2.quant import packing

CONFIG = ModelConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96, moe_intermediate_size=32,
    n_routed_experts=8, num_experts_per_tok=2, vocab_size=120, kv_lora_rank=32, qk_nope_head_dim=16,
    qk_rope_head_dim=8, v_head_dim=16, max_position_embeddings=300, tie_word_embeddings=True,
)  # fmt: skip


def random_tensors(config: ModelConfig = CONFIG) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    hidden, heads = config.hidden_size, config.num_attention_heads
    tensors = {"model.embed_tokens.weight": rng.normal(size=(config.vocab_size, hidden))}
    tensors["model.norm.weight"] = np.ones(hidden)
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = rng.normal(size=(config.vocab_size, hidden))
    for i in range(config.num_hidden_layers):
        name = f"model.layers.{i}."
        shapes = {
            "self_attn.q_proj": (heads * config.qk_head_dim, hidden),
            "self_attn.q_a_proj": (config.q_lora_rank or 0, hidden),
            "self_attn.q_b_proj": (heads * config.qk_head_dim, config.q_lora_rank or 0),
            "self_attn.kv_a_proj_with_mqa": (config.kv_lora_rank + config.qk_rope_head_dim, hidden),
            "self_attn.kv_b_proj": (heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank),
            "self_attn.o_proj": (hidden, heads * config.v_head_dim),
        }
        blocks = {"mlp.": config.intermediate_size}
        if config.is_moe(i):
            blocks = {f"mlp.experts.{e}.": config.moe_intermediate_size for e in range(config.n_routed_experts)}
            if config.n_shared_experts:
                blocks["mlp.shared_experts."] = config.n_shared_experts * config.moe_intermediate_size
            shapes["mlp.gate"] = (config.n_routed_experts, hidden)
            tensors[name + "mlp.gate.e_score_correction_bias"] = rng.normal(size=config.n_routed_experts) * 0.1
        for part in ("q_a_proj", "q_b_proj") if config.q_lora_rank is None else ("q_proj",):
            del shapes[f"self_attn.{part}"]
        for block, width in blocks.items():
            shapes |= {f"{block}{part}_proj": (width, hidden) for part in ("gate", "up")}
            shapes[f"{block}down_proj"] = (hidden, width)
        tensors |= {f"{name}{part}.weight": rng.normal(size=s) / s[1] ** 0.5 for part, s in shapes.items()}
        norms = {"input_": hidden, "post_attention_": hidden, "self_attn.kv_a_": config.kv_lora_rank}
        if config.q_lora_rank is not None:
            norms["self_attn.q_a_"] = config.q_lora_rank
        tensors |= {f"{name}{norm}layernorm.weight": rng.uniform(0.5, 1.5, size) for norm, size in norms.items()}
    return tensors


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(folder, CONFIG, {name: Stored.bf16(t) for name, t in random_tensors().items()})
    return Engine.load(folder)


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count).tolist()


def test_pieces_do_not_matter(engine: Engine) -> None:
    text = ids(90)
    whole = engine.session()
    whole.append(text)
    parts = engine.session()
    for start in range(0, 90, 7):
        parts.append(text[start : start + 7])
    parts.append([])
    assert parts.ids == text
    np.testing.assert_allclose(parts.logits, whole.logits, atol=1e-4)


def test_sampled_ids_are_part_of_the_session(engine: Engine) -> None:
    session = engine.session()
    session.append(ids(10))
    made = list(session.generate(max_tokens=12))
    assert session.ids == ids(10) + made
    session.append(ids(5, 1))
    fresh = engine.session()
    fresh.append(session.ids)
    np.testing.assert_allclose(session.logits, fresh.logits, atol=1e-4)


def test_greedy_takes_the_likeliest_and_stops(engine: Engine) -> None:
    session = engine.session()
    session.append(ids(10))
    expected = int(session.logits.argmax())
    made = list(session.generate(max_tokens=50, stop_ids={expected}))
    assert made == [expected]
    assert list(session.generate(max_tokens=0)) == []


def test_a_generator_may_be_left_and_another_started(engine: Engine) -> None:
    straight, broken = engine.session(), engine.session()
    for session in (straight, broken):
        session.append(ids(10))
    expected = list(straight.generate(max_tokens=6))
    for token in broken.generate(max_tokens=6):
        assert token == expected[0]
        break
    assert [expected[0], *broken.generate(max_tokens=5)] == expected


def test_fork(engine: Engine) -> None:
    session = engine.session()
    session.append(ids(40))
    twin = session.fork(25)
    assert (twin.ids, twin.cached) == (ids(40)[:25], 24)
    twin.append(ids(3, 1))
    fresh = engine.session()
    fresh.append(ids(40)[:25] + ids(3, 1))
    np.testing.assert_allclose(twin.logits, fresh.logits, atol=1e-4)
    assert session.ids == ids(40)
    assert engine.session().fork(0).ids == []


def test_the_window_and_the_vocabulary_are_kept(engine: Engine) -> None:
    session = engine.session()
    session.append(ids(295))
    assert len(list(session.generate(max_tokens=100))) == 5
    assert list(session.generate(max_tokens=100)) == []
    with pytest.raises(UserError, match="at most 300"):
        session.append([1])
    with pytest.raises(UserError, match="vocabulary"):
        engine.session().append([CONFIG.vocab_size])
    with pytest.raises(ValueError, match="at least one"):
        _ = engine.session().logits


def test_int4_experts_and_a_small_expert_cache(tmp_path: Path) -> None:
    """Packed experts give exactly the logits of their dequantised values, however few of them are kept unpacked."""
    plain, packed = {}, {}
    for name, tensor in random_tensors().items():
        if ".experts." not in name:
            plain[name] = packed[name] = Stored.bf16(tensor)
            continue
        groups = tensor.reshape(tensor.shape[0], -1, packing.GROUP)
        scale = Stored.bf16(np.abs(groups).max(-1) / 7.5)
        q = np.clip(np.round(groups / scale.float32()[..., None]), -8, 7).astype(np.int8)
        plain[name] = Stored.of((q * scale.float32()[..., None]).astype(np.float32).reshape(tensor.shape))
        packed[name + "_packed"] = Stored.of(packing.pack(q.reshape(tensor.shape)))
        packed[name + "_scale"] = scale
        packed[name + "_shape"] = Stored.of(np.array(tensor.shape, np.int64))
    save(tmp_path / "plain", CONFIG, plain)
    save(tmp_path / "packed", ModelConfig(**{**vars(CONFIG), "quantization_config": INT4_CONFIG}), packed)
    weights = {name: Weights.load(tmp_path / name, CONFIG) for name in ("plain", "packed")}
    twins = [Twin(CONFIG, weights["plain"]), Twin(CONFIG, weights["packed"])]
    twins.append(Twin(CONFIG, weights["packed"], expert_cache_bytes=3 * 12 * 64 * 32))
    results = []
    for twin in twins:
        session = Engine(CONFIG, weights["packed"], executor=twin).session()
        session.append(ids(60))
        results.append((list(session.generate(max_tokens=20)), session.logits))
    assert len(twins[2]._experts) == 3
    for made, logits in results[1:]:
        assert made == results[0][0]
        np.testing.assert_array_equal(logits, results[0][1])


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    tensors = {name: Stored.bf16(t) for name, t in random_tensors().items()}
    missing = {name: t for name, t in tensors.items() if "layers.1.self_attn.o_proj" not in name}
    save(tmp_path / "missing", CONFIG, missing)
    with pytest.raises(UserError, match=r"lacks model\.layers\.1\.self_attn\.o_proj"):
        Engine.load(tmp_path / "missing")
    save(tmp_path / "shape", CONFIG, tensors | {"model.norm.weight": Stored.bf16(np.ones(3))})
    with pytest.raises(UserError, match="damaged"):
        Engine.load(tmp_path / "shape")


def test_the_engine_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, openk2.engine, openk2.providers.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
