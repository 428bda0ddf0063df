"""The embedded model as a checkpoint: small, native INT4, the same network for the engine, torch and transformers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from openk2.chat.messages import Message
from openk2.chat.template import render
from openk2.chat.tokenizer import Tokenizer
from openk2.engine import Engine
from openk2.paths import NANO

pytestmark = pytest.mark.skipif(
    not (NANO / "config.json").exists(), reason="the embedded model is not in this checkout"
)


@pytest.fixture(scope="module")
def ids() -> list[int]:
    messages = [Message("system", "You are openk2 nano."), Message("user", "What is the total area of Peru?")]
    return render(Tokenizer.load(NANO), messages, add_generation_prompt=True)


@pytest.fixture(scope="module", params=["exact", "fast"])
def logits(ids: list[int], request: pytest.FixtureRequest) -> np.ndarray:
    """Logits [V] after the prompt, by the engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENK2_EXACT", str(int(request.param == "exact")))
        session = Engine.load(NANO).session()
        session.append(ids)
        return np.asarray(session.logits)


def test_it_is_small_and_has_a_card() -> None:
    assert sum(p.stat().st_size for p in NANO.iterdir()) < 20_000_000
    card = (NANO / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("CC0", "MIT", "CC BY-SA", "seed", "INT4"))


def test_its_experts_are_int4_as_kimi_k2_thinking_stores_them() -> None:
    config: dict[str, Any] = json.loads((NANO / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "deepseek_v3"
    assert config["quantization_config"]["format"] == "pack-quantized"


def test_torch_gives_the_same_logits(ids: list[int], logits: np.ndarray, request: pytest.FixtureRequest) -> None:
    torch = pytest.importorskip("torch")
    from openk2.model.attention import Packing
    from openk2.train.checkpoint import initial_weights
    from openk2.train.loop import build

    config, weights = initial_weights(NANO)
    model = build(config, 0)
    model.load_tensors(weights)
    model.dtype = torch.float32
    with torch.no_grad():
        expected = model(torch.tensor(ids), Packing([len(ids)])).float()[-1].numpy()
    exact = request.node.callspec.params["logits"] == "exact"
    np.testing.assert_allclose(logits, expected, atol=1e-4 if exact else 1e-4 * np.abs(expected).max())
    assert np.argmax(logits) == np.argmax(expected)


def test_transformers_gives_the_same_logits(ids: list[int], logits: np.ndarray) -> None:
    """Its unpacked experts multiply in bf16, hence the wider bound (0.012 seen); those of random twins are in fp32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].float().numpy()
    np.testing.assert_allclose(logits, expected, atol=5e-2)
    assert np.argmax(logits) == np.argmax(expected)
