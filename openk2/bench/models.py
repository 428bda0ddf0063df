"""What is measured: networks of K2's shape in several sizes, made once; and the same weights for other programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openk2.errors import UserError
from openk2.export import gguf
from openk2.model.config import PRESETS, ModelConfig
from openk2.model.convert import FolderSource, RandomSource, convert
from openk2.model.expected import storage
from openk2.paths import NANO, cache_dir

Progress = Callable[[str], None]

# Active parameters without the embedding: 51M of 0.4B, and 331M of 3.1B. Widths in K2's proportions.
_50M = ModelConfig(
    hidden_size=1024, num_hidden_layers=7, num_attention_heads=8, intermediate_size=2048, moe_intermediate_size=256,
    n_routed_experts=64, num_experts_per_tok=4, vocab_size=8192, kv_lora_rank=256, q_lora_rank=384,
    qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, routed_scaling_factor=2.0, max_position_embeddings=8192,
)  # fmt: skip
_300M = ModelConfig(
    hidden_size=2048, num_hidden_layers=8, num_attention_heads=16, intermediate_size=8192, moe_intermediate_size=512,
    n_routed_experts=128, num_experts_per_tok=6, vocab_size=16384, kv_lora_rank=512, q_lora_rank=768,
    qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, routed_scaling_factor=2.4, max_position_embeddings=8192,
)  # fmt: skip
SIZES: dict[str, ModelConfig | None] = {  # None: the embedded model itself
    "5M": None, "50M": _50M, "300M": _300M, "moonlight": PRESETS["moonlight-16b-a3b"],
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A checkpoint to measure, and where its forms for other programs lie or are to be made."""

    name: str
    folder: Path
    place: Path  # what is made of it lies beside this path, with an ending

    @property
    def config(self) -> ModelConfig:
        return ModelConfig.from_folder(self.folder)

    def gguf(self, progress: Progress) -> Path:
        """For llama.cpp, every matrix in the type it is stored in here. Raises UserError where it cannot be."""
        path = self.place.with_name(self.place.name + ".gguf")
        if not path.exists():
            progress(f"{self.name}: writing {path.name}")
            gguf.export(self.folder, path)
        return path

    def bf16(self, progress: Progress) -> Path:
        """The same values in bf16: for transformers, whose INT4 is for processors of another kind."""
        if storage(self.config) == "bf16":
            return self.folder
        path = self.place.with_name(self.place.name + "-bf16")
        if not path.exists():
            progress(f"{self.name}: writing {path.name}")
            convert(FolderSource(self.folder), path, "bf16")
        return path

    def bf16_bytes(self) -> int:
        """What `bf16` takes."""
        return 2 * self.config.count().total


def find(size: str, place: Path, progress: Progress) -> Model:
    """The model of a size, made in `place` unless it is there. Raises UserError for an unknown size."""
    if size not in SIZES:
        raise UserError(f"There is no size {size!r}; the sizes are {', '.join(SIZES)}; or give --model FOLDER.")
    config = SIZES[size]
    if config is None:
        if not (NANO / "config.json").exists():
            raise UserError("The embedded model, size 5M, is not in this checkout; name other --sizes.")
        return of_folder(NANO, place, size)
    return random_model(size, config, place, progress)


def random_model(name: str, config: ModelConfig, place: Path, progress: Progress) -> Model:
    """Random weights of a seed in K2's own format: routed experts INT4, the rest bf16."""
    key = hashlib.sha256(json.dumps(config.to_hf(), sort_keys=True).encode()).hexdigest()[:8]
    folder = place / f"{name}-{key}"
    if not folder.exists():
        progress(f"{name}: drawing random weights")
        place.mkdir(parents=True, exist_ok=True)
        convert(RandomSource(config), folder, "int4")
    return Model(name, folder, folder)


def of_folder(folder: Path, place: Path, name: str | None = None) -> Model:
    """A checkpoint that is there. Raises UserError when it is none."""
    ModelConfig.from_folder(folder)
    files = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    about = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), about]).encode()).hexdigest()[:8]
    name = name or folder.resolve().name
    return Model(name, folder, place / f"{name}-{key}")


def default_place() -> Path:
    return cache_dir() / "bench"
