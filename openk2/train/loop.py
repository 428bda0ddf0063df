"""The training loop: batch, loss, step, clip, balance, log, checkpoint; resumes bit for bit after a kill -9."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from openk2.errors import UserError
from openk2.model.attention import LatentAttention
from openk2.model.config import ModelConfig
from openk2.model.mimetic import initialise_mimetic
from openk2.model.moe import Experts
from openk2.model.transformer import Transformer
from openk2.optim.muon import MuonAdamW, parameter_groups
from openk2.optim.qk_clip import qk_clip_all_
from openk2.quant.int4 import fake_quantize
from openk2.train.data import Source, Stream
from openk2.train.packing import Packer
from openk2.train.parallel import World
from openk2.train.progress import Progress, stop_on_signal
from openk2.train.recipe import Stage
from openk2.train.state import load_state, save_state
from openk2.train.workers import Workers, tune_allocator


@dataclass(frozen=True)
class Pace:
    """How a run is saved and watched: nothing here changes a loss."""

    checkpoint_minutes: float = 5.0
    log_every: int = 10  # steps
    max_steps: int | None = None  # pause (as if killed after a checkpoint) at this step of the run


@dataclass
class Position:
    """How far a run is. Tokens are real ones, without the filler of batches."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stage: int = 0
    stage_tokens: int = 0
    stage_seconds: float = 0.0

    def fraction(self, stage: Stage) -> float:
        """How much of the stage is done."""
        return max(self.stage_tokens / stage.tokens, self.stage_seconds / stage.seconds if stage.seconds else 0.0)


def train(
    model: Transformer, data: Sequence[Source], stages: Sequence[Stage], out: Path, world: World | None = None,
    say: Callable[[str], None] = print, pace: Pace = Pace(),
) -> dict[str, Any]:  # fmt: skip
    """Train `model` through the stages; resumes the run in `out` if there is one. Returns the last row of metrics.

    Raises UserError when the loss stops being finite: the last checkpoint is then still good.
    """
    world = world or World.single()
    tune_allocator()
    out.mkdir(parents=True, exist_ok=True)
    state_file, base = out / "state.pt", model.config
    optimizer = make_optimizer(model, stages[0])
    at, metrics = Position(), dict[str, Any]()
    saved = load_state(state_file, model, optimizer) if state_file.exists() else None
    if saved:
        at = Position(**saved["position"])
    for attention in model.attentions():
        attention.track_logits = True
    model.train()

    def checkpoint() -> None:
        progress = {"position": asdict(at), "stages": [asdict(stage) for stage in stages]}
        save_state(state_file, model, optimizer, packer, progress)

    with stop_on_signal() as stopped, Progress(out, at, stages, pace.log_every, say) as progress:
        while at.stage < len(stages):
            stage = stages[at.stage]
            set_config(model, stage.config(base))
            stream = Stream(data, stage.name, stage.seed, min(stage.context, stage.part_tokens))
            packer = Packer(stream, stage.part_tokens, stage.parts)
            if saved and at.stage_tokens:
                packer.restore(saved["data"])
            saved = None
            set_options(optimizer, stage)
            workers = Workers(stage.parts)
            optimizer.executor = workers.executor
            while (done := at.fraction(stage)) < 1 and not (pace.max_steps and at.step >= pace.max_steps):
                started = time.monotonic()
                batches = packer.step()
                rate = set_rate(optimizer, stage, done)
                if qat := done >= 1 - stage.qat and stage.qat > 0:
                    workers.map(quantise_experts, model.experts())
                loss = workers.gradients(model, batches)
                norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip))
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise UserError(
                        f"The loss became {loss} (gradient norm {norm}) at step {at.step}; the last good state is in "
                        f"{state_file}. Lower --lr and start again with --init {out}."
                    )
                middle = time.monotonic()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                logits, clipped = qk_clip_all_(
                    model.attentions(), stage.qk_clip if stage.optimizer == "muonclip" else math.inf
                )
                load = [moe.balance(stage.balance * rate) for moe in model.moe_layers()]

                ended = time.monotonic()
                tokens = sum(batch.tokens for batch in batches)
                at.step, at.tokens, at.stage_tokens = at.step + 1, at.tokens + tokens, at.stage_tokens + tokens
                at.seconds, at.stage_seconds = at.seconds + ended - started, at.stage_seconds + ended - started
                metrics = {
                    "step": at.step, "stage": stage.name, "tokens": at.tokens, "loss": loss, "aux_loss": 0.0,
                    "own": sum(len(batch.rows) for batch in batches), "grad_norm": norm, "lr": stage.lr * rate,
                    "max_logits": logits, "clipped": clipped, "load": load, "qat": int(qat),
                    "epoch": packer.stream.epochs(), "seconds": at.seconds,
                    "tokens_per_second": tokens / (ended - started), "mfu": None,
                    "optimizer_share": (ended - middle) / (ended - started),
                }  # fmt: skip
                progress.row(metrics)
                if stopped:
                    break
                if progress.since_save() > pace.checkpoint_minutes * 60:
                    progress.save(checkpoint)
            if stopped or done < 1:
                progress.save(checkpoint)
                say(f"stopped at step {at.step}; the same command resumes it")
                return metrics
            at = Position(at.step, at.tokens, at.seconds, at.stage + 1)
            progress.save(checkpoint)
            for experts in model.experts():
                experts.override = None
    say(f"done: {at.tokens / 1e6:.2f}M tokens in {at.step} steps, {at.seconds / 60:.1f} minutes")
    return metrics


def make_optimizer(model: Transformer, stage: Stage) -> MuonAdamW:
    """Muon for matrices and AdamW for the rest, or AdamW for all of them under the same rules of decay."""
    groups = parameter_groups(model)
    if stage.optimizer == "adamw":
        groups = [{"params": list(model.parameters()), "muon": False}]
    return MuonAdamW(groups, stage.lr, stage.weight_decay, stage.momentum)


def set_options(optimizer: MuonAdamW, stage: Stage) -> None:
    for group in optimizer.param_groups:
        group.update(weight_decay=stage.weight_decay, momentum=stage.momentum)


def set_rate(optimizer: MuonAdamW, stage: Stage, done: float) -> float:
    """Set the learning rates of the step at fraction `done` of the stage; returns the rate over its peak."""
    rate = max(stage.schedule.at(done), 1e-3)
    for group in optimizer.param_groups:
        share = 1.0 if group["muon"] or stage.optimizer == "adamw" else stage.adam_scale
        group["lr"] = stage.lr * rate * share
    return rate


def set_config(model: Transformer, config: ModelConfig) -> None:
    """Let a network that stands be read by another description of equal sizes: YaRN changes only how it is used."""
    model.config = config
    for module in model.modules():
        if isinstance(module, LatentAttention):
            module.config = config


def quantise_experts(experts: Experts) -> None:
    """Let the forward passes of this step see the experts' weights as an INT4 export would store them."""
    gate, up, down = (fake_quantize(p.detach()) for p in (experts.gate_proj, experts.up_proj, experts.down_proj))
    experts.override = (gate, up, down)


def build(config: ModelConfig, seed: int, mimetic: bool = False) -> Transformer:
    """A network with fresh weights from `seed`; `mimetic`: with attention that starts as a copying circuit."""
    model = Transformer(config)
    model.initialise(seed)
    if mimetic:
        initialise_mimetic(model, seed)
    return model
