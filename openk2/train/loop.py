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
from openk2.model.transformer import Transformer
from openk2.optim.distributed import clip_gradients_
from openk2.optim.muon import MuonAdamW, parameter_groups
from openk2.optim.qk_clip import qk_clip_all_
from openk2.train.checkpoint import Checkpoints, folders
from openk2.train.data import Source, Stream
from openk2.train.devices import peak_flops
from openk2.train.estimate import flops_per_token
from openk2.train.int4 import rounded
from openk2.train.packing import Packer, Prefetch
from openk2.train.parallel import World, balance, gradients, parallelise
from openk2.train.progress import Progress, stop_on_signal
from openk2.train.recipe import Stage
from openk2.train.samples import Sampler
from openk2.train.watch import LASTING, Spikes, explain
from openk2.train.workers import Workers, tune_allocator


@dataclass(frozen=True)
class Pace:
    """How a run is saved and watched: nothing here changes a loss."""

    checkpoint_minutes: float = 5.0
    keep: int = 2  # checkpoints
    log_every: int = 10  # steps
    sample_every: int = 200  # steps
    max_steps: int | None = None  # pause (as if killed after a checkpoint) at this step of the run
    recompute: int = 0  # every n-th block's activations are made again in the backward pass instead of kept; 0: none


@dataclass
class Position:
    """How far a run is. Tokens are real ones, without the filler of batches."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stage: int = 0
    stage_tokens: int = 0
    stage_seconds: float = 0.0

    def advance(self, tokens: int, seconds: float) -> None:
        """One step more."""
        self.step += 1
        self.tokens, self.stage_tokens = self.tokens + tokens, self.stage_tokens + tokens
        self.seconds, self.stage_seconds = self.seconds + seconds, self.stage_seconds + seconds

    def fraction(self, stage: Stage) -> float:
        """How much of the stage is done."""
        return max(self.stage_tokens / stage.tokens, self.stage_seconds / stage.seconds if stage.seconds else 0.0)


def train(
    model: Transformer, data: Sequence[Source], stages: Sequence[Stage], out: Path, world: World | None = None,
    say: Callable[[str], None] = print, pace: Pace = Pace(), sampler: Sampler | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train `model` through the stages; resumes the run in `out` if there is one. Returns the last row of metrics.

    Raises UserError when the loss spikes or stops being finite (the last checkpoint is then still good), when a
    checkpoint cannot be written, and when the one to resume is of another network, recipe or data.
    """
    if len({stage.optimizer == "adamw" for stage in stages}) > 1:
        raise UserError("Stages of one run share their optimizer's state: take adamw for all of them, or start anew.")
    world = world or World.single()
    tune_allocator()
    out.mkdir(parents=True, exist_ok=True)
    base, at, metrics = model.config, Position(), dict[str, Any]()
    parallelise(model, world, pace.recompute)
    model.train()
    optimizer = make_optimizer(model, stages[0])
    peak = peak_flops(world.device) * world.size
    for attention in model.attentions():
        attention.track_logits = True

    with Checkpoints(out, world, pace.keep, say) as checkpoints, stop_on_signal() as stopped:
        saved = checkpoints.restore(model, optimizer, stages)
        if saved:
            at = Position(**saved["position"])
        progress = Progress(out, at, stages, pace.log_every, say if world.is_main else None)
        stopping, position, saved_step, saved_time = False, dict[str, Any](), at.step, time.monotonic()

        def checkpoint() -> None:
            nonlocal saved_step, saved_time
            progress.flush()
            recipe = [asdict(stage) for stage in stages]
            state = {"config": base.to_hf(), "position": asdict(at), "stages": recipe, "data": position}
            checkpoints.save(model, optimizer, state)
            saved_step, saved_time = at.step, time.monotonic()

        for number in range(at.stage, len(stages)):
            stage = stages[number]
            if number > at.stage:
                at = Position(at.step, at.tokens, at.seconds, number)
            if stage.parts % world.size:
                raise UserError(
                    f"The {stage.parts} parts of a step of the stage {stage.name} do not divide among {world.size} "
                    f"processes; make --parts a multiple of {world.size}."
                )
            set_config(model, stage.config(base))
            set_options(optimizer, stage)
            model.alpha = stage.aux_loss
            stream = Stream(data, stage.name, stage.seed, min(stage.context, stage.part_tokens))
            packer = Packer(stream, stage.part_tokens, stage.parts, world.rank, world.size)
            if saved:
                packer.restore(saved["data"])
            spikes, qat = Spikes(progress.recent if saved else ()), bool(saved and progress.qat)
            saved, position, steps = None, packer.state(), Prefetch(packer, base.vocab_size, world.device)
            workers = Workers(len(packer.own) if world.size == 1 and world.device.type == "cpu" else 1)
            optimizer.executor = workers.executor

            while (done := at.fraction(stage)) < 1 and not stopping and at.step < (pace.max_steps or math.inf):
                started = time.monotonic()
                step = steps.next()
                rate = set_rate(optimizer, stage, done)
                if stage.qat > 0 and done >= 1 - stage.qat:
                    spikes = spikes if qat else Spikes()  # what is usual changes with the first rounded weights
                    qat = True

                own = round(total(world, sum(len(batch.rows) for batch in step.batches)))
                with rounded(model.experts() if qat else (), workers.map):
                    if world.size == 1:
                        losses = workers.gradients(model, step.batches, own)
                    else:
                        losses = gradients(model, step.batches, own, world)
                loss, aux_loss = (total(world, part) for part in losses)
                norm = float(clip_gradients_(model.parameters(), stage.clip, world.sum))
                row = {"step": at.step + 1, "stage": stage.name, "loss": loss, "grad_norm": norm}
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    names = [stream.name(key) for batch in step.batches for key in batch.keys]
                    first = explain(model, step.batches, names, out / "stopped.json", row, world)
                    raise stopped_by(f"became {loss} with a gradient norm of {norm} (first {first})", row, out)
                if (usual := spikes.add(loss, stage.spike)) is not None:
                    raise stopped_by(f"rose to {loss:.4f} where {usual:.4f} was usual", row, out)

                middle = time.monotonic()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                limit = stage.qk_clip if stage.optimizer == "muonclip" else math.inf
                logits, clipped = qk_clip_all_(model.attentions(), limit, world.max)
                load = balance(model, stage.balance * rate, world)

                ended = time.monotonic()
                due = ended - saved_time > pace.checkpoint_minutes * 60
                seconds, due, stopping = agreed(world, ended - started, due, bool(stopped))
                position = step.state
                at.advance(step.tokens, seconds)
                flops = step.tokens * flops_per_token(model.config, step.context, own / step.tokens)
                metrics = row | {
                    "tokens": at.tokens, "aux_loss": aux_loss, "own": own, "lr": stage.lr * rate, "max_logits": logits,
                    "clipped": clipped, "load": load, "qat": int(qat), "epoch": step.epoch, "seconds": at.seconds,
                    "tokens_per_second": step.tokens / seconds, "mfu": flops / seconds / peak,
                    "optimizer_share": (ended - middle) / seconds,
                }  # fmt: skip
                progress.row(metrics)
                if sampler and at.step % pace.sample_every == 0:
                    with rounded(model.experts() if qat else ()):
                        sampler.write(model, at.step, out / "samples.jsonl" if world.is_main else None)
                if due:
                    checkpoint()

            steps.close()
            if at.step != saved_step:
                checkpoint()
            if done < 1:
                say(f"stopped at step {at.step}; the same command goes on")
                return metrics
    say(f"done: {at.tokens / 1e6:.2f}M tokens in {at.step} steps, {at.seconds / 60:.1f} minutes")
    return metrics


def total(world: World, number: float) -> float:
    """Summed over all ranks."""
    return float(world.sum(torch.tensor(number, dtype=torch.float64)))


def agreed(world: World, seconds: float, due: bool, stopped: bool) -> tuple[float, bool, bool]:
    """What holds for all ranks: the main one's clock, whether it is time to save, and whether anyone is to stop."""
    mine = [seconds * world.is_main, due * world.is_main, stopped]
    seconds, due, stopped = world.sum(torch.tensor(mine, dtype=torch.float64)).tolist()
    return seconds, bool(due), bool(stopped)


def stopped_by(what: str, row: dict[str, Any], out: Path) -> UserError:
    """The error of a run that goes wrong at `row`, which names the last checkpoint before it went wrong."""
    good = [folder for folder in folders(out) if int(folder.name[-8:]) <= row["step"] - LASTING]
    advice = f"the last state before is {good[0]}" if good else "no state was saved before"
    return UserError(
        f"The loss {what} at step {row['step']} of the stage {row['stage']}; {advice}. Lower --lr or change the "
        "data, and start from there with --init and another --out."
    )


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


def build(config: ModelConfig, seed: int, mimetic: bool = False) -> Transformer:
    """A network with fresh weights from `seed`; `mimetic`: with attention that starts as a copying circuit."""
    model = Transformer(config)
    model.initialise(seed)
    if mimetic:
        initialise_mimetic(model, seed)
    return model
