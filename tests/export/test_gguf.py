"""GGUF: names, keys, types and values by the gguf package, and logits by llama.cpp's graph restated in numpy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the oracle of the format is the gguf package")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from llama_graph import LlamaGraph  # noqa: E402
from networks import CONFIG, SHAPES, YARN, Uneven, made  # noqa: E402

from openk2.chat.tokenizer import PATTERN, Tokenizer  # noqa: E402
from openk2.errors import UserError  # noqa: E402
from openk2.export import gguf_file, vocabulary  # noqa: E402
from openk2.export.gguf import describe, export, words  # noqa: E402
from openk2.model import checkpoint  # noqa: E402
from openk2.model.config import ModelConfig  # noqa: E402
from openk2.model.convert import FolderSource, convert  # noqa: E402
from openk2.model.expected import BIAS, EXPERT, weights  # noqa: E402
from openk2.paths import NANO  # noqa: E402
from openk2.quant import packing  # noqa: E402


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_llama_cpps_graph_are_transformers_own(tmp_path: Path, shape: str) -> None:
    made(tmp_path / "in", "fp32", **SHAPES[shape])
    export(tmp_path / "in", tmp_path / "x.gguf", "f32", "f32")
    ids = np.random.default_rng(0).integers(0, 128, 48).tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    got = LlamaGraph(tmp_path / "x.gguf").logits(ids)
    assert np.abs(expected).max() > 1
    assert np.abs(got - expected).max() < 2e-4


def oracle_name(name: str, layers: int) -> str:
    """What the gguf package's own table makes of a Hugging Face name, as llama.cpp's converter asks it."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, layers)
    name = name.replace(BIAS, "e_score_correction.bias").replace(".experts.0.", ".experts.")
    found = table.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found, name
    return found


def test_names_shapes_and_types(tmp_path: Path) -> None:
    config = made(tmp_path / "in", "int4", q_lora_rank=32)
    export(tmp_path / "in", tmp_path / "x.gguf")
    expected: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, shape in weights(config).items():
        if EXPERT.search(name):
            if ".experts.0." in name:
                expected[oracle_name(name, 3)] = ((8, *shape), "Q4_0")
        elif "kv_b_proj" in name:
            expected[oracle_name(name.replace("kv_b", "k_b"), 3)] = ((4, 32, 32), "BF16")
            expected[oracle_name(name.replace("kv_b", "v_b"), 3)] = ((4, 32, 32), "BF16")
        else:
            kept = len(shape) == 1 or "mlp.gate.weight" in name
            expected[oracle_name(name, 3)] = (shape, "F32" if kept else "BF16")
    found = LlamaGraph(tmp_path / "x.gguf")
    assert {n: (t.shape, found.kinds[n]) for n, t in found.tensors.items()} == expected


def test_int4_is_kept_to_the_bit_and_values_are_the_checkpoints(tmp_path: Path) -> None:
    made(tmp_path / "in", "int4")
    notes: list[str] = []
    export(tmp_path / "in", tmp_path / "x.gguf", note=notes.append)
    assert notes == ["INT4 is kept as it is in q4_0: every scale is exact in fp16."]
    source = checkpoint.load(tmp_path / "in", ModelConfig.from_folder(tmp_path / "in"))
    found = LlamaGraph(tmp_path / "x.gguf").tensors
    for part in ("gate", "up", "down"):
        for expert in range(8):
            value = source.weight(f"model.layers.2.mlp.experts.{expert}.{part}_proj.weight")
            assert np.array_equal(found[f"blk.2.ffn_{part}_exps.weight"][expert], value)
    assert np.array_equal(found["output.weight"], source.weight("lm_head.weight"))


def test_a_scale_that_fp16_cannot_hold_is_told(tmp_path: Path) -> None:
    class Tiny(Uneven):
        def int4(self, name: str, first: int, last: int) -> tuple[np.ndarray, np.ndarray] | None:
            ready = super().int4(name, first, last)
            if ready and name.endswith("layers.1.mlp.experts.3.up_proj.weight"):
                ready[1][0, 0] = np.float32(3.3e-8).view(np.uint32) >> 16
            return ready

    convert(Tiny(CONFIG, 3), tmp_path / "in", "int4")
    notes: list[str] = []
    export(tmp_path / "in", tmp_path / "x.gguf", note=notes.append)
    assert notes == ["INT4 is kept as it is in q4_0: fp16 scales change a weight by 2.1e-07 at most."]
    with pytest.raises(UserError, match="too large for GGUF's fp16"):
        gguf_file.q4_0(np.zeros((1, 4), np.int32), np.array([[7e4]], np.float32))


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "bf16", "f32"])
def test_blocks_are_ggmls(kind: str) -> None:
    rng = np.random.default_rng(5)
    values = (rng.standard_normal((40, 96)) * np.exp(rng.standard_normal((40, 1)))).astype(np.float32)
    values[3, 32:64], values[4] = 0, np.round(values[4]) / 2  # halves
    data = np.ascontiguousarray(gguf_file.encode(values, kind)).view(np.uint8).reshape(40, -1)
    number = gguf.GGMLQuantizationType[kind.upper()]
    back = gguf.quants.dequantize(data if kind != "f32" else data.view(np.float32), number).reshape(values.shape)
    if kind == "q4_0":  # the one function's scales, not ggml's
        expected = packing.dequantize(packing.pack(packing.quantize(values)[0]), packing.quantize(values)[1], 96)
        assert np.array_equal(back, expected)
    else:
        own = gguf.quants.quantize(values, number)
        assert np.array_equal(data, np.ascontiguousarray(own).view(np.uint8).reshape(40, -1))


def test_every_key_is_one_that_gguf_knows() -> None:
    known = {
        value.replace("{arch}", "deepseek2") for group in vars(gguf.Keys).values() if isinstance(group, type)
        for value in vars(group).values() if isinstance(value, str)
    }  # fmt: skip
    config = ModelConfig.preset("kimi-k2-thinking")
    keys = describe(config, "k2", "q4_0")
    assert set(keys) <= known, set(keys) - known
    assert keys["deepseek2.attention.key_length"] == 576 and keys["deepseek2.attention.key_length_mla"] == 192
    assert keys["deepseek2.attention.head_count_kv"] == 1 and keys["deepseek2.expert_gating_func"] == 2
    assert keys["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)
    assert describe(ModelConfig.preset("moonlight-16b-a3b"), "m", "bf16").get("deepseek2.attention.q_lora_rank") is None
    assert describe(CONFIG, "m", "bf16")["deepseek2.attention.q_lora_rank"] == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"moe_layer_freq": 2}, "some of the later layers"),
        ({"n_shared_experts": 0}, "no shared expert"),
        ({"num_hidden_layers": 27, "q_lora_rank": 32}, "q_lora_rank with 27 layers"),
        ({"rope_scaling": {**YARN, "mscale": 0.7}}, "mscale equal to mscale_all_dim"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "not supported"),
    ],
)
def test_networks_that_llama_cpp_does_not_know_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        describe(dataclasses.replace(CONFIG, **changes), "x", "bf16")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    made(tmp_path / "in", "fp32", rope_scaling={**YARN, "beta_fast": 1.0})
    out = tmp_path / "x.gguf"

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "in", out, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    notes: list[str] = []
    assert export(tmp_path / "in", out, note=notes.append) == out.stat().st_size
    assert notes == ["Start llama.cpp with --yarn-beta-fast 1: it does not read that here and is wrong without."]
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path / "in", out)
    assert LlamaGraph(out).keys["tokenizer.ggml.model"] == "none"


@pytest.mark.skipif(not (NANO / "config.json").exists(), reason="the embedded model is not in this checkout")
def test_the_embedded_models_tokenizer_as_llama_cpp_merges_it(tmp_path: Path) -> None:
    """GPT-2's merging by rank of pairs, on pieces that the pattern cuts, gives tiktoken's ids."""
    import regex  # comes with tiktoken

    tok, config = Tokenizer.load(NANO), ModelConfig.from_folder(NANO)
    keys = words(NANO, config)
    assert len(keys["tokenizer.ggml.tokens"]) == len(keys["tokenizer.ggml.token_type"]) == config.vocab_size
    assert len(set(keys["tokenizer.ggml.tokens"])) == config.vocab_size
    assert keys["tokenizer.ggml.eos_token_id"] == config.eos_token_id
    assert "sort_keys" not in keys["tokenizer.chat_template"] and "<think>" in keys["tokenizer.chat_template"]
    ids = {text: i for i, text in enumerate(keys["tokenizer.ggml.tokens"])}
    ranks = {tuple(pair.split(" ")): i for i, pair in enumerate(keys["tokenizer.ggml.merges"])}
    letters = vocabulary.byte_letters()
    text = (NANO / "README.md").read_text(encoding="utf-8") + " Übergröße 12,345.67 你好 naïve\n\n\tx" * 3
    got: list[int] = []
    for piece in regex.findall(PATTERN, text, flags=regex.V1):
        parts = [letters[byte] for byte in piece.encode()]
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), 1 << 30))
            if (parts[best], parts[best + 1]) not in ranks:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        got += [ids[part] for part in parts]
    assert got == tok.encode(text)


def test_a_vocabulary_too_large_for_the_model(tmp_path: Path) -> None:
    made(tmp_path / "in", "fp32")
    if (NANO / "config.json").exists():
        with pytest.raises(UserError, match="has 6,144 ids, the model only 128"):
            export(tmp_path / "in", tmp_path / "x.gguf", tokenizer=NANO)
    assert FolderSource(tmp_path / "in").config.vocab_size == 128
