"""What valid calls cost: compiling tools, masks, forced ids, over the schemas of bench/schemas.py.

Times are processor time of this thread, so that a busy machine changes them little; the wall clock stands beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from openk2.bench.report import Report
from openk2.bench.schemas import TAKEN
from openk2.chat.arguments import Vocabulary
from openk2.chat.grammar import Grammar, Guide
from openk2.chat.messages import ToolSpec
from openk2.chat.tokenizer import Tokenizer
from openk2.paths import NANO

Times = dict[str, list[float]]


def timed(times: Times, name: str, work: Callable[[], object]) -> None:
    wall, own = time.perf_counter(), time.thread_time()
    work()
    times.setdefault(name, []).append(time.thread_time() - own)
    times.setdefault(name + " (wall)", []).append(time.perf_counter() - wall)


def measure(folder: Path | None, rounds: int) -> Report:
    """Microseconds of each part, with the tokenizer of a folder, else nano's."""
    folder = folder or NANO
    report = Report("grammar", {"tokenizer": str(folder), "rounds": rounds, "schemas": len(TAKEN)})
    for name, values in _times(folder, rounds).items():
        micro = np.array(values) * 1e6
        report.rows.append({"what": name, "times": len(values), "median_us": float(np.median(micro)),
                            "p99_us": float(np.quantile(micro, 0.99)), "worst_us": float(micro.max())})  # fmt: skip
    return report


def _times(folder: Path, rounds: int) -> Times:
    times: Times = {}
    tok = Tokenizer.load(folder)
    timed(times, "tokenizer table", lambda: Vocabulary(tok).ll)
    vocabulary = Vocabulary(tok)
    _ = vocabulary.ll
    for _ in range(rounds):
        vocabulary.forget()
        for schema in TAKEN.values():
            tool = ToolSpec("tool", "", schema)
            timed(times, "compile a tool", lambda tool=tool, v=vocabulary: v.arguments(tool))
    rng = np.random.default_rng(0)
    noise = rng.gumbel(size=2 * tok.n_vocab).astype(np.float32)
    for schema in TAKEN.values():
        grammar = Grammar(vocabulary, [ToolSpec("tool", "", schema)])
        timed(times, "way to the end", lambda g=grammar: g.tools["tool"].least)
        guide = grammar.guide(choice="required", limit=len(grammar.tools["tool"].least or ()) + 64)
        prose(times, guide, tok, noise[: tok.n_vocab])
        token = 0
        while token != tok.special["<|im_end|>"]:
            start = int(rng.integers(tok.n_vocab))
            token = step(times, guide, noise[start : start + tok.n_vocab])
            guide.accept(token)
    return times


def prose(times: Times, guide: Guide, tok: Tokenizer, logits: np.ndarray) -> None:
    """A token of prose, then the beginning of a call."""
    token = int(logits[: tok.n_base].argmax())
    timed(times, "a token of prose", lambda: guide.forced() is None and guide.allows(token))
    guide.accept(tok.special["<|tool_calls_section_begin|>"])


def step(times: Times, guide: Guide, logits: np.ndarray) -> int:
    """The next id of a reply with random logits, each part timed."""
    found: list[int | None] = []
    timed(times, "forced ids", lambda: found.append(guide.forced()))
    if found[0] is not None:
        return found[0]
    token = int(logits.argmax())
    timed(times, "check a choice", lambda: found.append(guide.allows(token)))
    if found[1]:
        return token
    timed(times, "mask all ids", lambda: found.append(int(guide.restrict(logits, token).argmax())))
    assert found[2] is not None
    return found[2]
