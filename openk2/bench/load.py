"""Many requests at once with random cancels: none lost, none wrong, memory flat.

Each client asks again and again for the continuation of one of some prompts that share beginnings, greedy or sampled
with a seed, and leaves early now and then; what came is compared with what the same request gives alone.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from openk2.bench import models
from openk2.bench.report import Report
from openk2.engine import Engine, Request, Sampling
from openk2.model.config import ModelConfig

TOKENS = 48
Case = tuple[tuple[int, ...], int]  # prompt and which sampling
SAMPLINGS = (Sampling(), Sampling(0.9, top_p=0.95, seed=1), Sampling(1.1, top_k=20, frequency_penalty=0.3, seed=2))


def resident() -> float:
    """MiB of memory of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    except (OSError, ValueError):
        return 0.0


SMALL = ModelConfig(
    hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, moe_intermediate_size=32,
    n_routed_experts=8, num_experts_per_tok=2, vocab_size=96, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8,
    v_head_dim=16, max_position_embeddings=4096, tie_word_embeddings=True, first_k_dense_replace=1,
)  # fmt: skip


class Clients:
    def __init__(self, engine: Engine, expected: dict[Case, list[int]]) -> None:
        self.engine, self.expected = engine, expected
        self.finished = self.cancelled = self.tokens = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def work(self, number: int, until: float) -> None:
        dice = random.Random(number)
        cases = list(self.expected)
        while time.monotonic() < until:
            case = dice.choice(cases)
            leave = dice.randrange(TOKENS) if dice.random() < 0.3 else None
            got: list[int] = []
            try:
                request = Request(case[0], max_tokens=TOKENS, sampling=SAMPLINGS[case[1]])
                for batch in self.engine.submit(request).batches():
                    got += batch
                    if leave is not None and len(got) >= leave:
                        break
            except Exception as error:  # counted, whatever it is
                with self._lock:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                continue
            with self._lock:
                self.tokens += len(got)
                if got != self.expected[case][: len(got)] or (leave is None and len(got) != TOKENS):
                    self.wrong.append(f"{len(case[0])} ids, sampling {case[1]}: {len(got)} tokens are not as alone")
                elif leave is None:
                    self.finished += 1
                else:
                    self.cancelled += 1


def measure(model: Path | None, seconds: float, clients: int, cache_mib: float, sequential: bool) -> Report:
    """Load a checkpoint, else a small random network. `failed` when a request was lost, wrong or is still held."""
    settings = {"model": model and str(model), "seconds": seconds, "clients": clients, "cache_mib": cache_mib}
    report = Report("load", settings)
    with tempfile.TemporaryDirectory() as made:
        folder = model or models.random_model("small", SMALL, Path(made), lambda text: None).folder
        for count in (clients, 1) if sequential else (clients,):
            report.rows.append(_serve(folder, seconds, count, cache_mib))
    report.failed = any(row["lost_or_wrong"] or row["blocks_still_used"] for row in report.rows)
    return report


def _serve(folder: Path, seconds: float, clients: int, cache_mib: float) -> dict[str, Any]:
    cache = int(cache_mib * 2**20)
    alone = Engine.load(folder, cache_bytes=cache)
    rng = np.random.default_rng(0)
    bases = [rng.integers(0, alone.config.vocab_size, 600).tolist() for _ in range(6)]
    prompts = [tuple(bases[n % 6][: 40 + 25 * n] + rng.integers(0, alone.config.vocab_size, 1 + 7 * n).tolist())
               for n in range(20)]  # fmt: skip
    expected: dict[Case, list[int]] = {}
    for prompt in prompts:
        for which, sampling in enumerate(SAMPLINGS):
            expected[prompt, which] = alone.submit(Request(prompt, max_tokens=TOKENS, sampling=sampling)).result().ids
    engine = Engine.load(folder, cache_bytes=cache)
    served = Clients(engine, expected)
    begun = time.monotonic()
    threads = [threading.Thread(target=served.work, args=(n, begun + seconds)) for n in range(clients)]
    for thread in threads:
        thread.start()
    memory: list[float] = []
    most = 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(1.0, seconds / 20))
        memory.append(resident())
        most = max(most, engine.scheduler.load.cache_bytes)
        if time.monotonic() > begun + 2 * seconds + 60:
            served.wrong.append("a request never ended")
            break
    took = time.monotonic() - begun
    until = time.monotonic() + 5
    while engine.scheduler.load.running and time.monotonic() < until:
        time.sleep(0.01)
    load = engine.scheduler.load
    quarter = max(1, len(memory) // 4)
    return {
        "clients": clients, "seconds": round(took, 1), "finished": served.finished, "cancelled": served.cancelled,
        "lost_or_wrong": len(served.wrong), "first_wrong": served.wrong[:1],
        "tokens_per_s": round(served.tokens / took),
        "steps": load.steps, "tokens_a_step": round(load.computed_tokens / max(1, load.steps), 1),
        "put_off": load.preemptions, "cache_limit_mib": cache_mib, "cache_most_mib": round(most / 2**20, 2),
        "blocks_still_used": load.blocks - load.blocks_idle,
        "memory_second_quarter_mib": round(float(np.median(memory[quarter : 2 * quarter] or memory)), 1),
        "memory_last_quarter_mib": round(float(np.median(memory[-quarter:])), 1),
    }  # fmt: skip
