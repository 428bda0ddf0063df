"""An event loop in a thread of its own, for programs without one: also where another loop is running already."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
PATIENCE = 30.0  # seconds that ended work has to write down where it stands


class Background:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="openk2", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. What interrupts the wait, as Ctrl-C, ends the work before it goes on its way."""
        job = _Job(self.loop, work)
        try:
            return job.result.result()
        finally:
            job.end()

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items one by one as they come. Leaving the loop early ends the work."""
        arrived: queue.SimpleQueue[T | None] = queue.SimpleQueue()

        async def read() -> None:
            try:
                async for item in items:
                    arrived.put(item)
            finally:
                await items.aclose()  # type: ignore[attr-defined]
                arrived.put(None)

        job = _Job(self.loop, read())
        try:
            while (item := arrived.get()) is not None:
                yield item
            job.result.result()
        finally:
            job.end()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class _Job(Generic[T]):
    """A task of another thread's loop. `result` is settled when the task has ended, not when it is asked to end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop, self._task = loop, None
        self.result: Future[T] = Future()
        loop.call_soon_threadsafe(self._start, work)

    def end(self) -> None:
        if not self.result.done():
            self._loop.call_soon_threadsafe(self._cancel)
            wait([self.result], PATIENCE)

    def _start(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._settle)

    def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.result.cancel()
            self.result.set_running_or_notify_cancel()  # wakes who waits
        elif error := task.exception():
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())
