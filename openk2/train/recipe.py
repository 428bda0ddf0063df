"""The recipe: what a stage of training is, and the stages of a whole run from one dial.

Kimi K2 (arXiv 2507.20534 §2.5): a warm-up, 10T tokens at a constant rate and 5.5T under a cosine to a tenth of it, with
4,096 tokens of context; then 400B tokens of annealing and 60B at 32k, while the rate falls to a third of that, and
YaRN for 128k.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.optim.schedule import WSD
from openk2.quant.packing import GROUP

OPTIMIZERS = ("muonclip", "muon", "adamw")
_K2_RATE_TIMES_WIDTH = 2e-4 * 7168  # K2's rate at its width; at nano's width, 256, it gives 5.6e-3, which was tuned
_STEPS_OF_20M, _TOKENS_OF_NANO = 8192, 20e6  # nano's batch at its tokens; K2's is 67M at 15.5T
_BATCH_GROWS = 0.664  # the power of the tokens that leads from one to the other


@dataclass(frozen=True)
class Stage:
    """Everything that decides the losses of a stage, apart from the network and the data.

    Equal stages from equal weights over equal data have equal losses, whatever the number of ranks, up to the order of
    float additions; with equal `parts` on one machine they are equal bit for bit.
    """

    name: str = "pretrain"
    tokens: int = 20_000_000  # length of the stage
    seconds: float | None = None  # end after so much training time, if it comes before the tokens
    batch: int = 8192  # tokens a step
    parts: int = 1  # micro-batches a step, of batch / parts tokens each
    context: int = 4096  # tokens of the longest document; longer ones are left out
    optimizer: str = "muonclip"  # or "muon" (no QK-Clip), or "adamw" for every parameter
    lr: float = 1e-2  # peak rate
    adam_scale: float = 0.3  # AdamW's share of the rate beside Muon: its steps are larger while gradients are steady
    weight_decay: float = 0.1
    momentum: float = 0.95  # Muon's
    warmup: float = 0.02  # first fraction of the stage, with a rising rate
    decay: float = 0.25  # last fraction, with a falling rate
    floor: float = 0.1  # where the rate ends, as a fraction of the peak
    clip: float = 1.0  # largest gradient norm
    qk_clip: float = 100.0  # largest attention logit
    balance: float = 1e-2  # step u of the router's bias; Moonlight's 1e-3 takes longer than a small run lasts
    aux_loss: float = 0.0  # alpha of the sequence-wise balance loss
    qat: float = 0.0  # last fraction, with the experts seen through INT4
    yarn: float | None = None  # factor of YaRN over the network's own context
    spike: float = 0.0  # stop when the loss is so many nats above the median of the last 200 steps; 0 never
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError when a value fits no stage."""
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"There is no optimizer {self.optimizer!r}; use {', '.join(OPTIMIZERS)}.")
        if self.batch % self.parts:
            raise UserError(f"A batch of {self.batch} tokens does not divide into {self.parts} parts; change one.")
        for name in ("warmup", "decay", "floor", "qat"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} = {getattr(self, name)} must be a fraction from 0 to 1.")
        if self.warmup + self.decay > 1:
            raise UserError(
                f"A warm-up of {self.warmup} and a decay of {self.decay} do not fit into one stage; lower one of them."
            )
        for name in ("tokens", "batch", "parts", "context", "lr", "qk_clip", "clip"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} = {getattr(self, name)} must be above 0.")

    @property
    def schedule(self) -> WSD:
        return WSD(self.warmup, self.decay, self.floor)

    @property
    def part_tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.batch // self.parts

    def config(self, base: ModelConfig) -> ModelConfig:
        """The network's description in this stage: `base`, its context stretched by YaRN as K2's is.

        Raises UserError when INT4 does not fit the experts' widths.
        """
        if self.qat and (base.hidden_size % GROUP or base.moe_intermediate_size % GROUP):
            raise UserError(f"INT4 needs widths that are multiples of {GROUP}; take an even --depth or --qat 0.")
        if not self.yarn:
            return base
        original = base.max_position_embeddings
        scaling: dict[str, Any] = {
            "type": "yarn", "factor": self.yarn, "original_max_position_embeddings": original,
            "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        }  # fmt: skip
        return replace(base, rope_scaling=scaling, max_position_embeddings=round(original * self.yarn))


def stage(values: dict[str, Any], **more: Any) -> Stage:
    """A stage from a table of fields, as a TOML file has it. Raises UserError naming a field there is none of."""
    values = more | values
    if unknown := sorted(values.keys() - {field.name for field in fields(Stage)}):
        known = ", ".join(field.name for field in fields(Stage))
        raise UserError(f"A stage has no {', '.join(unknown)}; its fields are {known}.")
    return Stage(**values)


def recipe(config: ModelConfig, tokens: int, *, parts: int = 1, yarn: float = 8.0, **values: Any) -> list[Stage]:
    """Pretraining, annealing and the long-context stage of a network: 85%, 10% and 5% of `tokens`.

    The rate falls with the width and the batch grows with the tokens, each by the power law through nano's and K2's own
    values. `values` are fields of Stage that are to hold for all of them.
    """
    wanted = _STEPS_OF_20M * (tokens / _TOKENS_OF_NANO) ** _BATCH_GROWS
    batch = max(parts * 1024, 1 << round(wanted).bit_length() - 1)
    context = min(config.max_position_embeddings, values.pop("context", batch // parts))
    steps = tokens / batch
    rate = round(_K2_RATE_TIMES_WIDTH / config.hidden_size, 5)
    shared = {
        "batch": batch, "parts": parts, "context": context, "lr": rate, "balance": min(1e-2, max(1e-3, 24 / steps)),
    } | values  # fmt: skip
    pretrain = stage(shared, name="pretrain", tokens=round(0.85 * tokens), warmup=0.02, decay=0.35)
    anneal = replace(
        pretrain, name="anneal", tokens=round(0.1 * tokens), lr=pretrain.lr * pretrain.floor, warmup=0.0, decay=1.0,
        floor=0.6, balance=0.0,
    )  # fmt: skip
    long_context = round(pretrain.context * yarn)
    long_batch = max(pretrain.batch, long_context)
    long = replace(
        anneal, name="long", tokens=round(0.05 * tokens), lr=anneal.lr * anneal.floor, context=long_context,
        batch=long_batch, parts=max(1, min(parts, long_batch // long_context)), yarn=yarn,
    )  # fmt: skip
    return [pretrain, anneal, long]
