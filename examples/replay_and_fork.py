"""A recorded run as a regression test, and as a place to try something else from.

python examples/replay_and_fork.py

A replay drives the loop again with the recorded replies and results and stops at the first thing that comes out another
way: a changed system prompt, a tool that says something else. Runs offline with the embedded model, in its own folder.
"""

import asyncio
import tempfile
from dataclasses import replace
from functools import wraps
from pathlib import Path

from openk2 import Agent
from openk2.agent.events import ToolFinished
from openk2.agent.fork import fork
from openk2.agent.log import read
from openk2.agent.replay import replay


def main() -> None:
    root = Path(tempfile.mkdtemp())
    with Agent(run_dir=root, tools=["calculator"]) as agent:
        first = agent.run("What is 123 * 456 + 7?")
        print(first)
        events = read(first.folder)

        tools = agent.setup.tools(("calculator",), None, root / "scratch")
        again = asyncio.run(replay(events, tools, root / "scratch", run_tools=True))
        print(f"replayed: {again.events} of {again.recorded} events are the same")
        assert again.same

        @wraps(tools["calculator"].function)
        def wrong(expression: str) -> str:
            return "42"

        changed = {"calculator": replace(tools["calculator"], function=wrong)}
        broken = asyncio.run(replay(events, changed, root / "broken", run_tools=True))
        assert broken.difference is not None
        print(f"with a broken tool: event {broken.difference.seq} differs in its {broken.difference.field}")

        result = next(event for event in events if isinstance(event, ToolFinished))
        copy = fork(first.folder, result.seq, root)
        print(f"forked after event {result.seq}, and on: {agent.resume(copy)}")


if __name__ == "__main__":
    main()
