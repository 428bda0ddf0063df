"""From a training run to checkpoint folders: bf16, or INT4 experts as compressed-tensors' pack-quantized.

k2 model export out/run1 out/nano
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openk2.model.checkpoint import TOKENIZER_FILES, Stored, save
from openk2.model.config import ModelConfig, read_object
from openk2.model.convert import target
from openk2.model.expected import BIAS, EXPERT
from openk2.quant.int4 import quantize
from openk2.quant.packing import pack
from openk2.train.checkpoint import initial_weights


def stored(tensors: dict[str, torch.Tensor], int4: bool) -> dict[str, Stored]:
    """Checkpoint tensors of float32 weights: bf16, the router's bias float32, routed experts INT4 if `int4`."""
    result: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        if int4 and EXPERT.search(name):
            q, scale = quantize(tensor)
            result[f"{name}_packed"] = Stored.of(pack(q.numpy()))
            result[f"{name}_scale"] = Stored("BF16", scale.contiguous().view(torch.uint16).numpy())
            result[f"{name}_shape"] = Stored.of(np.array(tensor.shape, np.int64))
        elif name.endswith(BIAS):
            result[name] = Stored.of(tensor.float().numpy())
        else:
            result[name] = Stored("BF16", tensor.bfloat16().contiguous().view(torch.uint16).numpy())
    return result


def export(
    config: ModelConfig, tensors: dict[str, torch.Tensor], out: Path, *, int4: bool,
    tokenizer: Path | None = None, profile: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint folder. Raises UserError when an expert's width does not divide into groups of 32."""
    save(out, target(config, "int4" if int4 else "bf16"), stored(tensors, int4), tokenizer=tokenizer, profile=profile)


def export_run(
    run: Path, out: Path, *, int4: bool, tokenizer: Path | None = None, profile: Path | None = None,
    untie: bool = False,
) -> str:  # fmt: skip
    """Export the last state of a training run, or a bf16 checkpoint; returns one line that says what was written.

    `untie` writes a head that is tied to the embedding a second time, as a matrix of its own.
    """
    config, tensors = initial_weights(run)
    if untie and config.tie_word_embeddings:
        config = replace(config, tie_word_embeddings=False)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    if tokenizer is None and all((run / name).exists() for name in TOKENIZER_FILES):
        tokenizer = run
    data = read_object(profile) if profile else None
    export(config, tensors, out, int4=int4, tokenizer=tokenizer, profile=data)
    size = sum(file.stat().st_size for file in out.iterdir())
    return f"{out}: {config.count().total / 1e6:.1f}M parameters, {size / 1e6:.1f} MB"
