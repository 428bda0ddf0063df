"""What valid calls cost: compiling tools, masks, forced ids, and a reply with and without the grammar.

    python bench/grammar.py [CHECKPOINT_OR_TOKENIZER_FOLDER] [--json]

Over the schemas of tests/chat/schemas.py. Times are processor time of this thread, so that a busy machine changes
them little; the wall clock stands beside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "chat")]

from schemas import TAKEN  # noqa: E402  # pyright: ignore[reportMissingImports]

from openk2.chat.arguments import Vocabulary  # noqa: E402
from openk2.chat.grammar import Grammar  # noqa: E402
from openk2.chat.messages import ToolSpec  # noqa: E402
from openk2.chat.tokenizer import Tokenizer  # noqa: E402

Times = dict[str, list[float]]


def timed(times: Times, name: str, work: Callable[[], object]) -> None:
    wall, own = time.perf_counter(), time.thread_time()
    work()
    times.setdefault(name, []).append(time.thread_time() - own)
    times.setdefault(name + " (wall)", []).append(time.perf_counter() - wall)


def measure(folder: Path, rounds: int) -> Times:
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


def prose(times: Times, guide, tok: Tokenizer, logits: np.ndarray) -> None:
    """A token of prose, then the beginning of a call."""
    token = int(logits[: tok.n_base].argmax())
    timed(times, "a token of prose", lambda: guide.forced() is None and guide.allows(token))
    guide.accept(tok.special["<|tool_calls_section_begin|>"])


def step(times: Times, guide, logits: np.ndarray) -> int:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "openk2" / "weights" / "nano")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for name, values in measure(options.folder, options.rounds).items():
        micro = np.array(values) * 1e6
        rows.append({"what": name, "times": len(values), "median_us": float(np.median(micro)),
                     "p99_us": float(np.quantile(micro, 0.99)), "worst_us": float(micro.max())})  # fmt: skip
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{len(TAKEN)} schemas, {options.folder}\n{'':28}{'times':>7}{'median us':>12}{'p99 us':>12}{'worst us':>12}")
    for row in rows:
        print(
            f"{row['what']:28}{row['times']:7}"
            + "".join(f"{row[k]:12.1f}" for k in ("median_us", "p99_us", "worst_us"))
        )


if __name__ == "__main__":
    main()
