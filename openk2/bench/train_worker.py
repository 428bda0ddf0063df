"""`python -m openk2.bench.train_worker NAME`: one way to train, in a process of its own, asked by JSON lines.

    {"do": "open", "path", "threads", "way"}  -> {"about"}; `way`: as "choose" found it (transformers)
    {"do": "choose", "ids", "parts"}          -> {"way"}: the quickest of transformers' ways, on a small batch
    {"do": "step", "ids", "parts"}            -> {"seconds", "optimizer_seconds", "loss"}: one optimizer step, after a
                                                 pass that is not timed; between steps it holds little memory
    {"do": "memory"}                          -> {"bytes"}: the most that was in memory
    {"do": "peak", "threads"}                 -> {"operations_per_second"} of bf16 matrix products

`ids` are the tokens of all documents, `parts` their lengths: a list for each of the equal parts of the batch.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openk2.bench.worker import serve
from openk2.model.transformer import Transformer
from openk2.optim.muon import MuonAdamW, parameter_groups
from openk2.optim.qk_clip import qk_clip_all_
from openk2.train.checkpoint import initial_weights
from openk2.train.packing import Batch
from openk2.train.workers import Workers, give_back_memory, tune_allocator, use_onednn

RATES = {"adamw": 1e-3, "muon": 5e-3}
DECAY, BETAS, CLIP, QK_CLIP, BALANCE = 0.1, (0.9, 0.95), 1.0, 100.0, 1e-3
PEAK_SIZE = 2048
Documents = list[list[int]]


class Trainer(Protocol):
    about: str
    model: Any

    def gradients(self, ids: Tensor, parts: Documents) -> float:
        """Sets the gradients of the mean loss over all tokens but the documents' first; returns the loss."""
        ...

    def update(self) -> None:
        """The optimizer's step, and what belongs to it."""
        ...


class Ours:
    """This project's network and threads, with MuonClip or an optimizer of torch."""

    def __init__(self, path: Path, threads: int, optimizer: str) -> None:
        torch.set_num_threads(threads)
        config, weights = initial_weights(path)
        self.model: Any = Transformer(config)
        self.model.load_tensors(weights)
        self.model.train()
        self.clips = optimizer == "muonclip"
        for attention in self.model.attentions():
            attention.track_logits = self.clips
        self.workers = Workers(threads)
        groups = parameter_groups(self.model)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.slices: list[tuple[Tensor, int, Tensor]] = []  # stack of experts, number, its matrix as a parameter
        if optimizer == "adamw":
            self.optimizers.append(_adamw(self.model.parameters()))
        elif optimizer == "muonclip":
            ours = MuonAdamW(groups, RATES["muon"], DECAY)
            ours.executor = self.workers.executor
            self.optimizers.append(ours)
        else:
            stacks = [p for p in groups[0]["params"] if p.ndim == 3]
            self.slices = [(p, e, nn.Parameter(p.data[e])) for p in stacks for e in range(len(p))]
            matrices = [p for p in groups[0]["params"] if p.ndim == 2] + [matrix for _, _, matrix in self.slices]
            muon = torch.optim.Muon(matrices, RATES["muon"], DECAY, 0.95, adjust_lr_fn="match_rms_adamw")
            self.optimizers += [muon, _adamw(groups[1]["params"])]
        names = {"muonclip": "MuonClip", "adamw": "torch's fused AdamW", "muon": "torch.optim.Muon and fused AdamW"}
        self.about = f"float32 masters, bf16 products, a thread a part; {names[optimizer]}"

    def gradients(self, ids: Tensor, parts: Documents) -> float:
        batches = []
        for lengths, part in zip(parts, ids.split([sum(lengths) for lengths in parts]), strict=True):
            own = torch.ones(len(part), dtype=torch.bool)
            own[[0, *itertools.accumulate(lengths[:-1])]] = False
            batches.append(Batch(part, lengths, own.nonzero()[:, 0], len(part), []))
        loss, _ = self.workers.gradients(self.model, batches, sum(len(batch.rows) for batch in batches))
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        return loss

    def update(self) -> None:
        for stack, expert, matrix in self.slices:
            matrix.grad = None if stack.grad is None else stack.grad[expert]
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        if self.clips:
            qk_clip_all_(self.model.attentions(), QK_CLIP)
            for moe in self.model.moe_layers():
                moe.balance(BALANCE)


class HuggingFace:
    """transformers' DeepSeek-V3 and torch's fused AdamW; documents of similar length padded to rows.

    Rows need no mask: under a causal mask no real token sees the padding behind it. `way` is the type of the numbers,
    how experts are run, and the tokens of a micro-batch.
    """

    def __init__(self, path: Path, threads: int, way: dict[str, Any]) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        dtype = torch.bfloat16 if way["numbers"] == "bf16" else torch.float32
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).train()
        self.optimizer = _adamw(self.model.parameters())
        self.set(way)
        self.about = (
            f"{transformers.__version__}, torch {torch.__version__}, fused AdamW; quickest here: {way['numbers']}, "
            f"experts {way['experts']}, micro-batches of {way['micro']:,} tokens"
        )

    def set(self, way: dict[str, Any]) -> None:
        self.way = way
        use_onednn(way["numbers"] == "fp32 by oneDNN")
        self.model.set_experts_implementation(way["experts"])

    def gradients(self, ids: Tensor, parts: Documents) -> float:
        documents = sorted(ids.split([n for lengths in parts for n in lengths]), key=len)
        learned, total = len(ids) - len(documents), 0.0
        while documents:
            count = 1
            while count < len(documents) and (count + 1) * len(documents[count]) <= self.way["micro"]:
                count += 1
            rows, documents = documents[:count], documents[count:]
            width = -(-len(rows[-1]) // 16) * 16
            padded = torch.zeros(count, width, dtype=torch.long)
            labels = torch.full((count, width), -100)
            for i, row in enumerate(rows):
                padded[i, : len(row)] = labels[i, : len(row)] = row
            with torch.autocast("cpu", torch.bfloat16, enabled=self.way["numbers"] == "autocast"):
                loss = self.model(padded, labels=labels, num_items_in_batch=learned, use_cache=False).loss
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        return total

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def quickest(path: Path, threads: int, ids: Tensor, parts: Documents) -> dict[str, Any]:
    """transformers' quickest way on a batch: types and experts first, then the micro-batch, then the threads."""
    tried: list[tuple[float, dict[str, Any]]] = []

    def measure(system: HuggingFace, way: dict[str, Any]) -> None:
        system.set(way)
        seconds = 0.0
        for _ in range(2):  # the first prepares kernels
            start = time.perf_counter()
            system.gradients(ids, parts)
            seconds = time.perf_counter() - start
        tried.append((seconds, way))

    def best() -> dict[str, Any]:
        return min(tried, key=lambda one: one[0])[1]

    for numbers in ("fp32", "fp32 by oneDNN", "bf16", "autocast"):
        way = {"numbers": numbers, "experts": "eager", "micro": len(ids), "threads": threads}
        system = HuggingFace(path, threads, way)
        for experts in ("eager", "grouped_mm"):
            measure(system, way | {"experts": experts})
    system = HuggingFace(path, threads, best())
    measure(system, best() | {"micro": len(ids) // 2})
    if threads > 1:
        torch.set_num_threads(1)
        measure(system, best() | {"threads": 1})
    return best()


def peak(threads: int, repeats: int = 5) -> float:
    """Operations a second of a bf16 product of square matrices, the best of `repeats`."""
    torch.set_num_threads(threads)
    a = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=torch.bfloat16)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / min(times[1:])


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, RATES["adamw"], BETAS, weight_decay=DECAY, fused=True)


class Worker:
    def __init__(self, name: str) -> None:
        self.name = name
        self.trainer: Trainer | None = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        do: str = message.pop("do")
        answers: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self._open,
            "choose": self._choose,
            "step": self._step,
            "memory": lambda: {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
            "peak": lambda threads: {"operations_per_second": peak(threads)},
        }
        return answers[do](**message)

    def _open(self, path: str, threads: int, way: dict[str, Any] | None = None) -> dict[str, Any]:
        tune_allocator()
        if self.name == "transformers":
            assert way is not None
            self.trainer = HuggingFace(Path(path), way["threads"], way)
        else:
            self.trainer = Ours(Path(path), threads, self.name)
        return {"about": self.trainer.about}

    def _choose(self, path: str, threads: int, ids: list[int], parts: Documents) -> dict[str, Any]:
        tune_allocator()
        return {"way": quickest(Path(path), threads, torch.tensor(ids), parts)}

    def _step(self, ids: list[int], parts: Documents) -> dict[str, Any]:
        assert self.trainer is not None
        tokens = torch.tensor(ids)
        self.trainer.gradients(tokens, parts)  # gets memory and prepares kernels
        self.trainer.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        loss = self.trainer.gradients(tokens, parts)
        middle = time.perf_counter()
        self.trainer.update()
        end = time.perf_counter()
        give_back_memory()  # the other systems need it now
        return {"seconds": end - start, "optimizer_seconds": end - middle, "loss": loss}


if __name__ == "__main__":
    serve(Worker(sys.argv[1]).answer)
