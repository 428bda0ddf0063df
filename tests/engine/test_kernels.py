"""The kernels against numpy: products of every format, the whole network; and what happens without a compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_session import CONFIG, random_tensors

from openk2.engine import kernels as loader
from openk2.engine.cache import BLOCK, LatentCache
from openk2.engine.forward import Forward
from openk2.engine.kernels.build import build
from openk2.engine.kernels.native import Native, declare, multiply, thread_count
from openk2.engine.twin import Twin
from openk2.engine.weights import Matrix, Weights
from openk2.errors import UserError
from openk2.model.checkpoint import save
from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.safetensors import Stored
from openk2.quant import packing

YARN = {
    "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 0.8,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "q_lora_yarn": {"q_lora_rank": 40, "rope_scaling": YARN},
    "groups_two_shared": {"n_group": 4, "topk_group": 2, "n_shared_experts": 2, "routed_scaling_factor": 2.5},
    "no_shared_all_dense_but_one": {"n_shared_experts": 0, "first_k_dense_replace": 2, "norm_topk_prob": False},
    "odd_sizes": {
        "hidden_size": 69, "num_attention_heads": 5, "intermediate_size": 37, "moe_intermediate_size": 33,
        "kv_lora_rank": 21, "qk_nope_head_dim": 11, "qk_rope_head_dim": 6, "v_head_dim": 9, "vocab_size": 101,
        "tie_word_embeddings": False,
    },
    "many_heads": {"num_attention_heads": 20, "kv_lora_rank": 96, "hidden_size": 96},
}  # fmt: skip


@pytest.fixture(scope="module", params=["auto", "avx2", "portable"])
def target(request: pytest.FixtureRequest) -> ctypes.CDLL:
    if isinstance(loader.plan(), str):
        pytest.skip("no compiler")
    if request.param == "avx2" and "avx2" not in loader._processor():
        pytest.skip("this processor has no AVX2")
    return declare(ctypes.CDLL(str(build(request.param))))


def matrix(kind: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, columns)).astype(np.float32)
    if kind == "fp32":
        return Matrix(values, None, values.shape)
    if kind == "bf16":
        return Matrix(Stored.bf16(values).bits, None, values.shape)
    scale = Stored.bf16(rng.normal(size=(rows, columns // int(kind[3:])))).bits  # of both signs
    return Matrix(packing.pack(rng.integers(-8, 8, values.shape).astype(np.int8)), scale, values.shape)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int32", "int64", "int96", "exact int32", "exact int96"])
def test_products(target: ctypes.CDLL, kind: str) -> None:
    exact_mode, kind = kind.startswith("exact"), kind.split()[-1]
    rng = np.random.default_rng(1)
    sizes = [(1, 192), (7, 384), (50, 192)] if kind.startswith("int") else [(1, 1), (7, 33), (50, 130), (9, 15)]
    for rows, columns in sizes:
        weight = matrix(kind, rows, columns)
        exact = weight.float32().astype(np.float64)
        for tokens in (1, 2, 3, 5, 6, 7, 13, 40):
            x = rng.normal(size=(tokens, columns)).astype(np.float32)
            size = np.abs(x).astype(np.float64) @ np.abs(exact).T
            if (
                kind.startswith("int") and not exact_mode
            ):  # activations of 16 bits: each off by 1/65534 of the largest, at most
                size += 16 * np.abs(x).max(1, keepdims=True) @ np.abs(exact).sum(1)[None]
            for threads in (1, 3):
                got = multiply(target, weight, x, threads, exact_mode)
                assert (np.abs(got - x.astype(np.float64) @ exact.T) <= 1e-6 * size + 1e-30).all(), (rows, tokens)


def weights_of(folder: Path, changes: dict[str, Any], packed: bool = True) -> tuple[ModelConfig, Weights]:
    """A random checkpoint, its routed experts in INT4 where their sizes allow it, all else in bf16."""
    config = ModelConfig(**{**vars(CONFIG), **changes})
    stored: dict[str, Stored] = {}
    for name, tensor in random_tensors(config).items():
        if packed and ".experts." in name and tensor.shape[1] % packing.GROUP == 0:
            q, scale = packing.quantize(tensor.astype(np.float32))
            stored |= {f"{name}_packed": Stored.of(packing.pack(q)), f"{name}_scale": Stored.bf16(scale),
                       f"{name}_shape": Stored.of(np.array(tensor.shape, np.int64))}  # fmt: skip
        else:
            stored[name] = Stored.bf16(tensor.astype(np.float32))
    config = ModelConfig(**{**vars(config), "quantization_config": INT4_CONFIG if packed else None})
    save(folder, config, stored)
    return config, Weights.load(folder, config)


def cache_of(config: ModelConfig) -> LatentCache:
    return LatentCache(config.num_hidden_layers, config.kv_lora_rank + config.qk_rope_head_dim)


def ids(count: int, config: ModelConfig, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).tolist()


def logits(forward: Forward, pieces: list[list[int]]) -> np.ndarray:
    cache = cache_of(forward.config)
    return np.concatenate([forward.logits(forward.run(piece, cache)) for piece in pieces])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_equals_its_twin(tmp_path: Path, target: ctypes.CDLL, shape: str, threads: int) -> None:
    config, weights = weights_of(tmp_path, SHAPES[shape])
    twin = Forward(config, weights, Twin(config, weights))
    text = ids(BLOCK + 40, config)
    expected = logits(twin, [text])
    assert np.abs(expected).max() > 1
    for exact, allowed in ((True, 1e-4), (False, 1e-4 * np.abs(expected).max())):
        native = Forward(config, weights, Native(target, config, weights, threads, exact))
        for cut in (len(text), 100, 0):
            pieces = [text[:cut], *([token] for token in text[cut:])] if cut else [text[:3], *([t] for t in text[3:])]
            np.testing.assert_allclose(logits(native, pieces), expected, atol=allowed)


def test_batches_equal_each_sequence_alone(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    """Prefill and decoding of sequences of different lengths in one call, prefill longer than a step among them."""
    config, weights = weights_of(tmp_path, {"max_position_embeddings": 600})
    texts = [ids(n, config, n) for n in (1, 300, 17, 2, 130, 64, 5, 290)]
    for executor in (Twin(config, weights), Native(kernels, config, weights, 2)):
        forward = Forward(config, weights, executor)
        caches = [cache_of(config) for _ in texts]
        first = forward.run_many(list(zip(texts, caches, strict=True)))
        then = forward.run_many([(ids(1, config, 50 + i), cache) for i, cache in enumerate(caches)])
        for i, text in enumerate(texts):
            alone = cache_of(config)
            np.testing.assert_allclose(first[i], forward.run(text, alone), atol=2e-5)
            np.testing.assert_allclose(then[i], forward.run(ids(1, config, 50 + i), alone), atol=2e-5)
            assert caches[i].length == len(text) + 1
    assert forward.run_many([]) == []


def test_a_long_cache(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    config, weights = weights_of(tmp_path, {"max_position_embeddings": 5000, "num_hidden_layers": 1})
    text = ids(2000, config)
    results = []
    for executor in (Twin(config, weights), Native(kernels, config, weights, 1)):
        forward, cache = Forward(config, weights, executor), cache_of(config)
        forward.run(text, cache)
        results.append(forward.logits(forward.run([7], cache)))
    np.testing.assert_allclose(*results, atol=1e-4)


def test_sharp_attention_does_not_overflow(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    """Scores in the hundreds, as a model with unclipped queries has them: what is nearly equal may change places."""
    tensors = {n: t * (100 if "q_proj" in n else 1) for n, t in random_tensors().items()}
    save(tmp_path, CONFIG, {name: Stored.bf16(t) for name, t in tensors.items()})
    weights = Weights.load(tmp_path, CONFIG)
    text = ids(280, CONFIG)
    expected, got = (
        logits(Forward(CONFIG, weights, executor), [text[:200], *([t] for t in text[200:])])
        for executor in (Twin(CONFIG, weights), Native(kernels, CONFIG, weights, 1))
    )
    assert np.isfinite(expected).all()
    assert np.isfinite(got).all()
    assert np.median(np.abs(got - expected)) < 1e-4


@pytest.mark.parametrize("where", ["embed_tokens", "kv_a_proj", "mlp.gate.weight", "experts.3.up_proj", "lm_head"])
def test_nan_reaches_the_logits_of_its_sequence_and_of_no_other(
    tmp_path: Path, kernels: ctypes.CDLL, where: str
) -> None:
    tensors = random_tensors(ModelConfig(**{**vars(CONFIG), "num_experts_per_tok": 8}))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    for name, tensor in tensors.items():
        if where in name:
            tensor[5:6] = np.nan
    config = ModelConfig(**{**vars(CONFIG), "num_experts_per_tok": 8, "tie_word_embeddings": False})
    stored = {name: Stored("BF16", np.where(np.isnan(t), 0x7FC0, Stored.bf16(t).bits).astype(np.uint16))
              for name, t in tensors.items()}  # fmt: skip
    save(tmp_path, config, stored)
    weights = Weights.load(tmp_path, config)
    forward = Forward(config, weights, Native(kernels, config, weights, 1))
    damaged, sound = forward.run_many([([1, 5, 2], cache_of(config)), ([1, 4, 2], cache_of(config))])
    assert np.isnan(forward.logits(damaged[-1])).any()
    assert np.isnan(forward.logits(sound[-1])).any() == (where != "embed_tokens")


def test_many_python_threads_at_once(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    config, weights = weights_of(tmp_path, {})
    forward = Forward(config, weights, Native(kernels, config, weights, 3))
    expected = [logits(forward, [ids(40, config, i)]) for i in range(6)]
    wrong = []

    def work(i: int) -> None:
        for _ in range(5):
            got = logits(forward, [ids(40, config, i)[:30], *([t] for t in ids(40, config, i)[30:])])
            if np.abs(got - expected[i]).max() > 1e-4:
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_computes_without_the_threads_of_its_parent(tmp_path: Path, kernels: ctypes.CDLL) -> None:
    config, weights = weights_of(tmp_path, {})
    forward = Forward(config, weights, Native(kernels, config, weights, 3))
    expected = logits(forward, [ids(30, config)])
    child = os.fork()
    if child == 0:
        os._exit(int(not np.allclose(logits(forward, [ids(30, config)]), expected, atol=1e-5)))
    assert os.waitpid(child, 0)[1] == 0


def test_a_fork_shares_full_blocks_and_copies_the_rest() -> None:
    cache = LatentCache(2, 3)
    cache.reserve(2 * BLOCK + 5)
    rows = np.arange((2 * BLOCK + 5) * 3, dtype=np.float32).reshape(-1, 3)
    for layer in (0, 1):
        cache.write(layer, 0, rows[: BLOCK + 9])
        cache.write(layer, BLOCK + 9, rows[BLOCK + 9 :])
    cache.length = len(rows)
    twin = cache.fork(BLOCK + 7)
    twin.reserve(BLOCK + 8)
    assert twin.blocks[0] is cache.blocks[0]
    twin.write(1, BLOCK + 7, np.full((1, 3), -1, np.float32))
    np.testing.assert_array_equal(cache.rows(1, len(rows)), rows)
    np.testing.assert_array_equal(twin.rows(1, BLOCK + 7), rows[: BLOCK + 7])
    assert twin.addresses[1] == twin.blocks[1].ctypes.data
    for length in (0, BLOCK, 2 * BLOCK):
        np.testing.assert_array_equal(cache.fork(length).rows(0, length) if length else rows[:0], rows[:length])


# --- building -----------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENK2_KERNELS", raising=False)
    monkeypatch.setattr(loader, "LOOK_AGAIN", 0.0)
    monkeypatch.setattr(loader._State, "setting", None)
    monkeypatch.setattr(loader._State, "build", None)
    return tmp_path / "cache" / "openk2" / "kernels"


def compiler(folder: Path, script: str) -> str:
    """A command that stands in the compiler's place."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


COPY = 'while [ "$1" != -o ]; do shift; done\ncp {} "$2"'


def test_two_processes_build_at_once_and_a_third_only_loads(
    empty_cache: Path, tmp_path: Path, built_kernels: Path | None
) -> None:
    """The compiler copies a built library here, so slowly that both are at it."""
    if built_kernels is None:
        pytest.skip("no compiler")
    log = tmp_path / "runs"
    wait = f"echo x >> {log}\nwhile [ $(wc -l < {log}) -lt 2 ]; do sleep 0.05; done\n"
    environment = {**os.environ, "CXX": compiler(tmp_path, wait + COPY.format(built_kernels))}
    command = [sys.executable, "-m", "openk2.engine.kernels.build"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0] for process in both}
    assert len(paths) == 1
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout in paths
    assert log.read_text().count("x") == 2
    assert [path.suffix for path in empty_cache.iterdir()] == [".so"]


def test_numpy_serves_until_the_build_beside_is_done(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built_kernels: Path | None
) -> None:
    """The build is a copy of a built library here, released when the first texts have been read."""
    if built_kernels is None:
        pytest.skip("no compiler")
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.05; done\n"
    monkeypatch.setenv("CXX", compiler(tmp_path, wait + COPY.format(built_kernels)))
    config, weights = weights_of(tmp_path / "model", {})
    forward = Forward(config, weights)
    text = ids(30, config)
    cache = cache_of(config)
    before = forward.run(text, cache)
    assert isinstance(forward._executor, Twin)
    works, said = loader.status()
    assert not works
    assert "being built" in said
    go.touch()
    deadline = time.monotonic() + 60
    while loader.library() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    forward.run([3], cache)
    assert isinstance(forward._executor, Twin)  # a text ends as it began
    np.testing.assert_allclose(forward.run(text, cache_of(config)), before, atol=3e-4)
    assert isinstance(forward._executor, Native)
    assert loader.status()[0]


@pytest.mark.parametrize(
    "script", ["echo 'x.h:1: error: no such luck' >&2; exit 1", "exit 0"], ids=["error", "nothing"]
)
def test_a_failed_build_leaves_numpy_in_charge_and_is_not_repeated(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    stand_in = compiler(tmp_path, f'echo x >> "$0.runs"\n{script}')
    monkeypatch.setenv("CXX", stand_in)
    with pytest.raises(UserError, match="numpy serves"):
        build()
    monkeypatch.setattr(loader._State, "setting", None)
    assert loader.library() is None
    works, said = loader.status()
    assert not works
    assert "failed" in said
    assert "no such luck" in said or script == "exit 0"
    assert Path(stand_in + ".runs").read_text().count("x") == 1
    config, weights = weights_of(tmp_path / "model", {})
    forward = Forward(config, weights)
    forward.run([1, 2], cache_of(config))
    assert isinstance(forward._executor, Twin)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OPENK2_KERNELS", "off", "off"),
        ("OPENK2_KERNELS", "sse9", "use off, auto"),
        ("OPENK2_KERNELS", "/nowhere/kernels.so", "cannot be loaded"),
        ("CXX", "no-such-compiler", "no C++ compiler"),
    ],
)
def test_why_numpy_serves_is_said(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    assert loader.library() is None
    works, reason = loader.status()
    assert not works
    assert said in reason
    assert "numpy serves" in reason
    assert not empty_cache.exists()


def test_a_closed_cache_folder_is_not_fatal(empty_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="numpy serves"):
        build("portable")
    assert loader.library() is None


def test_a_library_that_others_may_write_is_not_run(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, built_kernels: Path | None
) -> None:
    found = loader.plan()
    if isinstance(found, str) or built_kernels is None:
        pytest.skip("no compiler")
    empty_cache.mkdir(parents=True, mode=0o700)
    found.path.write_bytes(built_kernels.read_bytes())
    found.path.chmod(0o666)
    assert loader.library() is None
    assert "remove it" in loader.status()[1]
    found.path.chmod(0o600)
    assert loader.library() is not None


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_count(10**9) == thread_count(1) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert thread_count(1) == 1
    assert thread_count(10**9) >= 1
