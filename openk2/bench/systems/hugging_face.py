"""transformers: the same values in bf16, with its cache, and the quickest of its ways to run experts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from openk2.bench.limit import expanded_cache_bytes
from openk2.bench.systems import Pass, Settings
from openk2.errors import UserError
from openk2.model.config import ModelConfig

_FEW = 64  # tokens up to which gathering each token's experts (batched_mm) fits in memory


class Loaded:
    def __init__(self, path: Path, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model: Any = load(path, dtype=torch.bfloat16).eval()
        self.about = f"{transformers.__version__}, torch {torch.__version__}, bf16"
        self.cache_bytes = expanded_cache_bytes(ModelConfig.from_folder(path), 2)

    def logits(self, ids: Sequence[int], alone: int) -> np.ndarray:
        with torch.inference_mode():
            cache = self._cache()
            self._run(torch.tensor([ids[: len(ids) - alone]]), cache)
            rows = [self._run(torch.tensor([[token]]), cache) for token in ids[len(ids) - alone :]]
            return torch.cat(rows).float().numpy()

    def decode(self, texts: Sequence[Sequence[int]], steps: np.ndarray) -> Pass:
        with torch.inference_mode():
            cache, length = self._cache(), len(texts[0])
            self._run(torch.tensor([list(ids) for ids in texts]), cache)
            rows = list(torch.from_numpy(steps)[:, :, None])

        def once() -> None:
            with torch.inference_mode():
                if more := cache.get_seq_length() - length:
                    cache.crop(-more)
                for row in rows:
                    self._run(row, cache)

        self._quickest(once, len(texts))
        return once

    def prefill(self, ids: Sequence[int]) -> Pass:
        with torch.inference_mode():
            batch = torch.tensor([list(ids)])

        def once() -> None:
            with torch.inference_mode():
                self._run(batch, self._cache())

        self._quickest(once, len(ids))
        return once

    def _cache(self) -> Any:
        return transformers.DynamicCache(config=self.model.config)

    def _run(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        """ids [texts, T] -> logits [texts, vocabulary] behind the last."""
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _quickest(self, once: Pass, tokens: int) -> None:
        times, failed = {}, ""
        for way in ("eager", "grouped_mm", *(["batched_mm"] if tokens <= _FEW else [])):
            try:
                self.model.set_experts_implementation(way)
                once()
                start = time.perf_counter()
                once()
            except (RuntimeError, ValueError, NotImplementedError) as error:  # not for this processor or type
                failed = f"{way}: {type(error).__name__}: {error}"
                continue
            times[way] = time.perf_counter() - start
        if not times:
            raise UserError(f"transformers cannot run this network ({failed})")
        self.model.set_experts_implementation(min(times, key=lambda way: times[way]))
