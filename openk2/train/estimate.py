"""What a training run takes, before it is started: parameters, FLOPs, memory of a device, hours, cost, expected loss.

FLOPs count a multiplication and an addition as two, the backward pass as twice the forward pass, and nothing that is
computed again (activation checkpointing): the same count, over time and peak, is the loop's MFU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.train.devices import Device, peak_flops

__all__ = ["Layout", "estimate", "expected_loss", "flops_per_token", "memory", "peak_flops", "states"]

# Model FLOPs over peak that mixtures of experts were seen to reach. PyTorch's own parts: 13.5% (torchtitan#1993, eight
# B200) to 17% (prime-rl's baselines, eight H200), 20 to 25% when tuned; Megatron-Bridge 26.02 20 to 25% (H100);
# DeepSeek-V3's own run 39% (2.664M hours for 14.8T tokens). What a first run may hope for, between two ends:
MFU_LOW, MFU, MFU_HIGH = 0.15, 0.20, 0.35
MFU_CPU = 0.33  # this project's loop on two cores (docs/bench.md)
_LOSS_CHUNK = 256  # rows of logits held at once, as in model/transformer.py


def flops_per_token(config: ModelConfig, context: float, own: float = 1.0) -> float:
    """Forward and backward FLOPs a token, in causal documents of `context` tokens.

    6 a matrix parameter that the token meets (arXiv 2001.08361 §2.1), embedding look-ups excluded; and attention's two
    products with (context + 1) / 2 keys on average: 6 (qk + v) heads a key and layer (arXiv 2204.02311 App. B, with
    MLA's two sizes and without the masked half). `own`: the share of tokens that are learned and so meet the head.
    """
    c = config
    count = c.count()
    moe = c.moe_layers()
    router = moe * c.n_routed_experts * c.hidden_size
    routed = count.routed * c.num_experts_per_tok // c.n_routed_experts
    matrices = count.attention + count.dense + router + count.shared + routed
    head = c.vocab_size * c.hidden_size * own
    attention = c.num_hidden_layers * c.num_attention_heads * (c.qk_head_dim + c.v_head_dim) * (context + 1) / 2
    return 6.0 * (matrices + head + attention)


@dataclass(frozen=True)
class Layout:
    """How a network lies on devices: dp * pp of them, with expert parallelism over ep of each dp.

    zero 3: weights, gradients and optimizer sharded over all devices, float32 masters cast when used (this project's
    FSDP2). zero 1: bf16 weights and float32 gradients whole in each pipeline stage, experts spread over ep, only the
    masters and the optimizer sharded over all (Megatron's, and K2's own run, arXiv 2507.20534 §2.4).
    """

    dp: int = 1
    ep: int = 1
    pp: int = 1
    zero: int = 3

    def __post_init__(self) -> None:
        """Raises UserError when the numbers do not divide."""
        if min(self.dp, self.ep, self.pp) < 1 or self.dp % self.ep:
            raise UserError(f"{self.dp} data-parallel devices do not divide by --ep {self.ep}; change one of them.")
        if self.zero not in (1, 3) or (self.zero == 3 and self.pp > 1):
            raise UserError("--zero is 3 (everything sharded, no pipeline) or 1; a pipeline needs --zero 1.")

    @property
    def devices(self) -> int:
        return self.dp * self.pp


def _trained(config: ModelConfig) -> tuple[int, int, int]:
    """Trained parameters: routed experts, Muon's other matrices, and AdamW's (embedding, head, router, norms)."""
    count = config.count()
    router = config.moe_layers() * config.n_routed_experts * config.hidden_size  # the selection bias is not trained
    adam = count.embedding + count.head + router + count.norms
    return count.routed, count.attention + count.dense + count.shared, adam


def states(config: ModelConfig, layout: Layout, optimizer: str = "muonclip") -> dict[str, float]:
    """Bytes of one device for `weights`, `gradients` and `optimizer` while all gradients are there.

    With zero 1 the fp32 masters count as optimizer. Muon keeps one float32 a parameter, AdamW two.
    """
    routed, matrices, adam = _trained(config)
    held = routed + matrices + adam
    moments = 8 * adam + (8 if optimizer == "adamw" else 4) * (routed + matrices)
    if layout.zero == 3:
        whole = {"weights": 4 * held, "gradients": 4 * held, "optimizer": moments}
        return {kind: size / layout.devices for kind, size in whole.items()}
    here = (routed / layout.ep + matrices + adam) / layout.pp
    return {"weights": 2 * here, "gradients": 4 * here, "optimizer": (moments + 4 * held) / layout.devices}


def activations(config: ModelConfig, context: float, checkpointing: bool, flash: bool) -> float:
    """Bytes a token that the forward pass keeps for the backward pass, residual stream float32 and the rest bf16.

    `checkpointing`: only each block's input is kept, and one block at a time is computed again. `flash`: attention
    keeps no probabilities (flex_attention); the CPU path keeps them.
    """
    c = config
    h, heads, moe = c.hidden_size, c.num_attention_heads, c.moe_layers()
    latent = 6 * (c.kv_lora_rank + (c.q_lora_rank or 0))
    qkv = 2 * heads * (2 * c.qk_head_dim + c.v_head_dim)
    extra = 2 * heads * c.qk_nope_head_dim + 4 * heads if flash else heads * context
    attention = 4 * h + 2 * h + latent + qkv + extra + 2 * heads * c.v_head_dim
    norm = 4 * h + 2 * h
    dense = norm + 4 * c.intermediate_size
    k, i = c.num_experts_per_tok, c.moe_intermediate_size
    experts = norm + 4 * h + 4 * c.n_routed_experts + k * (2 * h + 4 * i) + 4 * i * c.n_shared_experts
    if checkpointing:
        largest = experts if moe == c.num_hidden_layers else max(experts if moe else 0, dense)
        body = 4 * h * c.num_hidden_layers + attention + largest
    else:
        body = c.num_hidden_layers * attention + moe * experts + (c.num_hidden_layers - moe) * dense
    return body + 12 * h  # last norm, hidden states of the head and their gradient


def memory(
    config: ModelConfig, layout: Layout, micro: int, context: float, optimizer: str = "muonclip", *,
    checkpointing: bool = False, qat: bool = False, flash: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Bytes of one device by kind while a micro-batch of `micro` tokens goes backward.

    `copies`: values of the weights in use. On one device bf16, all of them until their backward pass, or one block with
    checkpointing. When sharded two gathered blocks in bf16 and one block's gradient, and outside the blocks embedding
    and head in float32 and the former's gradient. `int4`: the experts' values as INT4 gives them.
    """
    c = config
    kinds = states(c, layout, optimizer)
    routed, matrices, _ = _trained(c)
    blocks = (routed / layout.ep + matrices) / c.num_hidden_layers
    if layout.zero == 1:
        copies = 0.0
    elif layout.devices > 1:
        copies = blocks * (2 * 2 + 4) + 8 * c.count().embedding + 4 * c.count().head
    else:
        copies = 2 * (blocks if checkpointing else routed + matrices)
    return kinds | {
        "int4": 4 * routed / (layout.ep * layout.pp if layout.zero == 1 else layout.devices) if qat else 0.0,
        "copies": copies,
        "activations": micro * activations(c, context, checkpointing, flash),
        "logits": c.vocab_size * (min(micro, _LOSS_CHUNK) * 10 + (6 * c.hidden_size if layout.zero == 3 else 0)),
    }


def joint_law(active: float, tokens: float, ratio: float) -> float:
    """Loss of a network of `ratio` times as many experts as it uses: arXiv 2502.05172 eq. 6, coefficients of table 3.

    Over 280 runs of 79M to 2.7B active parameters, 0.5B to 80B tokens, ratios of 1 to 32.
    """
    hat = 1 / (1 / (ratio - 1 + 1 / (1 / 2.0732 - 1 / 290.4521)) + 1 / 290.4521)
    log = math.log(hat)
    of_size = 35.91 * hat**-0.2285 * active ** (-0.1889 + 0.0098 * log)
    return of_size + 35.98 * hat**0.5529 * tokens ** (-0.1775 - 0.0259 * log) + 1.3637


def sparsity_law(total: float, tokens: float, ratio: float) -> float:
    """The same from all parameters: arXiv 2501.12370 eq. 6, coefficients of table 3; R2 of 68% on a ratio held out."""
    used = 1 / ratio
    of_ratio = 0.4598 * used**0.1666 + 17.26 / (used**0.1603 * total**0.1595)
    return 16612.50 / total**0.5962 + 5455.67 / tokens**0.3954 + of_ratio + 0.94


def expected_loss(config: ModelConfig, tokens: float) -> list[dict[str, Any]]:
    """Loss in nats a token on natural text, trained from scratch, by two published laws.

    `inside`: whether this run is like those of the joint law. Text and vocabulary shift the level: differences between
    two runs say more than the value. A value near the entropy of guessing or above means that a law does not reach down
    to so small a run, and is left out.
    """
    count = config.count()
    ratio = config.n_routed_experts / config.num_experts_per_tok if config.moe_layers() else 1.0
    inside = 79e6 <= count.active <= 2.7e9 and 5e8 <= tokens <= 8e10 and ratio <= 32 and tokens <= 150 * count.active
    laws = {
        "joint MoE law (arXiv 2502.05172)": joint_law(count.active, tokens, ratio),
        "sparsity law (arXiv 2501.12370)": sparsity_law(count.total, tokens, ratio),
    }
    guessing = math.log(config.vocab_size)
    return [{"law": law, "loss": x, "inside": inside} for law, x in laws.items() if x < 0.8 * guessing]


def estimate(
    config: ModelConfig, tokens: float, device: Device, layout: Layout, *, context: int = 4096,
    batch: int | None = None, micro: int | None = None, optimizer: str = "muonclip", checkpointing: bool | None = None,
    qat: bool = False, mfu: float | None = None, price: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All of the above for one run, as plain numbers: bytes, FLOPs, hours, dollars.

    `micro`: tokens a device holds at once (default: one document). `checkpointing`: by default on GPUs only. Memory
    counts as enough when it fills 92% of a device at most: the rest goes to the driver and to gaps between blocks.

    Raises UserError when the run is impossible as stated (no tokens, experts that do not divide by ep, an MFU above 1).
    """
    cpu = device.name == "CPU"
    mfu = mfu or (MFU_CPU if cpu else MFU)
    price = device.price if price is None else price
    micro = micro or context
    checkpointing = not cpu if checkpointing is None else checkpointing
    if tokens <= 0 or context < 1 or micro < 1 or not 0 < mfu <= 1:
        raise UserError("Tokens, context and micro-batch must be above 0, and --mfu between 0 and 1.")
    if config.n_routed_experts % layout.ep:
        raise UserError(f"{config.n_routed_experts} experts do not divide by --ep {layout.ep}; change it.")
    count = config.count()
    per_token = flops_per_token(config, context)
    kinds = memory(config, layout, micro, context, optimizer, checkpointing=checkpointing, qat=qat, flash=not cpu)
    peak = layout.devices * device.flops
    hours = {name: per_token * tokens / (peak * value) / 3600 for name, value in
             (("at", mfu), ("low", max(mfu, MFU_HIGH)), ("high", min(mfu, MFU_LOW)))}  # fmt: skip
    return {
        "parameters": {"total": count.total, "active": count.active},
        "tokens": tokens, "context": context, "batch": batch, "steps": tokens / batch if batch else None,
        "flops_per_token": per_token, "flops": per_token * tokens,
        "device": device.name, "devices": layout.devices, "peak_flops": peak, "memory_of_device": device.memory,
        "layout": {"dp": layout.dp, "ep": layout.ep, "pp": layout.pp, "zero": layout.zero},
        "optimizer": optimizer, "micro": micro, "checkpointing": checkpointing,
        "memory": kinds, "memory_total": sum(kinds.values()), "fits": sum(kinds.values()) <= 0.92 * device.memory,
        "mfu": mfu, "hours": hours, "tokens_per_second": peak * mfu / per_token,
        "device_hours": hours["at"] * layout.devices, "price": price, "price_source": device.price_source,
        "cost": None if price is None else hours["at"] * layout.devices * price,
        "expected_loss": expected_loss(config, tokens),
    }  # fmt: skip
