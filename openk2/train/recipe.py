"""The recipe: what a stage of training is, and the stages of a whole run from one dial.

Kimi K2 (arXiv 2507.20534 §2.5): a warm-up, 10T tokens at a constant rate and 5.5T under a cosine to a tenth of it, with
4,096 tokens of context; then 400B tokens of annealing and 60B at 32k, while the rate falls to a third of that, and
YaRN for 128k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.optim.schedule import WSD
from openk2.quant.packing import GROUP

OPTIMIZERS = ("muonclip", "muon", "adamw")
_K2_RATE_TIMES_WIDTH = 2e-4 * 7168  # K2's rate at its width; at nano's width, 256, it gives 5.6e-3, which was tuned
_BATCH_OF_NANO, _TOKENS_OF_NANO = 8192, 20e6  # nano's batch at its tokens; K2's is 67M at 15.5T
_BATCH_GROWS = 0.664  # the power of the tokens that leads from one to the other
_BALANCE_TIMES_STEPS = 24.0  # 1e-2 for nano's 2,400 steps, and Moonlight's 1e-3 from 24,000 on


_T = TypeVar("_T")


def of(default: _T, help: str) -> _T:
    """A field of a stage, which the command line makes an option of."""
    return field(default=default, metadata={"help": help})  # type: ignore[return-value]


@dataclass(frozen=True)
class Stage:
    """Everything that decides the losses of a stage, apart from the network and the data.

    Equal stages from equal weights over equal data have equal losses, whatever the number of ranks, up to the order of
    float additions; with equal `parts` on one machine they are equal bit for bit.
    """

    name: str = "pretrain"
    tokens: int = of(20_000_000, "Tokens to train on.")
    seconds: float | None = of(None, "End after so much training time, if that comes first.")
    batch: int = of(8192, "Tokens a step.")
    parts: int = of(1, "Micro-batches of a step; sets the last digits.")
    context: int = of(4096, "Tokens of the longest document; longer ones are left out.")
    optimizer: str = of("muonclip", "muonclip, muon (no QK-Clip), or adamw for every parameter.")
    lr: float = of(1e-2, "Peak rate.")
    # AdamW's steps are larger than Muon's while gradients are steady.
    adam_scale: float = of(0.3, "AdamW's share of the rate, beside Muon.")
    weight_decay: float = of(0.1, "Share of each weight taken off a step, times the rate.")
    momentum: float = of(0.95, "Muon's momentum.")
    warmup: float = of(0.02, "First fraction, with a rising rate.")
    decay: float = of(0.25, "Last fraction, with a falling rate.")
    floor: float = of(0.1, "Where the rate ends, as a fraction of its peak.")
    clip: float = of(1.0, "Largest norm of the gradient.")
    qk_clip: float = of(100.0, "Largest attention logit.")
    # Moonlight's 1e-3 takes longer to balance than a small run lasts.
    balance: float = of(1e-2, "Step of the router's selection bias.")
    aux_loss: float = of(0.0, "Weight of the sequence-wise balance loss.")
    qat: float = of(0.0, "Last fraction, with the experts seen through INT4.")
    yarn: float | None = of(None, "Factor by which YaRN stretches the network's own context.")
    spike: float = of(10.0, "Stop when the loss is so many deviations above usual for three steps; 0: never.")
    seed: int = of(0, "Seed of the weights and of the data's order.")

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
        original = (base.rope_scaling or {}).get("original_max_position_embeddings") or base.max_position_embeddings
        scaling: dict[str, Any] = {
            "type": "yarn", "factor": self.yarn, "original_max_position_embeddings": original,
            "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        }  # fmt: skip
        return replace(base, rope_scaling=scaling, max_position_embeddings=round(original * self.yarn))


def stage(values: dict[str, Any], **more: Any) -> Stage:
    """A stage from a table of fields, as a TOML file has it. Raises UserError naming a field there is none of."""
    values = more | values
    hints = get_type_hints(Stage)
    if unknown := sorted(values.keys() - {field.name for field in fields(Stage)}):
        known = ", ".join(field.name for field in fields(Stage))
        raise UserError(f"A stage has no {', '.join(unknown)}; its fields are {known}.")
    return Stage(**{name: _fitted(name, value, hints[name]) for name, value in values.items()})


def _fitted(name: str, value: Any, kind: Any) -> Any:
    """`value` in the type of its field, which is str, int, float, or float | None."""
    if kind in (str, int):
        if type(value) is kind:
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif value is None and kind is not float:
        return None
    raise UserError(f"{name} = {value!r} is no { {str: 'text', int: 'whole number'}.get(kind, 'number') }.")


def recipe(config: ModelConfig, tokens: int, *, parts: int = 1, ranks: int = 1, **values: Any) -> list[Stage]:
    """Pretraining, annealing and the long-context stage of a network: 85%, 10% and 5% of `tokens`.

    The rate falls with the width and the batch grows with the tokens, each by the power law through nano's and K2's own
    values; the context is the network's. `values` are fields of Stage that hold for all of them in place of these,
    but `yarn`, which is the long stage's, and `seconds`, which are divided as the tokens are. Every one of `ranks`
    processes gets equally many parts.
    """
    stretch, seconds = values.pop("yarn", 8.0), values.pop("seconds", None)
    wanted = _BATCH_OF_NANO * (tokens / _TOKENS_OF_NANO) ** _BATCH_GROWS
    batch = values.pop("batch", max(parts * config.max_position_embeddings, 1 << round(math.log2(wanted))))
    rate = float(f"{_K2_RATE_TIMES_WIDTH / config.hidden_size:.2g}")

    def part(name: str, share: float, **own: Any) -> Stage:
        own |= {
            "aux_loss": config.aux_loss_alpha,
            "tokens": round(share * tokens),
            "seconds": seconds and share * seconds,
        }
        context = own.setdefault("context", config.max_position_embeddings)
        own["batch"] = -(-max(batch, ranks * context) // ranks) * ranks
        own["parts"] = max(ranks, min(parts, own["batch"] // context))
        while own["batch"] % own["parts"] or own["parts"] % ranks:
            own["parts"] -= 1
        return stage(own | values, name=name)

    balance = min(1e-2, max(1e-3, _BALANCE_TIMES_STEPS * batch / tokens))
    pretrain = part("pretrain", 0.85, lr=rate, warmup=0.02, decay=0.35, balance=balance)
    rate = values.pop("lr", rate) * pretrain.floor
    values = {name: value for name, value in values.items() if name not in ("warmup", "decay", "floor", "context")}
    anneal = part("anneal", 0.1, lr=rate, warmup=0.0, decay=1.0, floor=0.6, balance=0.0, context=pretrain.context)
    long = part(
        "long", 0.05, lr=rate * anneal.floor, warmup=0.0, decay=1.0, floor=0.6, balance=0.0, yarn=stretch,
        context=round(pretrain.context * stretch),
    )  # fmt: skip
    return [pretrain, anneal, long]
