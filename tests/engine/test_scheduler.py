"""Many replies at once: each the same as alone, none lost, memory flat, errors its own."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from ctypes import CDLL
from pathlib import Path

import numpy as np
import pytest
from test_session import CONFIG, random_tensors  # type: ignore[import-not-found]

from openk2.engine import Engine, Request, Sampling, StopTexts, ThinkingLimit
from openk2.engine.cache import BLOCK
from openk2.engine.forward import Executor
from openk2.engine.kernels.native import Native
from openk2.engine.twin import Twin
from openk2.engine.weights import Weights
from openk2.errors import UserError
from openk2.model.checkpoint import save
from openk2.model.config import ModelConfig
from openk2.model.safetensors import Stored

LONG = ModelConfig(**{**vars(CONFIG), "max_position_embeddings": 6000, "tie_word_embeddings": False})
BLOCK_BYTES = 4 * 3 * BLOCK * 40
DAMAGED = 119  # an id whose embedding is NaN


def made(folder: Path, damaged: bool) -> Weights:
    tensors = random_tensors(LONG)
    if damaged:
        tensors["model.embed_tokens.weight"][DAMAGED] = np.nan
        tensors["lm_head.weight"][DAMAGED] = 0
    save(folder, LONG, {name: Stored.bf16(t) for name, t in tensors.items()})
    return Weights.load(folder, LONG)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return made(tmp_path_factory.mktemp("checkpoint"), damaged=False)


@pytest.fixture
def fast(kernels: CDLL, weights: Weights) -> Executor:
    return Native(kernels, LONG, weights)


def engine(weights: Weights, executor: Executor, blocks: int = 400) -> Engine:
    return Engine(LONG, weights, executor=executor, cache_bytes=blocks * BLOCK_BYTES)


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, DAMAGED, count).tolist()


def asked(prompt: list[int], count: int = 20, **more) -> Request:
    return Request(prompt, max_tokens=count, **more)


class Counted:
    """An executor that remembers its steps: the new ids of each part; and may wait at a gate."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.steps: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, parts, turns):
        self.steps.append([list(new) for new, _ in parts])
        self.gate.wait()
        return self._executor.run(parts, turns)

    def logits(self, hidden):
        return self._executor.logits(hidden)

    @property
    def tokens(self) -> int:
        return sum(len(part) for step in self.steps for part in step)

    @contextmanager
    def closed(self, engine: Engine) -> Iterator[None]:
        """All that is submitted inside waits for the step that a first request holds up."""
        self.gate.clear()
        first = engine.submit(asked(ids(3, 99), 1))
        while not self.steps:
            time.sleep(0.001)
        yield
        self.gate.set()
        first.result()
        self.steps.clear()


def test_64_at_once_with_cancels_each_as_alone(weights: Weights, fast: Executor) -> None:
    """With kernels a row's sums do not depend on its neighbours, so ids are equal and not only likely to be."""
    dice = random.Random(4)
    bases = [ids(300, seed) for seed in range(5)]
    prompts = [dice.choice(bases)[: dice.randrange(20, 300)] + ids(dice.randrange(1, 150), n) for n in range(12)]
    sampling = [Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=3)]
    expected = {}
    for p, prompt in enumerate(prompts):
        for s in range(2):
            alone = engine(weights, fast)
            expected[p, s] = alone.submit(asked(prompt, 30, sampling=sampling[s])).result().ids
    served = engine(weights, fast, blocks=60)  # far less than all of them need at once
    finished = cancelled = 0
    lock = threading.Lock()

    def client(number: int) -> None:
        nonlocal finished, cancelled
        own = random.Random(number)
        for _ in range(4):
            p, s = own.randrange(len(prompts)), own.randrange(2)
            leave = own.randrange(30) if own.random() < 0.3 else None
            got: list[int] = []
            for batch in served.submit(asked(prompts[p], 30, sampling=sampling[s])).batches():
                got += batch
                if leave is not None and len(got) >= leave:
                    break
            with lock:
                if leave is None:
                    assert got == expected[p, s]
                    finished += 1
                else:
                    assert got == expected[p, s][: len(got)]
                    cancelled += 1

    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            client(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert finished + cancelled == 256 and cancelled > 30
    idle(served)
    assert served.scheduler.load.blocks <= 60


def idle(engine: Engine) -> None:
    """Wait until nothing runs; then every block kept is unused."""
    until = time.monotonic() + 10
    while (load := engine.scheduler.load).running or load.waiting:
        assert time.monotonic() < until
        time.sleep(0.005)
    assert load.blocks == load.blocks_idle


def test_numpy_is_equal_as_well(weights: Weights) -> None:
    twin = Twin(LONG, weights)
    prompts = [ids(280 + 30 * n, n) for n in range(6)]
    expected = [engine(weights, twin).submit(asked(p)).result().ids for p in prompts]
    served = engine(weights, twin)
    requests = [served.submit(asked(p)) for p in prompts]
    assert [request.result().ids for request in requests] == expected


@pytest.mark.parametrize("name", ["kernels", "twin"])
def test_a_not_a_number_ends_its_own_reply(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    weights = made(tmp_path, damaged=True)
    executor = Twin(LONG, weights) if name == "twin" else Native(request.getfixturevalue("kernels"), LONG, weights)
    good = [ids(200, n) for n in range(4)]
    expected = [engine(weights, executor).submit(asked(p)).result().ids for p in good]
    served = engine(weights, executor)
    bad = [served.submit(asked([*good[n][:150], DAMAGED, 5])) for n in range(2)]
    requests = [served.submit(asked(p)) for p in good]
    for each in bad:
        with pytest.raises(UserError, match="not numbers"):
            each.result()
    assert [each.result().ids for each in requests] == expected
    idle(served)
    # Nothing of the damaged text is kept, except the beginning it shares with others.
    assert served.scheduler.cached([*good[0][:150], DAMAGED, 5]) <= 150


def test_nobody_waits_for_a_long_prompt(weights: Weights, fast: Executor) -> None:
    counted = Counted(fast)
    served = engine(weights, counted)
    writing = served.submit(asked(ids(10), 400))
    stream = writing.batches()
    next(stream)
    done_at: list[int] = []  # the step before which the short prompt had its reply
    run = counted.run

    def watched(parts, turns):
        if not done_at and short._done:
            done_at.append(len(counted.steps))
        return run(parts, turns)

    with counted.closed(served):
        long = served.submit(asked(ids(5000, 1), 1))
        short = served.submit(asked(ids(40, 2), 1))
        counted.run = watched
    short.result()
    long.result()
    stream.close()
    prompt_steps = [step for step in counted.steps if any(len(part) > 16 for part in step)]
    assert len(prompt_steps) >= 17  # of 20; the gate may forget the first
    assert done_at[0] < 6  # 5,000 tokens take 20 steps; the short prompt was not behind them
    for step in prompt_steps:
        assert sum(len(part) for part in step if len(part) > 16) <= 256  # the budget
        assert any(len(part) == 1 for part in step)  # what was being written went on in each step


def test_a_cancel_takes_effect_within_a_step_and_frees_blocks(weights: Weights, fast: Executor) -> None:
    counted = Counted(fast)
    served = engine(weights, counted)
    request = served.submit(asked(ids(300), 5000))
    next(request.batches())  # leaving cancels
    steps = len(counted.steps)
    idle(served)
    assert len(counted.steps) <= steps + 2
    waiting = served.submit(asked(ids(5), 5))
    waiting.cancel()
    assert waiting.result().finish_reason in ("cancelled", "length")
    assert served.scheduler.load.blocks == served.scheduler.load.blocks_idle


def test_memory_ends_while_replies_grow(weights: Weights, fast: Executor) -> None:
    """Six replies of 4 blocks each in 9 blocks: some are put off and go on later, all are right."""
    prompts = [ids(100, n) for n in range(6)]
    expected = [engine(weights, fast).submit(asked(p, 380)).result().ids for p in prompts]
    served = engine(weights, fast, blocks=9)
    requests = [served.submit(asked(p, 380)) for p in prompts]
    most = 0
    while not all(request._done for request in requests):
        most = max(most, served.scheduler.load.blocks)
        time.sleep(0.001)
    assert [request.result().ids for request in requests] == expected
    assert most <= 9 and served.scheduler.load.preemptions > 0


def test_a_text_too_large_for_memory_is_a_sentence(weights: Weights, fast: Executor) -> None:
    served = engine(weights, fast, blocks=3)
    with pytest.raises(UserError, match="cache_bytes"):
        served.submit(asked(ids(500), 1))
    with pytest.raises(UserError, match="cache_bytes"):
        served.submit(asked(ids(300), 200)).result()  # grows beyond it
    assert served.submit(asked(ids(300), 3)).result().finish_reason == "length"
    with pytest.raises(UserError, match="nothing to go on from"):
        served.submit(asked([], 1))


def test_old_prefixes_make_room(weights: Weights, fast: Executor) -> None:
    served = engine(weights, fast, blocks=12)
    for n in range(20):
        served.submit(asked(ids(400, n), 2)).result()
        assert served.scheduler.load.blocks <= 12
    assert served.scheduler.cached(ids(400, 19)) == 399
    assert served.scheduler.cached(ids(400, 0)) == 0


def test_an_executor_that_fails_ends_the_step_and_not_the_engine(weights: Weights, fast: Executor) -> None:
    counted = Counted(fast)
    served = engine(weights, counted)
    counted.logits = lambda hidden: (_ for _ in ()).throw(MemoryError("no memory"))  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        served.submit(asked(ids(20), 3)).result()
    del counted.logits
    assert len(served.submit(asked(ids(20), 3)).result().ids) == 3


def test_a_session_of_300_steps_reads_nothing_twice(weights: Weights, fast: Executor) -> None:
    counted = Counted(fast)
    served = engine(weights, counted)
    dice = random.Random(0)
    history, prompts, made, result = ids(60), 60, 0, []
    for step in range(300):
        done = served.submit(asked(history, 4)).result()
        made += len(done.ids)
        result = ids(dice.randrange(5, 20), step)
        history = history + done.ids + result  # as a client sends it: all of it again, by ids
        prompts += len(result)
    prompts -= len(result)  # the last one was not read
    assert len(history) > 4000
    computed_prompt = counted.tokens - made
    assert computed_prompt <= 1.005 * prompts
    assert counted.tokens <= prompts + made


def test_eight_forks_share_what_they_have_in_common(weights: Weights, fast: Executor) -> None:
    counted = Counted(fast)
    served = engine(weights, counted)
    session = served.session()
    session.append(ids(5000))
    before, computed = served.scheduler.load.blocks, counted.tokens
    forks = [session.fork(5000) for _ in range(8)]
    assert served.scheduler.load.blocks == before  # nothing until they write
    with counted.closed(served):
        requests = [served.submit(asked(f.ids, 20, sampling=Sampling(1.0, seed=n))) for n, f in enumerate(forks)]
    most = 0
    while not all(request._done for request in requests):
        most = max(most, served.scheduler.load.blocks)
        time.sleep(0.0005)
    assert len({tuple(request.result().ids) for request in requests}) == 8
    assert counted.tokens <= 8 * 20
    assert counted.tokens + computed < 5000 + 8 * 20 + 10
    assert most <= 1.3 * before


def test_equal_prompts_at_once_are_computed_once(weights: Weights, fast: Executor) -> None:
    counted = Counted(fast)
    served = engine(weights, counted)
    with counted.closed(served):
        requests = [served.submit(asked(ids(2049), 2)) for _ in range(8)]
    results = [request.result() for request in requests]
    assert len({tuple(done.ids) for done in results}) == 1
    assert counted.tokens <= 2048 + 8 * 2 + 8
    assert sum(done.cached for done in results) == 7 * 2048  # each computes a piece, all use it


def test_in_an_event_loop(weights: Weights, fast: Executor) -> None:
    served = engine(weights, fast)
    expected = [served.submit(asked(ids(50, n))).result().ids for n in range(8)]

    async def one(n: int, wait: float) -> list[int]:
        request = served.submit(asked(ids(50, n), wait=wait))
        return [token async for batch in request.stream() for token in batch]

    async def all_of_them(wait: float) -> list[list[int]]:
        return await asyncio.gather(*(one(n, wait) for n in range(8)))

    async def leave() -> Request:
        request = served.submit(asked(ids(50), 5000))
        async with aclosing(request.stream()) as stream:  # type: ignore[type-var]
            async for _ in stream:
                break
        return request

    assert asyncio.run(all_of_them(0.0)) == asyncio.run(all_of_them(0.02)) == expected
    assert asyncio.run(leave()).cancelled
    idle(served)


def test_the_thinking_limit_is_exact(weights: Weights, fast: Executor) -> None:
    begin, end, closing = 100, 101, [7, 8, 9]
    served = engine(weights, fast)
    bias = Sampling(logit_bias={begin: -1e9, end: -1e9})
    for tokens in (0, 1, 17):
        limit = ThinkingLimit(tokens, begin, end, closing, open=True)
        done = served.submit(asked(ids(30), 40, sampling=bias, thinking=limit)).result()
        assert done.ids[tokens : tokens + 4] == [*closing, end]
        assert end not in done.ids[:tokens] and len(done.ids) == 40
    free = served.submit(asked(ids(30), 40, sampling=bias)).result()
    assert free.ids[:17] == done.ids[:17]
    # A model that begins to think itself, and one that ends in time.
    forced = Sampling(logit_bias={begin: 1e9})
    assert (
        served.submit(asked(ids(30), 9, sampling=forced, thinking=ThinkingLimit(3, begin, end))).result().ids[0] == 100
    )
    ended = Sampling(logit_bias={end: 1e9})
    limit = ThinkingLimit(3, begin, end, closing, open=True)
    assert served.submit(asked(ids(30), 5, sampling=ended, thinking=limit)).result().ids == [end] * 5


def test_stop_texts_ignore_thinking(weights: Weights, fast: Executor) -> None:
    served = engine(weights, fast)
    free = served.submit(asked(ids(30), 30)).result().ids
    text = {token: chr(97 + token % 26) for token in range(120)}
    written = "".join(map(text.__getitem__, free))
    stop = written[11:14]
    at = written.index(stop) + 3
    done = served.submit(asked(ids(30), 30, stop_texts=StopTexts([stop, "XY"], text.__getitem__))).result()
    assert (done.ids, done.finish_reason, done.stop_text) == (free[:at], "stop", stop)
    thinking = StopTexts([stop], text.__getitem__, begins=[500], ends=[501], open=True)
    assert served.submit(asked(ids(30), 30, stop_texts=thinking)).result().ids == free
    spread = StopTexts(["end"], {1: "xe", 2: "n", 3: "dy"}.__getitem__)
    assert [spread.accept(token) for token in (1, 2, 3)] == [False, False, True] and spread.behind == 4


def test_logprobs_come_with_ids(weights: Weights, fast: Executor) -> None:
    served = engine(weights, fast)
    done = served.submit(asked(ids(30), 5, sampling=Sampling(logprobs=3))).result()
    session = served.session(ids(30))
    for token, told in zip(done.ids, done.logprobs, strict=True):
        logits = session.logits.astype(np.float64)
        exact = logits - np.log(np.exp(logits).sum())
        assert told.token == token and told.logprob == pytest.approx(exact[token], abs=1e-4)
        assert [i for i, _ in told.top] == np.argsort(-exact)[:3].tolist()
        session.append([token])
