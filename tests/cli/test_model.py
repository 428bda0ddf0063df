"""`k2 model`: what a person sees, and that every mistake is one sentence with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openk2.cli.main import run
from openk2.model import checkpoint
from openk2.model.config import ModelConfig


def model(*args: Any) -> int:
    return run(["model", *map(str, args)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small random checkpoint in two shards."""
    assert model("random", "depth:4", tmp_path / "in", "--shard-size", "3MB", "--seed", "2") == 0
    return tmp_path / "in"


def test_info_of_kimi_k2_thinking(capsys: pytest.CaptureFixture[str]) -> None:
    assert model("info", "kimi-k2-thinking") == 0
    shown = capsys.readouterr().out
    for figure in ("1.026T", "32.86B", "594.2 GB", "70.27 KB", "262,144"):
        assert figure in shown, figure
    assert model("info", "kimi-k2-thinking", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["shape"]["context"] == 262_144 and data["routed_experts"] == "int4"


def test_info_needs_neither_torch_nor_time() -> None:
    code = (
        "import sys, time\nfrom openk2.cli.main import run\n"
        "assert run(['model', 'info', 'kimi-k2-thinking', '--json']) == 0\n"
        "assert 'torch' not in sys.modules and time.process_time() < 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_check_reads_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model("info", folder, "--check") == 0
    assert "tensors are whole, of the right shape and free of NaN" in capsys.readouterr().out
    entry = checkpoint.load(folder).entries["model.layers.2.self_attn.kv_b_proj.weight"]
    data = bytearray(entry.file.read_bytes())
    data[entry.start : entry.start + 2] = b"\xc0\x7f"
    entry.file.write_bytes(data)
    assert model("info", folder) == 0
    assert model("info", folder, "--check") == 2
    said = capsys.readouterr().err
    assert str(entry.file) in said and "kv_b_proj.weight holds NaN or infinity" in said
    assert model("info", "kimi-k2", "--check") == 2
    assert "not a checkpoint folder: there is nothing to check" in capsys.readouterr().err


def test_convert_and_quantize_say_what_they_wrote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent
    assert len(list(folder.glob("*.safetensors"))) == 2
    assert model("quantize", folder, out / "q") == 0 and model("convert", folder, out / "b", "--to", "fp32") == 0
    assert f"{out / 'q'}: " in capsys.readouterr().out
    assert ModelConfig.from_folder(out / "q").quantization_config
    assert json.loads((out / "b" / "config.json").read_text())["torch_dtype"] == "float32"
    assert checkpoint.check_values(out / "q") == checkpoint.check_values(out / "q")
    assert not list(out.glob("*.partial"))


def test_mistakes_are_sentences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"

    def says(part: str, *args: Any) -> None:
        assert model(*args) == 2
        said = capsys.readouterr().err
        assert part in said and said.count("\n") == 1, said

    says("exists already; name another", "convert", folder, folder, "--to", "bf16")
    says("'5XB' is no size", "quantize", folder, out, "--shard-size", "5XB")
    says("no config.json", "convert", folder.parent, out, "--to", "bf16")
    says("neither a checkpoint folder nor a known model", "random", "gpt", out)
    says("/nowhere", "export", "/nowhere", out)
    shard = sorted(folder.glob("*.safetensors"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-10])
    says(f"{shard} is cut short", "quantize", folder, out)
    shard.unlink()
    says(f"lacks {shard.name}", "export", folder, out, "--format", "gguf")
    assert not out.exists()
