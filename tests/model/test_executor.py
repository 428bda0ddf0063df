"""The torch executor against the numpy twin, over the same cache protocol, and under the scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the executor is torch")

from twins import TWINS, config, network  # type: ignore[import-not-found]  # noqa: E402

from openk2.engine import Engine, Request  # noqa: E402
from openk2.engine.forward import Forward  # noqa: E402
from openk2.engine.twin import Twin  # noqa: E402
from openk2.engine.weights import Weights  # noqa: E402
from openk2.model.checkpoint import load, save  # noqa: E402
from openk2.model.executor import TorchExecutor  # noqa: E402
from openk2.model.safetensors import Stored  # noqa: E402
from openk2.quant.packing import dequantize, pack, quantize, scale_bits  # noqa: E402

WINDOW = 1024


def folder_of(name: str, folder: Path) -> Path:
    tensors = network(name, max_position_embeddings=WINDOW).tensors()
    stored = {key: Stored.of(tensor.detach().numpy()) for key, tensor in tensors.items()}
    save(folder, config(name, max_position_embeddings=WINDOW), stored)
    return folder


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 128, count).tolist()


@pytest.mark.parametrize("name", TWINS)
def test_logits_equal_the_numpy_twin(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path)
    shape = config(name, max_position_embeddings=WINDOW)
    weights = Weights.load(folder, shape)
    twin = Forward(shape, weights, Twin(shape, weights))
    here = Forward(shape, weights, TorchExecutor.load(folder, dtype=torch.float32))
    caches = [[forward.cache() for _ in range(3)] for forward in (twin, here)]
    # Prompts, single tokens, and both in the same step; over the border of a block.
    for step in ([100, 7, 1], [1, 1, 1], [90, 1, 30], [1, 5, 120], [1, 1, 1]):
        new = [ids(count, seed) for seed, count in enumerate(step)]
        expected, got = (
            [forward.logits(h) for h in forward.run_many(list(zip(new, own, strict=True)))]
            for forward, own in zip((twin, here), caches, strict=True)
        )
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(b, a, atol=1e-4 * max(1, np.abs(a).max()))
    for a, b in zip(*caches, strict=True):
        assert a.length == b.length
        np.testing.assert_allclose(b.rows(2, b.length), a.rows(2, a.length), atol=1e-4 * np.abs(a.rows(2, 9)).max())


@pytest.mark.parametrize("scales", ["BF16", "F32"])
def test_int4_experts_stay_packed_and_equal_their_values(tmp_path: Path, scales: str) -> None:
    shape = config("q_lora", max_position_embeddings=WINDOW)
    packed, plain = {}, {}
    for name, tensor in network("q_lora", max_position_embeddings=WINDOW).tensors().items():
        values = tensor.detach().numpy()
        if ".experts." in name:
            q, scale = quantize(values)
            if scales == "F32":
                scale = scale * np.float32(1.001)  # not exact in bf16
            packed[f"{name}_packed"] = Stored.of(pack(q))
            packed[f"{name}_scale"] = Stored.of(scale) if scales == "F32" else Stored("BF16", scale_bits(scale))
            packed[f"{name}_shape"] = Stored.of(np.array(values.shape, np.int64))
            plain[name] = Stored.of(dequantize(pack(q), scale, values.shape[1]))
        else:
            packed[name] = plain[name] = Stored.of(values)
    made = []
    for folder, tensors in ((tmp_path / "packed", packed), (tmp_path / "plain", plain)):
        save(folder, shape, tensors)
        made.append(TorchExecutor(shape, load(folder), dtype=torch.float32))
    weights = Weights.load(tmp_path / "plain", shape)
    twin, *here = (Forward(shape, weights, executor) for executor in (Twin(shape, weights), *made))
    expected, *got = (f.logits(f.run_many([(ids(150), f.cache())])[0]) for f in (twin, *here))
    for logits in got:
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    small, large = (sum(t.nbytes for t in expert_tensors(executor)) for executor in made)
    assert small == large * ((4 + 16 / 32) if scales == "BF16" else (4 + 32 / 32)) / 32
    half = TorchExecutor(shape, load(tmp_path / "packed"), dtype=torch.bfloat16)
    assert sum(t.nbytes for t in expert_tensors(half)) == small  # whatever type the products have


def expert_tensors(executor: Any) -> list[Any]:
    stacks = [stack for layer in executor._layers if layer.experts for stack in layer.experts]
    return [value for stack in stacks for value in vars(stack).values() if isinstance(value, torch.Tensor)]


def test_many_replies_and_a_restart(tmp_path: Path) -> None:
    folder = folder_of("q_lora", tmp_path / "model")
    shape = config("q_lora", max_position_embeddings=WINDOW)
    weights = Weights.load(folder, shape)
    prompts = [ids(40 + 37 * n, n) for n in range(8)]
    made = []
    for executor in (Twin(shape, weights), TorchExecutor.load(folder, dtype=torch.float32)):
        engine = Engine(shape, weights, executor=executor)
        requests = [engine.submit(Request(prompt, max_tokens=12)) for prompt in prompts]
        made.append([request.result().ids for request in requests])
    assert made[0] == made[1]
    # bf16 blocks come back from a file as they were.
    first = Engine(shape, weights, executor=TorchExecutor.load(folder))
    session = first.session()
    session.append(ids(300))
    first.save(tmp_path / "kept", [session])
    again = Engine(shape, weights, executor=TorchExecutor.load(folder))
    (restored,) = again.restore(tmp_path / "kept")
    assert restored.cached == 299
    np.testing.assert_array_equal(restored.logits, first.session(ids(300)).logits)
    assert first.session().engine.scheduler.load.cache_bytes == 2 * 3 * 3 * 128 * 40


def test_bf16_is_near_float32(tmp_path: Path) -> None:
    folder = folder_of("plain", tmp_path)
    shape = config("plain", max_position_embeddings=WINDOW)
    weights = Weights.load(folder, shape)
    exact, rough = (
        Engine(shape, weights, executor=TorchExecutor.load(folder, dtype=dtype)).session(ids(200)).logits
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert np.corrcoef(exact, rough)[0, 1] > 0.98
