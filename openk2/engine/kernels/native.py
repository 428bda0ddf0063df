"""The kernels behind Python: a model described to them by address, one call for a step of any number of sequences."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p

import numpy as np

from openk2.engine import weights as stored
from openk2.engine.cache import BLOCK, LatentCache
from openk2.model.config import LATENT_EPS, ModelConfig

# Below this many active parameters a token's products are too short to share between threads.
SMALL = 20_000_000

_FP32, _BF16, _INT4, _INT4_EXACT = range(4)


class _Matrix(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("scale", c_void_p), ("rows", c_int64), ("columns", c_int64),
                ("format", c_int32), ("group", c_int32))  # fmt: skip


class _Expert(ctypes.Structure):
    _fields_ = (("gate", _Matrix), ("up", _Matrix), ("down", _Matrix))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "query_norm", "latent_norm", "mlp_norm", "bias")),
        *((name, _Matrix) for name in ("query_down", "query", "latent", "key_value", "out", "router")),
        ("always", _Expert), ("experts", POINTER(_Expert)),
    )  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in (
            "layers", "hidden", "heads", "nope", "rope", "value", "rank", "experts", "chosen", "groups", "kept_groups",
            "renormalise")),
        *((name, c_float) for name in ("eps", "latent_eps", "softmax_scale", "routed_scale")),
        ("layer", POINTER(_Layer)), ("norm", c_void_p), ("embedding", _Matrix), ("head", _Matrix),
    )  # fmt: skip


class _Sequence(ctypes.Structure):
    _fields_ = (("ids", c_void_p), ("count", c_int64), ("length", c_int64), ("blocks", c_void_p))


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the functions of network.cpp."""
    library.k2_lanes.restype = c_int32
    library.k2_run.argtypes = (c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int32, c_void_p)
    library.k2_logits.argtypes = (c_void_p, c_void_p, c_int64, c_int32, c_void_p)
    library.k2_multiply.argtypes = (c_void_p, c_void_p, c_int64, c_int32, c_void_p)
    library.k2_read.argtypes, library.k2_read.restype = (c_void_p, c_int64, c_int32), c_float
    for name in ("k2_run", "k2_logits", "k2_multiply"):
        getattr(library, name).restype = None
    return library


def thread_count(active_parameters: int) -> int:
    """Threads of a step: what OMP_NUM_THREADS asks for, else one for a small model and every core for others."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return min(int(asked), 256)
    if active_parameters < SMALL:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 256)


class Native:
    """Runs a model on the kernels. Keeps the stored arrays alive that the kernels point to; nothing is copied."""

    def __init__(
        self, library: ctypes.CDLL, config: ModelConfig, weights: stored.Weights, threads: int | None = None,
        fp32: bool | None = None,
    ) -> None:  # fmt: skip
        """`fp32`: INT4 weights meet fp32 activations, else 16-bit ones, several times as fast; None: see `exact`."""
        self.threads = thread_count(config.count().active) if threads is None else threads
        self.exact = exact() if fp32 is None else fp32
        self._library = library
        self._hidden, self._vocabulary = config.hidden_size, config.vocab_size
        self._kept: list[object] = []
        layers = (_Layer * config.num_hidden_layers)(*(self._layer(layer) for layer in weights.layers))
        self._model = _Model(
            layers=config.num_hidden_layers, hidden=config.hidden_size, heads=config.num_attention_heads,
            nope=config.qk_nope_head_dim, rope=config.qk_rope_head_dim, value=config.v_head_dim,
            rank=config.kv_lora_rank, experts=config.n_routed_experts, chosen=config.num_experts_per_tok,
            groups=config.n_group, kept_groups=config.topk_group, renormalise=config.norm_topk_prob,
            eps=config.rms_norm_eps, latent_eps=LATENT_EPS, softmax_scale=config.softmax_scale,
            routed_scale=config.routed_scaling_factor, layer=layers, norm=self._address(weights.norm),
            embedding=self._matrix(weights.embedding), head=self._matrix(weights.head),
        )  # fmt: skip
        self._kept += [layers, weights]

    def run(self, parts: Sequence[tuple[Sequence[int], LatentCache]], turns: np.ndarray) -> np.ndarray:
        """Append each part's ids to its cache (reserved before); hidden states, normed, float32 [T, H], in order."""
        sequences = (_Sequence * len(parts))()
        arrays = []  # alive until the call is over
        total = 0
        for sequence, (ids, cache) in zip(sequences, parts, strict=True):
            array = np.array(ids, np.int64)
            arrays.append(array)
            sequence.ids, sequence.count, sequence.length = array.ctypes.data, len(array), cache.length
            sequence.blocks = cache.addresses.ctypes.data
            total += len(array)
        hidden = np.empty((total, self._hidden), np.float32)
        self._library.k2_run(
            ctypes.addressof(self._model), ctypes.addressof(sequences), len(parts), turns.ctypes.data, BLOCK,
            self.threads, hidden.ctypes.data,
        )  # fmt: skip
        return hidden

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden [T, H] -> float32 [T, vocab]."""
        hidden = np.ascontiguousarray(hidden, np.float32)
        out = np.empty((len(hidden), self._vocabulary), np.float32)
        self._library.k2_logits(
            ctypes.addressof(self._model), hidden.ctypes.data, len(hidden), self.threads, out.ctypes.data
        )
        return out

    def _layer(self, layer: stored.Layer) -> _Layer:
        experts = (_Expert * len(layer.experts))(*map(self._expert, layer.experts))
        self._kept.append(experts)
        found = _Layer(experts=experts)
        for name in ("attention_norm", "query_norm", "latent_norm", "mlp_norm", "bias"):
            setattr(found, name, self._address(getattr(layer, name)))
        for name in ("query_down", "query", "latent", "key_value", "out", "router"):
            matrix = getattr(layer, name)
            if matrix is not None:
                setattr(found, name, self._matrix(matrix))
        if layer.always is not None:
            found.always = self._expert(layer.always)
        return found

    def _expert(self, expert: stored.Expert) -> _Expert:
        return _Expert(*map(self._matrix, expert))

    def _matrix(self, matrix: stored.Matrix) -> _Matrix:
        kind = _kind(matrix, self.exact)
        return _Matrix(self._address(matrix.bits), self._address(matrix.scale), *matrix.shape, kind, matrix.group)

    def _address(self, array: np.ndarray | None) -> int | None:
        if array is None:
            return None
        array = np.ascontiguousarray(array)  # what the checkpoint gives is; a copy would be kept here
        self._kept.append(array)
        return array.ctypes.data


def exact() -> bool:
    """Whether OPENK2_EXACT asks for fp32 activations."""
    return os.environ.get("OPENK2_EXACT", "0") not in ("", "0")


def _kind(matrix: stored.Matrix, fp32: bool) -> int:
    if matrix.scale is not None:
        return _INT4_EXACT if fp32 else _INT4
    return _BF16 if matrix.bits.dtype == np.uint16 else _FP32


def multiply(
    library: ctypes.CDLL, matrix: stored.Matrix, x: np.ndarray, threads: int = 1, fp32: bool = False
) -> np.ndarray:
    """x float32 [T, in] -> x @ matrix.T, float32 [T, out]: one product alone, for checks and measurements."""
    x = np.ascontiguousarray(x, np.float32)
    y = np.empty((len(x), matrix.shape[0]), np.float32)
    scale = None if matrix.scale is None else matrix.scale.ctypes.data
    described = _Matrix(matrix.bits.ctypes.data, scale, *matrix.shape, _kind(matrix, fp32), matrix.group)
    library.k2_multiply(ctypes.addressof(described), x.ctypes.data, len(x), threads, y.ctypes.data)
    return y


def read_speed(library: ctypes.CDLL, array: np.ndarray, threads: int, repeats: int = 5) -> float:
    """Bytes a second at which `threads` threads read a float32 array: the fastest of several sums over it."""
    array = np.ascontiguousarray(array, np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        library.k2_read(array.ctypes.data, array.size, threads)
        seconds.append(time.perf_counter() - start)
    return array.nbytes / min(seconds)
