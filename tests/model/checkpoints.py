"""Random checkpoints in every form the family is released in, written by this file alone: the reader's oracle."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.expected import EXPERT, weights

CONFIG = ModelConfig(
    hidden_size=160, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192, moe_intermediate_size=64,
    n_routed_experts=4, num_experts_per_tok=2, vocab_size=96, kv_lora_rank=32, q_lora_rank=32, qk_nope_head_dim=32,
    qk_rope_head_dim=16, v_head_dim=32, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
Raw = tuple[str, tuple[int, ...], bytes]  # type, shape, data


def write_file(path: Path, tensors: dict[str, Raw]) -> None:
    """safetensors by hand."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def bf16(values: np.ndarray) -> bytes:
    return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


def make(
    folder: Path, form: str, shards: int = 1, prefix: str = "", config: ModelConfig = CONFIG
) -> dict[str, np.ndarray]:
    """Write a checkpoint of form bf16, fp32, fp16, fp8 or int4 and return the exact float32 values of its weights."""
    import torch

    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Raw] = {}
    values: dict[str, np.ndarray] = {}
    for name, shape in weights(config).items():
        value = (rng.standard_normal(shape) * 0.05).astype(np.float32)
        matrix = "_proj.weight" in name
        if form == "int4" and EXPERT.search(name):
            q = rng.integers(-8, 8, shape)
            scale = (rng.standard_normal((shape[0], shape[1] // 32)) * 0.01).astype(np.float32)
            scale = (scale.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            words = np.zeros((shape[0], shape[1] // 8), np.int64)
            for i in range(8):
                words |= (q[:, i::8] + 8) << (4 * i)
            tensors[f"{name}_packed"] = ("I32", words.shape, words.astype("<u4").tobytes())
            tensors[f"{name}_scale"] = ("BF16", scale.shape, bf16(scale))
            tensors[f"{name}_shape"] = ("I32", (2,), np.array(shape, "<i4").tobytes())
            value = (q.reshape(shape[0], -1, 32) * scale[..., None]).astype(np.float32).reshape(shape)
        elif form == "fp8" and matrix:
            factors = tuple(-(-n // 128) for n in shape)
            scale = rng.uniform(1e-4, 1e-3, factors).astype(np.float32)
            code = torch.from_numpy(rng.standard_normal(shape) * 100).to(torch.float8_e4m3fn)
            tensors[name] = ("F8_E4M3", shape, code.view(torch.uint8).numpy().tobytes())
            tensors[f"{name}_scale_inv"] = ("F32", factors, scale.tobytes())
            value = code.float().numpy() * np.kron(scale, np.ones((128, 128), np.float32))[: shape[0], : shape[1]]
        elif form == "fp32" or name.endswith("correction_bias"):
            tensors[name] = ("F32", shape, value.tobytes())
        elif form == "fp16":
            tensors[name] = ("F16", shape, value.astype("<f2").tobytes())
            value = value.astype(np.float16).astype(np.float32)
        else:
            tensors[name] = ("BF16", shape, bf16(value))
            value = (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        values[name] = value
    tensors = {prefix + name: raw for name, raw in tensors.items()}
    names = list(tensors)
    if shards == 1:
        write_file(folder / "model.safetensors", tensors)
    else:
        index = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = names[number::shards]
            write_file(folder / file, {name: tensors[name] for name in part})
            index |= dict.fromkeys(part, file)
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
    data = config.to_hf() | {"quantization_config": {"int4": INT4_CONFIG, "fp8": FP8}.get(form)}
    if prefix:
        data = {"model_type": "kimi_k25", "text_config": data}
    (folder / "config.json").write_text(json.dumps(data))
    return values
