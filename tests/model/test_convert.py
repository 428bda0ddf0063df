"""Conversion: values against torch, any interruption, and memory for a piece whatever the size of the model."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle of rounding is torch")
import torch
from checkpoints import CONFIG, make
from killing import kill_and_go_on

from openk2.errors import UserError
from openk2.model import checkpoint, convert, safetensors
from openk2.model.config import INT4_CONFIG, ModelConfig
from openk2.model.convert import FolderSource, RandomSource
from openk2.model.expected import BIAS, EXPERT, weights
from openk2.quant import int4

FORMS = ("bf16", "fp32", "fp16", "fp8", "int4")


@pytest.mark.parametrize("start", FORMS)
@pytest.mark.parametrize("form", convert.FORMS)
def test_every_form_becomes_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, form: str) -> None:
    values = make(tmp_path / "in", start, 2)
    monkeypatch.setattr(checkpoint, "_PIECE", 3000)  # so that even these small matrices are cut
    convert.convert(FolderSource(tmp_path / "in"), tmp_path / "out", form, shard_bytes=150_000)
    config = ModelConfig.from_folder(tmp_path / "out")
    assert config.quantization_config == (INT4_CONFIG if form == "int4" else None)
    found = checkpoint.load(tmp_path / "out", config)
    assert checkpoint.check_values(tmp_path / "out") == len(found)
    for name, value in values.items():
        expected = torch.from_numpy(value)
        if form == "int4" and EXPERT.search(name):
            if start != "int4":  # INT4 that is there already is copied
                expected = int4.dequantize(*int4.quantize(expected))
        elif form != "fp32" and not name.endswith(BIAS):
            expected = expected.bfloat16().float()
        assert np.array_equal(found.weight(name), expected.numpy()), name


def test_the_twin_quantises_as_the_one_function_does() -> None:
    from openk2.quant import packing

    rng = np.random.default_rng(3)
    for size in (1e-34, 1e-6, 0.02, 1.0, 1e30):
        weight = (rng.standard_normal((64, 96)) * size).astype(np.float32)
        weight[3, :32], weight[4, 5], weight[5, 32:64] = 0, 9 * size, -size
        weight[6, :32] = np.repeat(np.array([7.5, -7.5], np.float32), 16) * np.float32(size)  # ties
        q, scale = int4.quantize(torch.from_numpy(weight))
        q_twin, scale_twin = packing.quantize(weight)
        assert np.array_equal(q.numpy(), q_twin) and np.array_equal(scale.float().numpy(), scale_twin)
        assert np.array_equal(packing.scale_bits(scale_twin), scale.view(torch.uint16).numpy())
    with pytest.raises(ValueError, match="multiple"):
        packing.quantize(np.zeros((2, 33), np.float32))


def test_shards_keep_to_their_size_and_others_load_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    make(tmp_path / "in", "bf16")
    size = convert.convert(FolderSource(tmp_path / "in"), tmp_path / "out", "bf16", shard_bytes=200_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / checkpoint.INDEX).read_text())
    assert len(files) > 3 and {file.name for file in files} == set(index["weight_map"].values())
    assert all(sum(e.bytes for e in safetensors.read_header(file)) <= 200_000 for file in files)
    assert index["metadata"]["total_size"] == size
    loaded = [
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / side, dtype=torch.float32).state_dict()
        for side in ("in", "out")
    ]
    assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def test_random_weights_follow_from_the_seed_alone(tmp_path: Path) -> None:
    for form in ("bf16", "int4"):
        for out, seed, shard in (("a", 5, 10**9), ("b", 5, 100_000), ("c", 6, 10**9)):
            convert.convert(RandomSource(CONFIG, seed), tmp_path / form / out, form, shard_bytes=shard)
        a, b, c = (checkpoint.load(tmp_path / form / out, CONFIG_OF[form]) for out in "abc")
        for name in weights(CONFIG):
            assert np.array_equal(a.weight(name), b.weight(name))
            assert np.array_equal(a.weight(name), c.weight(name)) == (BIAS in name or "norm" in name)
        stack = np.concatenate([a.weight(name).ravel() for name in weights(CONFIG) if EXPERT.search(name)])
        assert stack.std() == pytest.approx(0.02, rel=0.05) and abs(stack.mean()) < 2e-4


CONFIG_OF = {form: convert.target(CONFIG, form) for form in convert.FORMS}


def command(*args: Any) -> list[str]:
    return [sys.executable, "-m", "openk2", "model", *map(str, args)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_again_and_again_it_still_comes_to_the_same(tmp_path: Path) -> None:
    make_it = ("random", "depth:10")
    options = ("--shard-size", "2MB", "--format", "int4")
    subprocess.run(command(*make_it, tmp_path / "whole", *options), check=True, capture_output=True)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    rng = random.Random(4)
    again = command(*make_it, out, *options)
    _, kills = kill_and_go_on(
        again, 6, lambda: partial.exists() and not out.exists(), lambda: rng.uniform(0, 0.15), lambda: again
    )
    assert kills >= 2 and not partial.exists()
    assert contents(out) == contents(tmp_path / "whole")


def test_what_was_done_is_not_done_again_unless_the_plan_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "in", "bf16")
    written: list[str] = []
    write = convert._write_shard

    def watch(path: Path, *rest: Any) -> Any:
        written.append(path.name)
        if len(written) == 4:
            raise KeyboardInterrupt
        return write(path, *rest)

    monkeypatch.setattr(convert, "_write_shard", watch)

    def run(form: str) -> None:
        convert.convert(FolderSource(tmp_path / "in"), tmp_path / "out", form, shard_bytes=150_000)

    with pytest.raises(KeyboardInterrupt):
        run("bf16")
    assert not (tmp_path / "out").exists()
    run("bf16")
    assert len(written) == len(set(written)) + 1  # the one that was stopped
    written.clear()
    with pytest.raises(UserError, match="exists already"):
        run("bf16")
    (tmp_path / "out").rename(tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        run("bf16")
    written.clear()
    (tmp_path / "in" / "model.safetensors").touch()  # another source, as far as one can tell
    with pytest.raises(KeyboardInterrupt):
        run("bf16")
    assert written[0].startswith("model-00001-")


def test_control_c_is_a_sentence(tmp_path: Path) -> None:
    child = subprocess.Popen(
        command("random", "depth:24", tmp_path / "out"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out.partial/*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "stopped; the same command goes on" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "in", "bf16")

    def run() -> None:
        convert.convert(FolderSource(tmp_path / "in"), tmp_path / "out", "bf16")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"disk is full at .*it goes on"):
        patched.setattr(convert, "_put", full)
        run()
    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"needs 0\.0 GB and its disk has 0\.0 GB"):
        patched.setattr(convert.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        run()
    assert not (tmp_path / "out").exists()
    run()
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_two_at_once_and_a_broken_source(tmp_path: Path) -> None:
    make(tmp_path / "in", "bf16")
    (tmp_path / "out.partial").mkdir()
    with (tmp_path / "out.partial" / "plan.json").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another process writes"):
            convert.convert(FolderSource(tmp_path / "in"), tmp_path / "out", "bf16")
    entry = checkpoint.load(tmp_path / "in").entries["model.layers.1.self_attn.o_proj.weight"]
    data = bytearray(entry.file.read_bytes())
    data[entry.start : entry.start + 2] = b"\x80\x7f"
    entry.file.write_bytes(data)
    with pytest.raises(UserError, match=r"o_proj\.weight holds NaN or infinity"):
        convert.convert(FolderSource(tmp_path / "in"), tmp_path / "out", "int4")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_is_for_a_piece_and_not_for_the_model(tmp_path: Path) -> None:
    """600 MB of bf16 in one file, a third of it one matrix: quantised in under 200 MB, the interpreter's included."""
    config = ModelConfig(**{**CONFIG.__dict__, "hidden_size": 1024, "moe_intermediate_size": 512,
                            "n_routed_experts": 64, "vocab_size": 100_000, "tie_word_embeddings": True})  # fmt: skip
    outputs = [(name, "BF16", shape) for name, shape in weights(config).items()]
    first, _, size = safetensors.layout(outputs)
    assert size > 600e6
    (tmp_path / "in").mkdir()
    checkpoint.write_config(tmp_path / "in", config)
    with (tmp_path / "in" / "model.safetensors").open("wb") as file:
        file.write(first)
        file.truncate(size)
    code = (
        "import sys\nfrom openk2.cli.main import run\n"
        "assert run(['model', 'quantize', *sys.argv[1:]]) == 0\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    # Not the ru_maxrss of the child: that starts with what the parent had when it forked.
    arguments = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")]
    result = subprocess.run(arguments, check=True, capture_output=True, text=True)
    peak = int(result.stdout.split()[-1]) * 1024
    assert peak < 200e6, peak
