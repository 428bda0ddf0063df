"""llama.cpp itself loads our GGUF files and computes what our engine computes from the checkpoint they were made from.

llama.cpp multiplies f32 matrices with f32 activations, bf16 ones with activations rounded to bf16 (each by at most 2^-9
of itself) and q4_0 ones with activations rounded to 8 bits in blocks of 32. Hence two kinds of tests: all in f32, where
only the order of sums differs; and the stored types, where every value of the file counts but activations are coarse.
There all experts are used, since a rounded activation may choose another expert, and then every logit is another.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="the oracle is llama.cpp: pip install llama-cpp-python")
pytest.importorskip("torch", reason="the parity table is of torch too")
pytest.importorskip("transformers", reason="the parity table is of transformers too")
from networks import CONFIG, SHAPES, Uneven, made  # noqa: E402

from openk2.bench.parity import llama_logits  # noqa: E402
from openk2.chat.tokenizer import Tokenizer  # noqa: E402
from openk2.engine.forward import Forward  # noqa: E402
from openk2.engine.twin import Twin  # noqa: E402
from openk2.engine.weights import Weights  # noqa: E402
from openk2.export.gguf import export  # noqa: E402
from openk2.model.config import ModelConfig  # noqa: E402
from openk2.model.convert import convert, copy_extras  # noqa: E402
from openk2.paths import NANO  # noqa: E402

KIMI = Path(os.environ.get("OPENK2_DATA", "/nowhere")) / "kimi"
KIMI_YARN = {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 32, "beta_fast": 1.0,
             "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    **SHAPES,
    "k2": {"q_lora_rank": 32, "rope_scaling": KIMI_YARN, "max_position_embeddings": 1024},
    "thinking": {"q_lora_rank": 32, "rope_scaling": {**KIMI_YARN, "factor": 64.0}, "max_position_embeddings": 2048},
    "moonlight": {"num_hidden_layers": 27, "n_shared_experts": 2},  # taken for DeepSeek-V2-Lite's kind by its layers
    "eps": {"rms_norm_eps": 1e-5},
    "uneven_widths": {"qk_nope_head_dim": 16, "kv_lora_rank": 48, "v_head_dim": 24, "qk_rope_head_dim": 8},
}


def engine_logits(folder: Path, ids: list[int]) -> np.ndarray:
    config = ModelConfig.from_folder(folder)
    weights = Weights.load(folder, config)
    forward = Forward(config, weights, Twin(config, weights))
    return forward.logits(forward.run(ids, forward.cache()))


def both(
    tmp_path: Path, form: str, experts: str | None, dense: str, changes: dict[str, Any], **settings: Any
) -> tuple[np.ndarray, np.ndarray]:
    config = made(tmp_path / "in", form, **changes)
    export(tmp_path / "in", tmp_path / "x.gguf", experts, dense)
    if (fast := (config.rope_scaling or {}).get("beta_fast", 32.0)) != 32:
        settings = {"yarn_beta_fast": fast, **settings}
    return on_text(tmp_path, 0, **settings)


def on_text(tmp_path: Path, seed: int, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, 128, 200).tolist()
    return engine_logits(tmp_path / "in", ids), llama_logits(tmp_path / "x.gguf", ids, **settings)


@pytest.mark.parametrize("form", ["fp32", "int4"])
@pytest.mark.parametrize("network", NETWORKS)
def test_logits_in_f32(tmp_path: Path, network: str, form: str) -> None:
    ours, theirs = both(tmp_path, form, "f32", "f32", NETWORKS[network])
    assert np.abs(ours).max() > 3
    # Two experts may be so close that the last bits, which differ from processor to processor, choose between them: one
    # text of three may show it.
    differences = [np.abs(ours - theirs).max()]
    if differences[0] >= 3e-4:
        fast = (ModelConfig.from_folder(tmp_path / "in").rope_scaling or {}).get("beta_fast", 32.0)
        settings = {"yarn_beta_fast": fast} if fast != 32 else {}
        differences += [np.abs(np.subtract(*on_text(tmp_path, seed, **settings))).max() for seed in (1, 2)]
    assert np.median(differences) < 3e-4


@pytest.mark.parametrize("network", ["plain", "q_lora", "moonlight"])
@pytest.mark.parametrize(
    ("form", "experts", "dense", "allowed"),
    [("bf16", None, "bf16", 0.03), ("int4", None, "bf16", 0.03), ("int4", "q4_0", "f32", 0.02)],
)
def test_logits_in_the_stored_types(
    tmp_path: Path, network: str, form: str, experts: str | None, dense: str, allowed: float
) -> None:
    changes = {**NETWORKS[network], "num_experts_per_tok": 8, "num_hidden_layers": 3}
    ours, theirs = both(tmp_path, form, experts, dense, changes)
    assert np.sqrt(np.square(ours - theirs).mean() / np.square(ours).mean()) < allowed


def test_kimis_beta_fast_must_be_told(tmp_path: Path) -> None:
    """The file says it, the loader does not read it: the command tells people, and this test when it is needless."""
    ours, theirs = both(tmp_path, "fp32", "f32", "f32", NETWORKS["k2"], yarn_beta_fast=-1.0)
    assert np.abs(ours - theirs).max() > 1


@pytest.mark.skipif(not (NANO / "config.json").exists(), reason="the embedded model is not in this checkout")
def test_the_embedded_model(tmp_path: Path) -> None:
    ids = Tokenizer.load(NANO).encode((NANO / "README.md").read_text(encoding="utf-8"))[:300]
    ours = engine_logits(NANO, ids)
    export(NANO, tmp_path / "exact.gguf", "f32", "f32")
    assert np.abs(ours - llama_logits(tmp_path / "exact.gguf", ids)).max() < 2e-3
    export(NANO, tmp_path / "small.gguf")
    small = llama_logits(tmp_path / "small.gguf", ids)
    assert (tmp_path / "small.gguf").stat().st_size < 16e6
    assert (ours.argmax(1) == small.argmax(1)).mean() > 0.95


def texts() -> list[str]:
    pieces = [
        "Hello world! 12345 it's DON'T we'LL\n\n\n x", "你好，世界kimi是 mixed中文text。", " \n\n lead\r\n\t x  ",
        "getUserName iPhone HTTPServer", "👩‍👩‍👧 naïve Übergröße ﷽ ㍿", "Привет, мир! Ещё раз", "مرحبا بالعالم",
        "def f(x):\n    return x**2  # √", "<|im_end|><think>", "0.5e-10 1,234,567.89", "한국어 テスト",
    ]  # fmt: skip
    documents = (Path(__file__).parents[2] / "docs").glob("*.md")
    joined = (a + b for a, b in itertools.pairwise(pieces))
    return [*pieces, *joined, *(path.read_text(encoding="utf-8") for path in documents)]


@pytest.mark.parametrize("folder", [NANO, KIMI], ids=["nano", "kimi"])
def test_the_tokenizer_gives_the_same_ids(tmp_path: Path, folder: Path) -> None:
    if not (folder / "tiktoken.model").exists():
        pytest.skip("set OPENK2_DATA to a folder that holds kimi/tiktoken.model")
    own = Tokenizer.load(folder)
    size = own.n_vocab
    config = dataclasses.replace(CONFIG, vocab_size=size, num_hidden_layers=1, bos_token_id=own.special["[BOS]"])
    convert(Uneven(config, 3), tmp_path / "in", "bf16", extras=copy_extras(folder))
    export(tmp_path / "in", tmp_path / "x.gguf")
    other = llama_cpp.Llama(str(tmp_path / "x.gguf"), vocab_only=True, verbose=False)
    assert other.n_vocab() == size
    for text in texts():
        assert other.tokenize(text.encode(), add_bos=False, special=False) == own.encode(text), text
    for name, i in own.special.items():
        assert other.tokenize(name.encode(), add_bos=False, special=True) == [i]
    assert other.token_bos() == own.special["[BOS]"]
    if folder == KIMI:  # its pre-tokenizer knows no combining marks: docs/checkpoints.md says so while this holds
        hindi = "सभी मनुष्यों को"
        assert other.tokenize(hindi.encode(), add_bos=False, special=False) != own.encode(hindi)
    other.close()
