"""Processes that train together, for tests: `run(4, function)` calls function(world, ...) in four, under gloo."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_DEADLINE = 300  # seconds: a busy machine needs its time to import torch


def run(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """function(world, *args) in `size` new processes with one thread each; their results by rank.

    The results must be plain values or numpy arrays. The first failure is raised as an AssertionError with its trace.
    """
    context = multiprocessing.get_context("forkserver")  # imports torch once for all of them
    context.set_forkserver_preload(["ranks_imports"])
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        values: dict[int, Any] = {}
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(theirs, rank, size, folder, function, args), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            end = time.monotonic() + _DEADLINE
            waiting = dict(enumerate(pipes))
            while waiting:
                for rank, pipe in list(waiting.items()):
                    if pipe.poll(0.02):
                        ok, values[rank] = pipe.recv()
                        assert ok, f"rank {rank} of {size}: {values[rank]}"
                        del waiting[rank]
                assert time.monotonic() < end, f"ranks {list(waiting)} of {size} did not end in {_DEADLINE} s"
        finally:
            for process in processes:
                if len(values) < size:
                    process.kill()
                process.join()
    return [values[rank] for rank in range(size)]


def exact_float32() -> None:
    """No products of float32 matrices in bf16, which training allows itself where the processor has a unit for them."""
    import torch

    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]


def _rank(pipe: Connection, rank: int, size: int, folder: str, function: Callable[..., Any], args: Any) -> None:
    import torch
    import torch.distributed as dist

    from openk2.train.parallel import World

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    try:
        if size > 1:
            store = dist.FileStore(str(Path(folder) / "store"), size)  # pyright: ignore[reportPrivateImportUsage]
            limit = timedelta(seconds=_DEADLINE)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
        result = function(World.from_env(), *args)
        if size > 1:
            dist.barrier()
            dist.destroy_process_group()
        pipe.send((True, result))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
