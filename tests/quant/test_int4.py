"""The one INT4 function, its bits on disk, and what other loaders make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openk2.quant import packing


def test_packing_is_little_end_first_and_reversible() -> None:
    q = np.array([[-8, -7, 0, 7, 1, 2, 3, 4, 5]], np.int8)
    packed = packing.pack(q)
    assert packed.shape == (1, 2) and packed.dtype == np.int32
    assert packed.view(np.uint32)[0, 0] == 0xCBA9F810
    assert packed.view(np.uint32)[0, 1] == 0xD
    assert (packing.unpack(packed, 9) == q).all()
    with pytest.raises(ValueError, match="-8 to 7"):
        packing.pack(np.array([[8]], np.int8))


def test_every_integer_survives() -> None:
    q = np.random.default_rng(0).integers(-8, 8, (3, 5, 64)).astype(np.int8)
    assert (packing.unpack(packing.pack(q), 64) == q).all()


pytest.importorskip("torch")
import torch  # noqa: E402

from openk2.model.config import ModelConfig  # noqa: E402
from openk2.quant.int4 import dequantize, fake_quantize, quantize  # noqa: E402


def weights(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.randn(4, 24, 1, generator=generator).exp()
    return torch.randn(4, 24, 96, generator=generator) * size * 0.02


def test_error_is_about_half_a_step() -> None:
    w = weights()
    q, scale = quantize(w)
    assert q.dtype == torch.int8 and scale.dtype == torch.bfloat16 and scale.shape == (4, 24, 3)
    # Half a step, or up to a step and a scale's rounding where +8 is cut to +7 or -8 falls short.
    step = scale.float().abs().repeat_interleave(32, -1)
    error = (dequantize(q, scale) - w).abs()
    assert (error <= step * 1.26).all() and (error <= step * 0.51).float().mean() > 0.97
    assert float(error.square().mean().sqrt() / w.square().mean().sqrt()) < 0.095


def test_weights_are_exact_in_bf16() -> None:
    w = fake_quantize(weights())
    assert torch.equal(w, w.bfloat16().float())


def test_zeros_stay_zeros_and_tiny_weights_finite() -> None:
    w = torch.zeros(2, 64)
    w[1, :32] = 1e-35
    assert (fake_quantize(w).abs() <= 1e-30).all() and (fake_quantize(w)[0] == 0).all()


def test_gradient_passes_straight_through() -> None:
    w = weights().requires_grad_()
    upstream = torch.randn(w.shape)
    (fake_quantize(w) * upstream).sum().backward()
    assert w.grad is not None and torch.equal(w.grad, upstream)


def test_width_must_divide_into_groups() -> None:
    with pytest.raises(ValueError, match="multiple"):
        quantize(torch.zeros(2, 33))


def test_quantising_again_changes_nothing() -> None:
    once = fake_quantize(weights())
    q, scale = quantize(weights())
    assert torch.equal(dequantize(q, scale), once)


def tiny(tmp_path: Path, name: str = "int4") -> tuple[ModelConfig, dict[str, torch.Tensor], Path]:
    from openk2.model.transformer import Transformer
    from openk2.train.export import export

    config = ModelConfig.from_depth(
        3, vocab_size=64, hidden_size=64, moe_intermediate_size=32, n_routed_experts=4, initializer_range=0.02
    )
    model = Transformer(config)
    model.initialise(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_((parameter * 4).bfloat16())
    export(config, model.tensors(), tmp_path / name, int4=True)
    return config, model.tensors(), tmp_path / name


def test_export_reads_back_as_what_training_saw(tmp_path: Path) -> None:
    from openk2.model.checkpoint import load

    _, tensors, folder = tiny(tmp_path)
    stored = load(folder)
    checked = 0
    for name, tensor in tensors.items():
        if ".experts." not in name:
            assert np.array_equal(stored[name].float32(), tensor.float().numpy()), name
            continue
        rows, columns = stored[f"{name}_shape"].bits
        read = packing.dequantize(stored[f"{name}_packed"].bits, stored[f"{name}_scale"].float32(), int(columns))
        assert read.shape == (rows, columns) == tuple(tensor.shape)
        assert np.abs(read - fake_quantize(tensor).numpy()).max() == 0
        checked += 1
    assert checked == 2 * 4 * 3


def test_loss_of_the_export_is_that_of_the_forward_pass(tmp_path: Path) -> None:
    from openk2.model.attention import Packing
    from openk2.model.transformer import Transformer
    from openk2.train.checkpoint import initial_weights
    from openk2.train.export import export
    from openk2.train.int4 import rounded

    config, tensors, folder = tiny(tmp_path)
    model = Transformer(config, torch.float32)
    model.load_tensors(tensors)
    ids, packing, rows = torch.arange(3, 60), Packing([30, 27]), torch.tensor([1, 5, 29, 31, 56])
    masters = model.loss(ids, packing, rows).item()
    with rounded(model.experts()):
        seen = model.loss(ids, packing, rows).item()
    assert seen != masters and masters == model.loss(ids, packing, rows).item()
    exported = Transformer(config, torch.float32)
    exported.load_tensors(initial_weights(folder)[1])
    assert exported.loss(ids, packing, rows).item() == seen
    export(config, exported.tensors(), tmp_path / "again", int4=True)  # INT4 of INT4 is the same INT4
    again = initial_weights(tmp_path / "again")[1]
    assert all(torch.equal(again[name], tensor) for name, tensor in exported.tensors().items())


def test_engine_and_training_forward_agree_on_the_export(tmp_path: Path) -> None:
    from openk2.engine import Engine
    from openk2.model.attention import Packing
    from openk2.model.transformer import Transformer
    from openk2.train.int4 import rounded

    config, tensors, folder = tiny(tmp_path)
    model = Transformer(config, torch.float32)
    model.load_tensors(tensors)
    ids = list(range(3, 40))
    session = Engine.load(folder).session()
    session.append(ids)
    with rounded(model.experts()):
        expected = model(torch.tensor(ids), Packing([len(ids)]))[-1].detach().numpy()
    assert np.abs(np.asarray(session.logits) - expected).max() < 1e-4


def test_transformers_loads_the_int4_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors", reason="transformers needs compressed-tensors to read INT4")
    from openk2.model.attention import Packing
    from openk2.model.transformer import Transformer

    config, tensors, folder = tiny(tmp_path)
    loaded, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(said.values()), said
    quantised = {n: fake_quantize(t) if ".experts." in n else t for n, t in tensors.items()}
    stack = loaded.state_dict()["model.layers.1.mlp.experts.down_proj"]
    for expert, matrix in enumerate(stack):
        assert torch.equal(matrix.float(), quantised[f"model.layers.1.mlp.experts.{expert}.down_proj.weight"])
    torch.nn.Module.float(loaded)  # the experts come in bf16, in which they are exact
    model = Transformer(config, torch.float32)
    model.load_tensors(quantised)
    ids = torch.arange(3, 40)
    logits = loaded(ids[None]).logits[0].float()
    assert (logits - model(ids, Packing([37]))).abs().max() < 1e-5
