"""The training loop: batch, loss, step, clip, balance, log, checkpoint; resumes bit for bit after a kill -9."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from openk2.errors import UserError
from openk2.model.config import ModelConfig
from openk2.model.mimetic import initialise_mimetic
from openk2.model.moe import Experts
from openk2.model.transformer import Transformer
from openk2.optim.muon import MuonAdamW, parameter_groups
from openk2.optim.qk_clip import qk_clip_all_
from openk2.optim.schedule import WSD
from openk2.quant.int4 import fake_quantize
from openk2.train.packing import Packer
from openk2.train.state import load_state, save_state
from openk2.train.workers import Workers, tune_allocator


@dataclass(frozen=True)
class Settings:
    """What decides a run, apart from its data and its network. Two runs with equal settings have equal losses."""

    tokens: int
    seconds: float | None = None  # end after so much training time, if it comes before the tokens
    lr: float = 1e-2
    adam_scale: float = 0.3  # AdamW's share of the rate: its steps are larger than Muon's while gradients are steady
    weight_decay: float = 0.1
    schedule: WSD = field(default_factory=WSD)
    clip: float = 1.0
    qk_clip: float = 100.0
    balance: float = 1e-2  # Moonlight's 1e-3 needs thousands of steps; a small run has only those
    qat_fraction: float = 0.2
    seed: int = 0
    checkpoint_minutes: float = 5.0
    log_every: int = 10
    max_steps: int | None = None  # stop (as if killed after a checkpoint) at this step: for tests and pauses


def train(
    model: Transformer, packer: Packer, settings: Settings, out: Path, say: Callable[[str], None] = print
) -> dict[str, float]:
    """Train `model` until the budget is spent; resumes from out/state.pt if there is one. Returns the last metrics.

    Raises UserError when the loss stops being finite: the last checkpoint is then still good.
    """
    tune_allocator()
    out.mkdir(parents=True, exist_ok=True)
    state_file, metrics_file = out / "state.pt", out / "metrics.jsonl"
    optimizer = MuonAdamW(parameter_groups(model), settings.lr, settings.weight_decay)
    workers = Workers(packer.parts)
    optimizer.executor = workers.executor
    step, tokens, elapsed = 0, 0, 0.0
    if state_file.exists():
        saved = load_state(state_file, model, optimizer, packer)
        step, tokens, elapsed = saved["step"], saved["tokens"], saved["elapsed"]
        _truncate(metrics_file, step)
        say(f"resumed at step {step}, {tokens / 1e6:.2f}M tokens")
        if settings.max_steps is not None and step >= settings.max_steps:
            say(f"step {settings.max_steps} is done")
            return {}
    model.train()
    for attention in model.attentions():
        attention.track_logits = True
    metrics: dict[str, float] = {}
    meter = _Meter(elapsed, tokens)
    saved_at = time.monotonic()

    def checkpoint() -> None:
        progress = {"step": step, "tokens": tokens, "elapsed": meter.elapsed(), "settings": asdict(settings)}
        save_state(state_file, model, optimizer, packer, progress)

    with _stop_on_signal() as stopped, metrics_file.open("a", encoding="utf-8") as log:
        while (progress := _progress(settings, tokens, meter.elapsed())) < 1:
            batches = packer.step()
            rate = settings.schedule.at(progress)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * max(rate, 1e-3) * (1.0 if group["muon"] else settings.adam_scale)
            qat = settings.qat_fraction > 0 and progress >= 1 - settings.qat_fraction
            if qat:
                workers.map(_quantise_experts, model.experts())

            loss = workers.gradients(model, batches)
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(
                    f"The loss became {loss} (gradient norm {norm}) at step {step}; the last good state is in "
                    f"{state_file}. Lower --lr and start again with --init {out}."
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            logit, clipped = qk_clip_all_(model.attentions(), settings.qk_clip)
            load = max((moe.balance(settings.balance * rate) for moe in model.moe_layers()), default=1.0)

            step, tokens = step + 1, tokens + sum(batch.tokens for batch in batches)
            metrics = {
                "step": step, "tokens": tokens, "loss": loss, "own": sum(len(batch.rows) for batch in batches),
                "grad_norm": norm,
                "lr": settings.lr * rate, "max_logit": logit, "clipped_heads": clipped, "load": load, "qat": int(qat),
                "epoch": packer.stream.epochs(), "seconds": meter.elapsed(),
            }  # fmt: skip
            log.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in metrics.items()}) + "\n")
            if step % settings.log_every == 0 or step == 1:
                log.flush()
                say(_line(metrics, settings, meter.speed(tokens), progress))
            last = settings.max_steps is not None and step >= settings.max_steps
            if time.monotonic() - saved_at > settings.checkpoint_minutes * 60 or last or stopped:
                log.flush()
                checkpoint()
                saved_at = time.monotonic()
            if last or stopped:
                say(f"stopped at step {step}; the same command resumes it")
                return metrics
        checkpoint()
    for experts in model.experts():
        experts.override = None
    say(f"done: {tokens / 1e6:.2f}M tokens in {step} steps, {meter.elapsed() / 60:.1f} minutes")
    return metrics


def _quantise_experts(experts: Experts) -> None:
    """Let the forward passes of this step see the experts' weights as an INT4 export would store them."""
    gate, up, down = (fake_quantize(p.detach()) for p in (experts.gate_proj, experts.up_proj, experts.down_proj))
    experts.override = (gate, up, down)


def _progress(settings: Settings, tokens: int, elapsed: float) -> float:
    by_time = elapsed / settings.seconds if settings.seconds else 0.0
    return max(tokens / settings.tokens, by_time)


class _Meter:
    """Training seconds over all resumptions, and the recent speed."""

    def __init__(self, elapsed: float, tokens: int) -> None:
        self._start = time.monotonic() - elapsed
        self._mark = (time.monotonic(), tokens)
        self._speed = 0.0

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def speed(self, tokens: int) -> float:
        """Tokens a second since the last call, smoothed."""
        now = time.monotonic()
        recent = (tokens - self._mark[1]) / max(now - self._mark[0], 1e-9)
        self._mark = (now, tokens)
        self._speed = 0.7 * self._speed + 0.3 * recent if self._speed else recent
        return self._speed


def _line(metrics: dict[str, float], settings: Settings, speed: float, progress: float) -> str:
    left = (settings.tokens - metrics["tokens"]) / max(speed, 1e-9)
    if settings.seconds:
        left = min(left, settings.seconds - metrics["seconds"])
    return (
        f"step {metrics['step']:>6}  {metrics['tokens'] / 1e6:8.2f}M tokens {100 * progress:5.1f}%  "
        f"loss {metrics['loss']:7.4f}  {speed:6.0f} tok/s  ETA {max(left, 0) / 60:5.1f} min  "
        f"grad {metrics['grad_norm']:6.3f}  lr {metrics['lr']:.2e}  logit {metrics['max_logit']:5.1f}  "
        f"load {metrics['load']:4.2f}{'  int4' if metrics['qat'] else ''}"
    )


def _truncate(metrics_file: Path, step: int) -> None:
    """Drop metrics of steps after the checkpoint: they will be made again."""
    if metrics_file.exists():
        lines = metrics_file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        metrics_file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a step ends before the run does. A second SIGINT interrupts at once."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals go elsewhere
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build(config: ModelConfig, seed: int, mimetic: bool = False) -> Transformer:
    """A network with fresh weights from `seed`; `mimetic`: with attention that starts as a copying circuit."""
    model = Transformer(config)
    model.initialise(seed)
    if mimetic:
        initialise_mimetic(model, seed)
    return model
