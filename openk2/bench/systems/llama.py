"""llama.cpp through its C interface: batches are made before, so that a pass is `llama_decode` and nothing else."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as api  # pyright: ignore[reportMissingImports]
import numpy as np

from openk2.bench.systems import Pass, Settings
from openk2.errors import UserError

_MOST = 2048  # ids in one call; llama.cpp cuts them into its own pieces
_PAGE = 256  # a cache is a multiple of this


@api.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    if level >= 4:  # errors: the last of them is told when the program ends
        os.write(2, text)


class Loaded:
    def __init__(self, path: Path, settings: Settings) -> None:
        api.llama_log_set(_silent, ctypes.c_void_p(0))
        api.llama_backend_init()
        how = api.llama_model_default_params()
        how.n_gpu_layers = 0
        how.load_mode = api.LLAMA_LOAD_MODE_NONE  # into memory, not mapped: no page is read within a round
        model = api.llama_model_load_from_file(str(path).encode(), how)
        if not model:
            raise UserError(f"llama.cpp cannot load {path}")
        about = _metadata(model)
        params = api.llama_context_default_params()
        positions = -(-settings.positions // _PAGE) * _PAGE
        params.n_ctx, params.n_seq_max = positions * settings.texts, settings.texts
        params.n_batch = _MOST
        params.n_threads = params.n_threads_batch = settings.threads
        if "deepseek2.rope.scaling.yarn_beta_fast" in about:  # it does not read this key of the file
            params.yarn_beta_fast = float(about["deepseek2.rope.scaling.yarn_beta_fast"])
        context = api.llama_init_from_model(model, params)
        if not context:
            raise UserError("llama.cpp could not make a context")
        self.context: Any = context
        self.memory: Any = api.llama_get_memory(self.context)
        vocabulary: Any = api.llama_model_get_vocab(model)
        self.vocabulary = api.llama_vocab_n_tokens(vocabulary)
        self.about = f"llama-cpp-python {version('llama-cpp-python')}, {_features()}"
        layers, latent = int(about["deepseek2.block_count"]), int(about["deepseek2.attention.key_length"])
        self.cache_bytes = 2 * layers * latent  # f16, the default
        self._kept: list[Any] = []

    def logits(self, ids: Sequence[int], alone: int) -> np.ndarray:
        self._clear()
        first = len(ids) - alone
        self._read(ids[:first], 0, 0)
        rows = []
        for place in range(first, len(ids)):
            self._run(self._batch([ids[place]], [place], [0]))
            row = api.llama_get_logits_ith(self.context, -1)
            rows.append(np.ctypeslib.as_array(row, (self.vocabulary,)).copy())
        return np.stack(rows)

    def decode(self, texts: Sequence[Sequence[int]], steps: np.ndarray) -> Pass:
        self._clear()
        for number, ids in enumerate(texts):
            self._read(ids, 0, number)
        length, numbers = len(texts[0]), list(range(len(texts)))
        batches = [self._batch(row, [length + place] * len(texts), numbers) for place, row in enumerate(steps.tolist())]

        def once() -> None:
            for number in numbers:
                api.llama_memory_seq_rm(self.memory, number, length, -1)
            for batch in batches:
                self._run(batch)

        return once

    def prefill(self, ids: Sequence[int]) -> Pass:
        batches = self._pieces(ids, 0, 0)

        def once() -> None:
            self._clear()
            for batch in batches:
                self._run(batch)

        return once

    def _clear(self) -> None:
        api.llama_memory_clear(self.memory, False)

    def _read(self, ids: Sequence[int], start: int, text: int) -> None:
        for batch in self._pieces(ids, start, text):
            self._run(batch)

    def _pieces(self, ids: Sequence[int], start: int, text: int) -> list[Any]:
        cut = range(0, len(ids), _MOST)
        return [self._batch(ids[at : at + _MOST], range(start + at, start + len(ids)), [text], last=True) for at in cut]

    def _batch(self, ids: Sequence[int], places: Sequence[int], texts: Sequence[int], last: bool = False) -> Any:
        """Logits are computed of each id, or of the last one alone. One text, or one for each id."""
        batch = api.llama_batch_init(len(ids), 0, 1)
        self._kept.append(batch)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, places[i]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = texts[i] if len(texts) > 1 else texts[0]
            batch.logits[i] = not last or i == len(ids) - 1
        return batch

    def _run(self, batch: Any) -> None:
        if code := api.llama_decode(self.context, batch):
            raise UserError(f"llama_decode says {code}")
        api.llama_synchronize(self.context)


def _metadata(model: Any) -> dict[str, str]:
    found = {}
    key, value = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
    for i in range(api.llama_model_meta_count(model)):
        api.llama_model_meta_key_by_index(model, i, key, len(key))
        api.llama_model_meta_val_str_by_index(model, i, value, len(value))
        found[key.value.decode()] = value.value.decode(errors="replace")
    return found


def _features() -> str:
    """The instructions it was built for."""
    said = api.llama_print_system_info().decode()
    names = [part.split("=")[0].split(":")[-1].strip() for part in said.split("|") if part.strip().endswith("= 1")]
    return " ".join(name for name in names if name.startswith(("AVX", "NEON", "REPACK", "LLAMAFILE", "OPENMP")))
