"""Many replies at once: each step of the network serves all that run, and any may join or leave between two steps.

A step reads one new token of every reply that is being written (and short runs of forced ones), and beside them the
next pieces of prompts, those served longest ago first, up to a budget: nobody waits for a long prompt of somebody else.
Blocks of the cache are shared through the prefix tree as soon as they are full. Where memory ends, blocks that nobody
uses go first, then the youngest reply stops, waits, and goes on later from its ids.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openk2.engine.cache import BLOCK, LatentCache
from openk2.engine.forward import CHUNK, Forward
from openk2.engine.prefix import Node, PrefixTree
from openk2.engine.request import FinishReason, Request, check
from openk2.errors import UserError

MAX_RUNNING = 64
SHORT = 16  # pending ids up to which a reply counts as being written
LINGER = 0.5  # seconds the thread waits for more work before it ends


@dataclass(slots=True, eq=False)
class Running:
    """A reply with its cache: `path` are the tree's nodes of its full blocks; blocks beyond them are its own."""

    request: Request
    cache: LatentCache
    path: list[Node]
    inherited: int  # nodes found in the tree at the beginning
    served: int = 0  # the step that last read a piece of its prompt

    @property
    def pending(self) -> int:
        return len(self.request.ids) - self.cache.length

    @property
    def own(self) -> int:
        return len(self.cache.blocks) - len(self.path)


@dataclass(frozen=True, slots=True)
class Load:
    """What is going on: replies, blocks and bytes of the cache, and totals since the beginning."""

    running: int
    waiting: int
    cache_bytes: int
    blocks: int
    blocks_idle: int
    steps: int
    computed_tokens: int
    preemptions: int


class Scheduler:
    """Owns an executor through its `Forward`; one thread runs it while there is work.

    `cache_bytes` limits all blocks together, those of running replies and those kept for later.
    """

    def __init__(
        self,
        forward: Forward,
        cache_bytes: int,
        *,
        max_running: int = MAX_RUNNING,
        prompt_tokens: int = CHUNK,
    ) -> None:
        self.tree = PrefixTree()
        self.lock = threading.RLock()
        self.memory = forward.memory
        self._forward = forward
        self._window = forward.config.max_position_embeddings
        self._cache_bytes = cache_bytes
        empty = forward.cache()
        self.block_shape, self._block_bytes = empty.block_shape, empty.block_bytes
        self._most_blocks = cache_bytes // self._block_bytes
        self._max_running = max_running
        self._prompt_tokens = prompt_tokens
        self._waiting: deque[Request] = deque()
        self._running: list[Running] = []
        self._thread: threading.Thread | None = None
        self._work = threading.Condition(self.lock)
        self._steps = self._computed = self._preemptions = 0

    def submit(self, request: Request) -> Request:
        """Queue a request. Raises UserError when its ids fit neither the window, nor the vocabulary, nor memory."""
        check(request, self._window, self._forward.config.vocab_size)
        needed = -(-len(request.ids) // BLOCK)
        if needed > self._most_blocks:
            raise UserError(self._too_large(needed))
        with self.lock:
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="openk2-engine", daemon=True)
                self._thread.start()
            self._work.notify()
        return request

    def cached(self, ids: Sequence[int]) -> int:
        """How many of the first len(ids) - 1 ids would not be computed again."""
        with self.lock:
            return self.tree.find(ids, len(ids) - 1).length

    @property
    def load(self) -> Load:
        with self.lock:
            blocks = len(self.tree) + sum(r.own for r in self._running)
            return Load(
                len(self._running),
                len(self._waiting),
                blocks * self._block_bytes,
                blocks,
                self.tree.idle,
                self._steps,
                self._computed,
                self._preemptions,
            )

    def room(self) -> bool:
        """Whether one more block fits, the longest unused ones given up for it. Hold the lock."""
        while len(self.tree) + sum(r.own for r in self._running) >= self._most_blocks:
            if not self.tree.evict():
                return False
        return True

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # a fault of ours: nobody may wait for ever
            with self.lock:
                self._thread = None
                for running in self._running:
                    running.request.fail(error)
                for request in self._waiting:
                    request.fail(error)
                self._running.clear()
                self._waiting.clear()
            raise

    def _serve(self) -> None:
        while True:
            with self.lock:
                if not self._waiting and not self._running:
                    self._work.wait(LINGER)
                    if not self._waiting:
                        self._thread = None
                        return
                self._leave()
                self._join()
                step = self._plan()
            if step:
                self._compute(step)

    def _leave(self) -> None:
        """Let go of what was cancelled."""
        for request in [request for request in self._waiting if request.cancelled]:
            self._waiting.remove(request)
            request.finish("cancelled")
        for running in [running for running in self._running if running.request.cancelled]:
            self._end(running, "cancelled")

    def _join(self) -> None:
        """Start waiting requests, in their order, while their prompts fit beside what runs."""
        while self._waiting and len(self._running) < self._max_running:
            request = self._waiting[0]
            match = self.tree.find(request.ids, len(request.ids) - 1)
            self.tree.take(match.path)
            owed = sum(max(0, _blocks(len(r.request.ids) + 1) - len(r.cache.blocks)) for r in self._running)
            needed = _blocks(len(request.ids)) - len(match.path) + bool(self._running)
            if self._running and needed + owed > self._free():
                self.tree.release(match.path)
                return
            self._waiting.popleft()
            cache = self._forward.cache()
            for node in match.path:
                cache.add(node.block)
            cache.length = BLOCK * len(match.path)
            running = Running(request, cache, match.path, len(match.path), self._steps)
            self._running.append(running)
            partial = match.partial.block if match.partial else None  # kept alive here, should it be evicted now
            if partial is not None and self._make_room(running, 1):
                cache.copy(partial, match.extra)
            if running not in self._running:
                return
            if request.cached is None:
                request.cached = min(cache.length, request.prompt)
                if request.max_tokens > 0:
                    self._advance(running, None)  # what is forced needs no model

    def _plan(self) -> list[tuple[Running, list[int]]]:
        """The next ids of each reply to read; room for them is made."""
        step: list[tuple[Running, int]] = []
        claimed: set[tuple[int, tuple[int, ...]]] = set()
        left = self._prompt_tokens
        for running in sorted(self._running, key=lambda r: r.served):
            if running.pending > SHORT:
                self._share(running)
            length, count = running.cache.length, running.pending
            if count > SHORT:
                # Pieces end at the same positions whatever else runs: executors may round by the shape of a piece.
                count = min(count, self._prompt_tokens - length % self._prompt_tokens)
                if count > left and left < self._prompt_tokens:
                    continue
                block = tuple(running.request.ids[length : length + BLOCK])
                if length % BLOCK == 0 and len(block) == BLOCK:
                    key = (id(running.path[-1]) if running.path else 0, block)
                    if key in claimed:  # another one computes the same now: it is found in the tree afterwards
                        continue
                    claimed.add(key)
                running.served = self._steps + 1
                left -= count
            step.append((running, count))
        for running, count in step:
            length = running.cache.length + count
            if running in self._running and self._make_room(running, _blocks(length) - len(running.cache.blocks)):
                running.cache.reserve(length)
        kept = [(running, count) for running, count in step if running in self._running]  # not put off for others
        return [(r, r.request.ids[r.cache.length : r.cache.length + count]) for r, count in kept]

    def _compute(self, step: list[tuple[Running, list[int]]]) -> None:
        try:
            hidden = self._forward.run_many([(ids, running.cache) for running, ids in step])
            ends = [i for i, (running, _) in enumerate(step) if not running.pending]
            logits = self._forward.logits(np.stack([hidden[i][-1] for i in ends])) if ends else ()
        except Exception as error:  # memory or hardware: nothing of this step can be trusted
            with self.lock:
                for running, _ in step:
                    self._fail(running, error)
            return
        with self.lock:
            self._steps += 1
            self._computed += sum(len(ids) for _, ids in step)
            for running, _ in step:
                self._keep_full_blocks(running)
        for i, row in zip(ends, logits, strict=True):
            running = step[i][0]
            if running.request.max_tokens <= 0:
                with self.lock:
                    self._end(running, "length", row)
            else:
                self._advance(running, row)

    def _advance(self, running: Running, logits: np.ndarray | None) -> None:
        """Append what follows to a reply and end it where it is over; an error is its own and no other's."""
        try:
            reason = running.request.follow(logits)
        except Exception as error:
            with self.lock:
                self._fail(running, error)
            return
        if reason:
            with self.lock:
                self._end(running, reason)

    # --- memory ---------------------------------------------------------------------------------------------------

    def _free(self) -> int:
        """Blocks that running replies could still get."""
        return self._most_blocks - len(self.tree) + self.tree.idle - sum(r.own for r in self._running)

    def _make_room(self, running: Running, needed: int) -> bool:
        """Make room for `needed` more blocks of a reply; False where it was put off or ended instead."""
        while needed > 0 and len(self.tree) + sum(r.own for r in self._running) + needed > self._most_blocks:
            if self.tree.evict():
                continue
            youngest = self._running[-1]
            if len(self._running) == 1:
                total = len(running.cache.blocks) + needed
                self._fail(running, UserError(self._too_large(total)))
                return False
            self._release(youngest)
            self._waiting.appendleft(youngest.request)
            self._preemptions += 1
            if youngest is running:
                return False
        return True

    def _share(self, running: Running) -> None:
        """Take blocks that others have computed meanwhile in place of computing them."""
        cache, ids = running.cache, running.request.ids
        while cache.length % BLOCK == 0 and not running.own and cache.length + BLOCK < len(ids):
            parent = running.path[-1] if running.path else None
            node = self.tree.child(parent, tuple(ids[cache.length : cache.length + BLOCK]))
            if node is None:
                return
            self.tree.take([node])
            running.path.append(node)
            cache.add(node.block)
            cache.length += BLOCK
            if cache.length <= running.request.prompt and running.request.cached is not None:
                running.request.cached += BLOCK

    def _keep_full_blocks(self, running: Running) -> None:
        """Give blocks that became full to the tree; of two equal ones the tree's is kept."""
        path, cache, ids = running.path, running.cache, running.request.ids
        while BLOCK * (len(path) + 1) <= cache.length:
            index = len(path)
            block = tuple(ids[BLOCK * index : BLOCK * (index + 1)])
            node = self.tree.add(path[-1] if path else None, block, cache.blocks[index])
            cache.replace(index, node.block)
            path.append(node)

    def _release(self, running: Running) -> None:
        """Take a reply out of those that run; what it computed stays in the tree."""
        self._running.remove(running)
        path, cache = running.path, running.cache
        if len(cache.blocks) > len(path) and cache.length > BLOCK * len(path):
            tail = tuple(running.request.ids[BLOCK * len(path) : cache.length])
            self.tree.add_tail(path[-1] if path else None, tail, cache.blocks[len(path)])
        self.tree.release(path)

    def _end(self, running: Running, reason: FinishReason, logits: np.ndarray | None = None) -> None:
        self._release(running)
        running.request.finish(reason, logits)

    def _fail(self, running: Running, error: BaseException) -> None:
        """End a reply with an error; what it computed is forgotten."""
        if running in self._running:
            self._running.remove(running)
            self.tree.release(running.path)
            self.tree.drop(running.path[running.inherited :])
        running.request.fail(error)

    def _too_large(self, blocks: int) -> str:
        needed, limit = blocks * self._block_bytes / 2**20, self._cache_bytes / 2**20
        return (
            f"The text needs {needed:,.0f} MiB of cache and {limit:,.0f} MiB are allowed; shorten it or allow the "
            "engine more (cache_bytes)."
        )


def _blocks(length: int) -> int:
    return -(-length // BLOCK)
