"""What the kernels compute for a token does not depend, to the last bit, on what else is in the step."""

from __future__ import annotations

from ctypes import CDLL
from pathlib import Path

import numpy as np
import pytest
from test_session import CONFIG, random_tensors  # type: ignore[import-not-found]

from openk2.engine.forward import Forward
from openk2.engine.kernels.native import Native
from openk2.engine.weights import Weights
from openk2.model.checkpoint import save
from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.safetensors import Stored
from openk2.quant import packing


def stored(kind: str) -> dict[str, Stored]:
    tensors = {}
    for name, tensor in random_tensors().items():
        if kind == "int4" and ".experts." in name:
            groups = tensor.reshape(tensor.shape[0], -1, packing.GROUP)
            scale = Stored.bf16(np.abs(groups).max(-1) / 7.5)
            q = np.clip(np.round(groups / scale.float32()[..., None]), -8, 7).astype(np.int8)
            tensors[name + "_packed"] = Stored.of(packing.pack(q.reshape(tensor.shape)))
            tensors[name + "_scale"] = scale
            tensors[name + "_shape"] = Stored.of(np.array(tensor.shape, np.int64))
        else:
            tensors[name] = Stored.of(tensor.astype(np.float32)) if kind == "fp32" else Stored.bf16(tensor)
    return tensors


@pytest.mark.parametrize("kind", ["bf16", "fp32", "int4"])
def test_rows_do_not_see_their_neighbours(kind: str, kernels: CDLL, tmp_path: Path) -> None:
    more = {"quantization_config": INT4_CONFIG} if kind == "int4" else {}
    config = ModelConfig(**{**vars(CONFIG), **more})
    save(tmp_path, config, stored(kind))
    weights = Weights.load(tmp_path, config)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 150).tolist()
    sizes = [1, 2, 3, 5, 7]
    if kind != "int4" or kernels.k2_lanes() == 16:  # with fewer lanes many tokens meet unpacked INT4 in another order
        sizes += [25, 64, 150]
    results = []
    for threads in (1, 2):
        forward = Forward(config, weights, Native(kernels, config, weights, threads))
        for size in sizes:
            cache = forward.cache()
            hidden = [forward.run(ids[at : at + size], cache) for at in range(0, 150, size)]
            results.append(np.concatenate(hidden))
        # Beside nine others of other lengths.
        caches = [forward.cache() for _ in range(10)]
        for n, cache in enumerate(caches[1:]):
            forward.run(ids[: 3 * n + 1], cache)
        beside = [forward.run_many([(ids[at : at + 1], c) for c in caches])[0] for at in range(150)]
        results.append(np.concatenate(beside))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    logits = forward.logits(results[0])
    np.testing.assert_array_equal(np.stack([forward.logits(row) for row in results[0]]), logits)
