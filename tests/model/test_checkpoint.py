"""Checkpoints as released are read exactly; damaged ones are named in a sentence, whatever the damage."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle of FP8 is torch")
import torch
from checkpoints import CONFIG, Raw, bf16, make, write_file

from openk2.errors import UserError
from openk2.model import checkpoint, safetensors
from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.expected import check, storage, weights
from openk2.quant import fp8

FORMS = ("bf16", "fp32", "fp16", "fp8", "int4")


def test_fp8_values_are_torchs() -> None:
    expected = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(fp8.VALUES, expected, equal_nan=True)
    assert np.array_equal(np.signbit(fp8.VALUES), np.signbit(expected))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_form_reads_exactly(tmp_path: Path, form: str, shards: int) -> None:
    values = make(tmp_path, form, shards)
    config = ModelConfig.from_folder(tmp_path)
    assert storage(config) == (form if form in ("fp8", "int4") else "bf16")
    found = checkpoint.load(tmp_path, config)
    for name, expected in values.items():
        assert np.array_equal(found.weight(name), expected), name
        assert np.array_equal(found.rows(name), expected) and found.shape(name) == expected.shape
        first, last = len(expected) // 3, len(expected) // 2 + 1
        assert np.array_equal(found.rows(name, first, last), expected[first:last]), name
    assert checkpoint.check_values(tmp_path) == len(found)


def test_parts_of_a_large_fp8_matrix() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 127, (300, 200)).astype(np.uint8)
    scale = rng.uniform(0.5, 2, (3, 2)).astype(np.float32)
    whole = fp8.VALUES[bits] * np.kron(scale, np.ones((128, 128), np.float32))[:300, :200]
    for first, last in ((0, 300), (1, 299), (127, 129), (128, 256), (255, 300), (299, 300)):
        assert np.array_equal(fp8.dequantize(bits[first:last], scale, first_row=first), whole[first:last])


def test_the_language_model_of_a_multimodal_release(tmp_path: Path) -> None:
    values = make(tmp_path, "int4", 2, prefix="language_model.")
    write_file(tmp_path / "extra.safetensors", {"vision_tower.patch": ("BF16", (2,), bf16(np.zeros(2)))})
    index = json.loads((tmp_path / checkpoint.INDEX).read_text())
    index["weight_map"]["vision_tower.patch"] = "extra.safetensors"
    (tmp_path / checkpoint.INDEX).write_text(json.dumps(index))
    found = checkpoint.load(tmp_path, ModelConfig.from_folder(tmp_path))
    assert np.array_equal(found.weight("lm_head.weight"), values["lm_head.weight"])


def altered(folder: Path, change: dict[str, Raw | None], **config: Any) -> None:
    """The bf16 checkpoint with tensors added, replaced or (None) left out, and values of its config.json changed."""
    make(folder, "bf16")
    found = checkpoint.load(folder)
    tensors: dict[str, Raw | None] = {n: (t.dtype, t.bits.shape, t.bits.tobytes()) for n, t in found.items()}
    tensors |= change
    write_file(folder / "model.safetensors", {name: raw for name, raw in tensors.items() if raw is not None})
    data = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(data))


def opened(folder: Path) -> None:
    checkpoint.load(folder, ModelConfig.from_folder(folder))


EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
VECTOR: Raw = ("BF16", (2,), bf16(np.ones(2)))


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        ({EXPERT: None}, {}, rf"lacks {EXPERT}; it is incomplete"),
        ({EXPERT: VECTOR}, {}, rf"model\.safetensors: {EXPERT} is \[2\], config\.json says \[64, 160\]"),
        ({EXPERT: ("I16", (64, 160), bytes(20480))}, {}, rf"{EXPERT} is I16, must be BF16 or"),
        ({EXPERT: ("F8_E4M3", (64, 160), bytes(10240))}, {}, rf"lacks {EXPERT}_scale_inv"),
        ({f"{EXPERT}_packed": ("I32", (64, 20), bytes(5120))}, {}, "lacks .*_scale; .*_shape"),
        ({"model.layers.1.mlp.odd": VECTOR}, {}, r"knows nothing of: model\.safetensors: model\.layers\.1\.mlp\.odd"),
        ({"model.layers.3.eh_proj.weight": VECTOR}, {}, "knows nothing of"),
        ({}, {"num_hidden_layers": 4}, r"lacks model\.layers\.3.* more"),
        ({}, {"attention_bias": True}, "attention biases"),
        ({}, {"quantization_config": {"quant_method": "awq"}}, r"kind openk2 cannot read \(see its quant_method\)"),
    ],
)
def test_what_does_not_fit_the_configuration(
    tmp_path: Path, change: dict[str, Raw | None], config: dict[str, Any], says: str
) -> None:
    altered(tmp_path, change, **config)
    with pytest.raises(UserError, match=says):
        opened(tmp_path)


def test_known_extras_are_left_unread(tmp_path: Path) -> None:
    extras: dict[str, Raw | None] = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": VECTOR,
        "model.layers.3.eh_proj.weight": VECTOR,
        "lm_head.weight": ("BF16", (96, 160), bytes(96 * 160 * 2)),
    }
    altered(tmp_path, extras, num_nextn_predict_layers=1, tie_word_embeddings=True)
    opened(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "bits"), [("BF16", 0x7FC0), ("BF16", 0xFF80), ("F16", 0x7C00), ("F32", 0x7F800001), ("F8_E4M3", 0xFF)]
)
def test_not_a_number_is_found_and_named(tmp_path: Path, dtype: str, bits: int) -> None:
    make(tmp_path, {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8"}[dtype])
    name = "model.layers.2.self_attn.o_proj.weight"
    entry = checkpoint.load(tmp_path).entries[name]
    data = bytearray(entry.file.read_bytes())
    width = safetensors.TYPES[dtype].itemsize
    data[entry.end - width : entry.end] = bits.to_bytes(width, "little")
    entry.file.write_bytes(data)
    opened(tmp_path)  # the headers are right
    with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds NaN or infinity"):
        checkpoint.check_values(tmp_path)


def test_int4_scales_and_shapes_are_checked_too(tmp_path: Path) -> None:
    make(tmp_path, "int4")
    entry = checkpoint.load(tmp_path).entries[f"{EXPERT}_shape"]
    data = bytearray(entry.file.read_bytes())
    data[entry.start] ^= 0x40
    entry.file.write_bytes(data)
    with pytest.raises(UserError, match=f"{EXPERT}_shape says"):
        checkpoint.check_values(tmp_path)


def test_shards_and_indexes_that_do_not_fit(tmp_path: Path) -> None:
    make(tmp_path, "bf16", 3)
    index = json.loads((tmp_path / checkpoint.INDEX).read_text())
    second = "model-00002-of-00003.safetensors"

    def says(message: str, **weight_map: Any) -> None:
        (tmp_path / checkpoint.INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | weight_map}))
        with pytest.raises(UserError, match=message):
            checkpoint.load(tmp_path)

    says(rf"{second} lacks invented", invented=second)
    says(r"lacks model-00009\.safetensors, which", invented="model-00009.safetensors")
    says(r"'\.\./x\.safetensors', which is not a file of its folder", invented="../x.safetensors")
    says("has no weight_map", invented=3)
    says(f"{second} lacks model.norm.weight", **{"model.norm.weight": second})
    (tmp_path / checkpoint.INDEX).write_text("[]")
    with pytest.raises(UserError, match="not one JSON object"):
        checkpoint.load(tmp_path)
    (tmp_path / checkpoint.INDEX).unlink()
    checkpoint.load(tmp_path)  # complete shards need no index
    (tmp_path / second).rename(tmp_path / "kept")
    with pytest.raises(UserError, match=rf"lacks {second}; copy"):
        checkpoint.load(tmp_path)
    (tmp_path / "kept").rename(tmp_path / second)
    (tmp_path / "twice.safetensors").write_bytes((tmp_path / second).read_bytes())
    with pytest.raises(UserError, match=rf"lies in both .*{second} and .*twice\.safetensors"):
        checkpoint.load(tmp_path)


def raw_file(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "says"),
    [
        ({"a": entry(0, 4), "b": entry(2, 6)}, 6, "b overlaps a"),
        ({"a": entry(0, 4), "b": entry(6, 8)}, 8, "b lies after a gap"),
        ({"a": entry(0, 4)}, 3, "cut short: a ends at byte"),
        ({"a": entry(0, 4)}, 5, "1 bytes longer than its header"),
        ({"a": entry(0, 4, [5])}, 4, r"a is U8 \[5\] but has 4 bytes"),
        ({"a": entry(0, 4, [-2, -2])}, 4, "cannot be read .* of a is not"),
        ({"a": entry(0, 4, [2, True])}, 4, "cannot be read .* of a is not"),
        ({"a": entry(0, 4, dtype="F4")}, 4, "stores a as F4"),
        ({"a": {**entry(0, 4), "data_offsets": [0]}}, 4, "cannot be read .* of a is not"),
        ({"a": {**entry(0, 4), "data_offsets": [4, 0]}}, 4, "cannot be read .* of a is not"),
        (b'{"a": 1, "a": 2}', 0, "names a twice"),
        (b"\xff\xfe", 0, "cannot be read"),
        (b"[" * 100_000, 0, "cannot be read"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: Any, size: int, says: str) -> None:
    raw_file(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(UserError, match=says):
        checkpoint.load(tmp_path)


def test_a_header_larger_than_the_format_allows_or_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", safetensors.MAX_HEADER + 1) + bytes(100))
    with pytest.raises(UserError, match="header would be 100000001 bytes"):
        checkpoint.load(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1000) + bytes(100))
    with pytest.raises(UserError, match="cut short within its header"):
        checkpoint.load(tmp_path)


def test_random_damage_is_a_sentence_or_leaves_every_header_true(tmp_path: Path) -> None:
    """800 mutations of a file's beginning and its length: a UserError, or what is read has its shapes and sizes."""
    make(tmp_path, "int4")
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(11)
    refused = 0
    for round in range(800):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, 16 if round % 5 == 0 else head))
            how = rng.integers(0, 4)
            if how == 0:
                data[at] = int(rng.integers(0, 256))
            elif how == 1:
                data[at] ^= 1 << int(rng.integers(0, 8))
            elif how == 2:
                data[at] = b'0123456789[]{},:"eE-.'[int(rng.integers(0, 21))]
            else:
                cut = int(rng.integers(0, len(data)))
                del data[cut : cut + int(rng.integers(1, 64))]
        path.write_bytes(data)
        try:
            found = checkpoint.load(tmp_path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
            continue
        size = sum(t.bits.nbytes for t in found.values())
        assert size == path.stat().st_size - 8 - int.from_bytes(data[:8], "little")
    assert refused > 500


def test_opening_kimi_k2_thinking_costs_nothing(tmp_path: Path) -> None:
    """All 208,215 tensors of the real shapes in 62 shards of 594 GB that occupy next to no disk: header only."""
    config = ModelConfig.preset("kimi-k2-thinking")
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for name, shape in weights(config).items():
        if ".experts." in name:
            tensors += [(f"{name}_packed", "I32", (shape[0], shape[1] // 8)), (f"{name}_shape", "I32", (2,)),
                        (f"{name}_scale", "BF16", (shape[0], shape[1] // 32))]  # fmt: skip
        else:
            tensors.append((name, "F32" if name.endswith("bias") else "BF16", shape))
    index: dict[str, str] = {}
    per = -(-len(tensors) // 62)
    for number in range(62):
        part = tensors[number * per : (number + 1) * per]
        file = f"model-{number + 1:05}-of-00062.safetensors"
        first, _, size = safetensors.layout(part)
        with (tmp_path / file).open("wb") as out:
            out.write(first)
            try:
                out.truncate(size)
            except OSError:
                pytest.skip("the file system has no sparse files")
        index |= {name: file for name, _, _ in part}
    if sum(f.stat().st_blocks * 512 for f in tmp_path.iterdir()) > 1e9:
        pytest.skip("the file system has no sparse files")
    (tmp_path / checkpoint.INDEX).write_text(json.dumps({"weight_map": index}))
    start = time.process_time()
    found = checkpoint.load(tmp_path, config)
    seconds = time.process_time() - start
    assert len(found) == 208_215
    assert sum(e.bytes for e in found.entries.values()) == pytest.approx(594e9, rel=2e-3)
    assert seconds < 15, seconds
    last = found["model.layers.60.mlp.experts.383.down_proj.weight_packed"]
    assert last.bits.shape == (7168, 256) and not last.bits[-1].any()


def test_expected_names_are_transformers_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for changes in ({"q_lora_rank": None, "n_shared_experts": 2}, {"first_k_dense_replace": 2}):
        config = ModelConfig(**{**CONFIG.__dict__, **changes})
        model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**config.to_hf()))
        model.save_pretrained(tmp_path / "x")
        check(checkpoint.load(tmp_path / "x").entries, config)


def test_int4_of_other_kinds_is_refused() -> None:
    group = INT4_CONFIG["config_groups"]["group_0"]
    for change in ({"num_bits": 8}, {"symmetric": False}, {"type": "float"}, {"actorder": "group"}):
        quantised = {**INT4_CONFIG, "config_groups": {"group_0": {**group, "weights": {**group["weights"], **change}}}}
        with pytest.raises(UserError, match=f"see its {next(iter(change))}"):
            check({}, ModelConfig(**{**CONFIG.__dict__, "quantization_config": quantised}))
