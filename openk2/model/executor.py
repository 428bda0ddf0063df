"""The network in torch for serving, on any device: what the engine's scheduler runs in place of the CPU kernels.

Attention is absorbed (DeepSeek-V2, arXiv 2405.04434 section 2.1.2): queries are moved into the latent space and read
the cache's blocks as they are, which lie on the device in the executor's type. Routed experts in INT4 stay packed on
the device; the values of one exist only while its tokens are multiplied.
Legend: T new tokens of all texts, S positions of one text, H hidden, A heads, N nope, R rope, V value, C latent,
E experts, K experts a token, I expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openk2.model.attention import RMSNorm
from openk2.model.checkpoint import Checkpoint, load
from openk2.model.config import LATENT_EPS, ModelConfig
from openk2.model.moe import Router


class Cache(Protocol):
    """The engine's cache of one text: blocks [layers, positions, C + R], of which `length` positions are filled."""

    length: int
    blocks: list[Any]


class DeviceMemory:
    """Blocks as tensors of the executor's type on its device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.itemsize = dtype.itemsize

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def to_host(self, block: Tensor) -> np.ndarray:
        """float32; of bf16 exactly its values."""
        return block.float().cpu().numpy()

    def from_host(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype)


class _Stack:
    """One matrix [out, in] of each of E experts; `stack[e]` gives its values."""

    def __init__(self, count: int, shape: tuple[int, int], memory: DeviceMemory) -> None:
        self._values = memory.empty((count, *shape))

    def put(self, expert: int, checkpoint: Checkpoint, names: Sequence[str]) -> None:
        """Take the matrices of these names, one below the other."""
        first = 0
        for name in names:
            rows = _tensor(checkpoint.weight(name))
            self._values[expert, first : first + len(rows)] = rows
            first += len(rows)

    def __getitem__(self, expert: int) -> Tensor:
        return self._values[expert]


class _PackedStack:
    """As `_Stack`, kept in INT4 (`quant.packing`): two integers a byte, and the scales."""

    def __init__(
        self, count: int, shape: tuple[int, int], memory: DeviceMemory, groups: int, scale: torch.dtype
    ) -> None:
        out, size = shape
        self._dtype = memory.dtype
        self._bytes = torch.empty((count, out, size // 2), dtype=torch.uint8, device=memory.device)
        self._scale = torch.empty((count, out, groups), dtype=scale, device=memory.device)

    @classmethod
    def fitting(
        cls, count: int, shape: tuple[int, int], memory: DeviceMemory, checkpoint: Checkpoint, names: Sequence[str]
    ) -> _PackedStack | None:
        """None where a matrix of `names` is not stored in INT4, or in a form of its own."""
        if shape[1] % 8 or not all(f"{name}_packed" in checkpoint for name in names):
            return None
        scales = [checkpoint.entries[f"{name}_scale"] for name in names]
        groups = {scale.shape[1] for scale in scales}
        exact = all(scale.dtype == "BF16" for scale in scales)
        return (
            cls(count, shape, memory, groups.pop(), torch.bfloat16 if exact else torch.float32)
            if len(groups) == 1
            else None
        )

    def put(self, expert: int, checkpoint: Checkpoint, names: Sequence[str]) -> None:
        first = 0
        for name in names:
            words = checkpoint[f"{name}_packed"].bits
            own = slice(first, first + len(words))
            self._bytes[expert, own] = _tensor(np.ascontiguousarray(words, "<i4").view(np.uint8))
            self._scale[expert, own] = _tensor(checkpoint[f"{name}_scale"].float32()).to(self._scale)
            first += len(words)

    def __getitem__(self, expert: int) -> Tensor:
        packed, scale = self._bytes[expert], self._scale[expert]
        q = torch.stack((packed & 15, packed >> 4), -1).to(self._dtype).sub_(8).view(len(packed), scale.shape[1], -1)
        return (q * scale[..., None]).to(self._dtype).flatten(1)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))  # a copy: torch takes no memory that is only mapped


def _stack(
    count: int, shape: tuple[int, int], memory: DeviceMemory, checkpoint: Checkpoint, names: Callable[[int], list[str]]
) -> _Stack | _PackedStack:
    """The matrices of `count` experts, those of `names(e)` one below the other, in the form the checkpoint has."""
    every = [name for expert in range(count) for name in names(expert)]
    stack = _PackedStack.fitting(count, shape, memory, checkpoint, every) or _Stack(count, shape, memory)
    for expert in range(count):
        stack.put(expert, checkpoint, names(expert))
    return stack


class _Layer:
    """The weights of a layer, fused: gate and up of a SwiGLU are one matrix [.., 2I, H], routed experts one stack."""

    def __init__(self, config: ModelConfig, index: int, checkpoint: Checkpoint, memory: DeviceMemory) -> None:
        def weight(name: str) -> Tensor:
            return _tensor(checkpoint.weight(name))

        def get(name: str) -> Tensor:
            return weight(f"model.layers.{index}.{name}.weight").to(memory.device, memory.dtype)

        def norm(name: str, size: int, eps: float) -> RMSNorm:
            made = RMSNorm(size, eps).to(memory.device).requires_grad_(False)
            made.weight.copy_(weight(f"model.layers.{index}.{name}.weight"))
            return made

        def swiglu(name: str) -> tuple[Tensor, Tensor]:
            return torch.cat((get(f"{name}.gate_proj"), get(f"{name}.up_proj"))), get(f"{name}.down_proj")

        hidden, latent, heads = config.hidden_size, config.kv_lora_rank, config.num_attention_heads
        self.input_norm = norm("input_layernorm", hidden, config.rms_norm_eps)
        self.mlp_norm = norm("post_attention_layernorm", hidden, config.rms_norm_eps)
        self.latent_norm = norm("self_attn.kv_a_layernorm", latent, LATENT_EPS)
        self.query_down, self.query_norm = None, None
        if config.q_lora_rank is None:
            self.query = get("self_attn.q_proj")  # [A(N+R), H]
        else:
            self.query_down = get("self_attn.q_a_proj")
            self.query_norm = norm("self_attn.q_a_layernorm", config.q_lora_rank, LATENT_EPS)
            self.query = get("self_attn.q_b_proj")
        self.latent = get("self_attn.kv_a_proj_with_mqa")  # [C+R, H]
        up = get("self_attn.kv_b_proj").view(heads, -1, latent)
        self.key_up, self.value_up = up.split((config.qk_nope_head_dim, config.v_head_dim), 1)  # [A, N, C], [A, V, C]
        self.out = get("self_attn.o_proj")
        self.router: Router | None = None
        self.experts: tuple[_Stack | _PackedStack, _Stack | _PackedStack] | None = None  # [E, 2I, H], [E, H, I]
        self.always: tuple[Tensor, Tensor] | None = None
        if config.is_moe(index):
            self.router = Router(config).to(memory.device).requires_grad_(False)
            self.router.weight.copy_(weight(f"model.layers.{index}.mlp.gate.weight"))
            self.router.e_score_correction_bias.copy_(weight(f"model.layers.{index}.mlp.gate.e_score_correction_bias"))
            width, experts = config.moe_intermediate_size, config.n_routed_experts

            def names(*parts: str) -> Callable[[int], list[str]]:
                path = f"model.layers.{index}.mlp.experts."
                return lambda expert: [f"{path}{expert}.{part}_proj.weight" for part in parts]

            self.experts = (
                _stack(experts, (2 * width, hidden), memory, checkpoint, names("gate", "up")),
                _stack(experts, (hidden, width), memory, checkpoint, names("down")),
            )
            if config.n_shared_experts:
                self.always = swiglu("mlp.shared_experts")
        else:
            self.always = swiglu("mlp")


class TorchExecutor:
    """The engine's executor protocol over the weights of a checkpoint.

    Products are in `dtype`, the residual stream, norms, softmax, router and logits in float32.
    """

    @torch.inference_mode()
    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.config = config
        self.memory = memory = DeviceMemory(torch.device(device), dtype)

        def weight(name: str) -> Tensor:
            return _tensor(checkpoint.weight(name))

        self._embedding = weight("model.embed_tokens.weight").to(memory.device, dtype)
        tied = config.tie_word_embeddings
        self._head = self._embedding if tied else weight("lm_head.weight").to(memory.device, dtype)
        self._norm = RMSNorm(config.hidden_size, config.rms_norm_eps).to(memory.device).requires_grad_(False)
        self._norm.weight.copy_(weight("model.norm.weight"))
        self._layers = [_Layer(config, i, checkpoint, memory) for i in range(config.num_hidden_layers)]
        self._turns: tuple[np.ndarray, Tensor] | None = None  # as given, and on the device

    @classmethod
    def load(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.bfloat16
    ) -> TorchExecutor:
        """Read a checkpoint folder tensor by tensor. Raises UserError when it is not whole."""
        config = ModelConfig.from_folder(folder)
        return cls(config, load(folder, config), device=device, dtype=dtype)

    @torch.inference_mode()
    def run(self, parts: Sequence[tuple[Sequence[int], Cache]], turns: np.ndarray) -> np.ndarray:
        """Append each part's ids to its cache (reserved before); hidden states, normed, float32 [T, H], in order.

        `turns`: complex64 [positions, R/2], the rotation of each position.
        """
        memory, config = self.memory, self.config
        if self._turns is None or self._turns[0] is not turns:
            self._turns = turns, torch.from_numpy(turns).to(memory.device)
        ids = [token for new, _ in parts for token in new]
        places = [cache.length + i for new, cache in parts for i in range(len(new))]
        turn = self._turns[1][torch.tensor(places, device=memory.device)]  # [T, R/2]
        x = F.embedding(torch.tensor(ids, device=memory.device), self._embedding).float()
        for number, layer in enumerate(self._layers):
            x = x + self._attention(layer, number, layer.input_norm(x, memory.dtype), parts, turn).float()
            h = layer.mlp_norm(x, memory.dtype)
            if layer.router is not None and layer.experts is not None:
                index, weights = layer.router(h)
                x = x + _routed(h, index, weights, *layer.experts)
            if layer.always is not None:
                x = x + _swiglu(h, *layer.always).float()
        return self._norm(x).float().cpu().numpy().reshape(len(ids), config.hidden_size)

    @torch.inference_mode()
    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden [T, H] -> float32 [T, vocab]."""
        states = torch.from_numpy(np.ascontiguousarray(hidden)).to(self.memory.device)
        if self.memory.dtype == torch.float32:
            return F.linear(states, self._head).cpu().numpy()
        return F.linear(states.to(self.memory.dtype), self._head).float().cpu().numpy()

    def _attention(
        self, layer: _Layer, index: int, h: Tensor, parts: Sequence[tuple[Sequence[int], Cache]], turn: Tensor
    ) -> Tensor:
        """h [T, H], normed, and turn [T, R/2] -> [T, H]; the rows of the new tokens are written to the caches."""
        config = self.config
        heads, nope, latent = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
        down = h if layer.query_down is None else F.linear(h, layer.query_down)
        q = F.linear(down if layer.query_norm is None else layer.query_norm(down), layer.query).view(len(h), heads, -1)
        kv = F.linear(h, layer.latent)
        rows = torch.cat((layer.latent_norm(kv[:, :latent]), _turned(kv[:, latent:], turn)), 1)  # [T, C+R]
        absorbed = torch.einsum("tan,anc->tac", q[..., :nope], layer.key_up)
        q = torch.cat((absorbed, _turned(q[..., nope:], turn[:, None])), 2)  # [T, A, C+R]
        mixed, start = [], 0
        for new, cache in parts:
            own = slice(start, start + len(new))
            start += len(new)
            known = _written(cache, index, rows[own])  # [S, C+R]
            scores = torch.einsum("tac,sc->ats", q[own], known).float() * config.softmax_scale
            if len(new) > 1:
                future = torch.ones(len(new), len(known), dtype=torch.bool, device=h.device).triu_(cache.length + 1)
                scores.masked_fill_(future, -torch.inf)
            share = scores.softmax(-1).to(h.dtype)
            mixed.append(torch.einsum("ats,sc->tac", share, known[:, :latent]))
        values = torch.einsum("tac,avc->tav", torch.cat(mixed), layer.value_up)
        return F.linear(values.flatten(1), layer.out)


def _written(cache: Cache, layer: int, rows: Tensor) -> Tensor:
    """Put rows [n, C+R] behind the cache's; return all of the layer [S, C+R]."""
    size = cache.blocks[0].shape[1]
    done, total = 0, cache.length + len(rows)
    while done < len(rows):
        block, offset = divmod(cache.length + done, size)
        count = min(size - offset, len(rows) - done)
        cache.blocks[block][layer, offset : offset + count] = rows[done : done + count]
        done += count
    return torch.cat([cache.blocks[i // size][layer, : total - i] for i in range(0, total, size)])


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the pairs (x0, x1), (x2, x3), ... of x [..., R] by turn [..., R/2], in float32; x's type."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _swiglu(h: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(h, gate_up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


def _routed(
    h: Tensor, index: Tensor, weights: Tensor, gate_up: _Stack | _PackedStack, down: _Stack | _PackedStack
) -> Tensor:
    """h [T, H], index and weights [T, K] -> float32 [T, H]. Each expert multiplies the rows of its own tokens."""
    out = torch.zeros(h.shape, dtype=torch.float32, device=h.device)
    flat = index.reshape(-1)
    order = flat.argsort(stable=True)
    tokens = torch.div(order, index.shape[1], rounding_mode="floor")
    shares = weights.reshape(-1)[order, None]
    start = 0
    for expert, count in enumerate(torch.bincount(flat).tolist()):
        if count:
            own = slice(start, start + count)
            made = _swiglu(h[tokens[own]], gate_up[expert], down[expert]).float() * shares[own]
            out.index_add_(0, tokens[own], made)
            start += count
    return out
