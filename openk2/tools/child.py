"""One function in a process of its own: no environment, limited memory, seconds and files, one JSON value out.

For work on hostile input that cannot be stopped from within: a parser that hangs, a regular expression that never ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

CODE = "import json,sys; t=json.loads(sys.argv[1]); sys.path[:]=t['path']; import openk2.tools.child as c; c.main(t)"


async def run(function: str, task: dict[str, Any], seconds: float, memory: int) -> dict[str, Any]:
    """What `function` ("module:name") returns for `task`; {"error": ...} where it took too much or died."""
    path = [entry or "." for entry in sys.path]
    order = json.dumps({"path": path, "function": function, "task": task, "seconds": seconds, "memory": memory})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", CODE, order,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(seconds):
            said = await process.stdout.read(-1)
            await process.wait()
    except TimeoutError:
        return {"error": f"was not read: that took more than {seconds:g} seconds"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        return json.loads(said)
    except ValueError:
        return {"error": f"was not read: that took more than {seconds:g} seconds or {memory >> 20} MB"}


def main(order: dict[str, Any]) -> None:
    """In the child: set the limits, do the work, print what came of it."""
    import resource

    seconds = int(order["seconds"]) + 1
    for which, most in (
        (resource.RLIMIT_AS, order["memory"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(which, (most, most))
    module, _, name = order["function"].partition(":")
    try:
        said = getattr(import_module(module), name)(order["task"])
    except (MemoryError, RecursionError):
        said = {"error": f"was not read: it takes more than {order['memory'] >> 20} MB"}
    print(json.dumps(said))
