"""`python -m openk2.bench.agent_clients NAME URL STEPS`: one runtime in a process of its own, through a whole session.

All of them ask with streaming, run the same tool and keep what they keep by themselves. Prints {"answer", "peak_bytes",
"about"}; the server measures the rest.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import sys
import tempfile
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from openk2.paths import install

QUESTION = "Work through all of it, one step after the other."
MODEL = "kimi-k2-thinking"


def work(n: int) -> str:
    """Do one step of the work and return what it showed.

    Args:
        n: The number of the step.
    """
    return f"step {n}: " + "".join(chr(97 + (n * 3 + i * 5 + i // 7) % 26) for i in range(590))


def raw(url: str, steps: int) -> tuple[str, str]:
    """A plain loop: the whole history as JSON each time, nothing kept anywhere."""
    at = urlsplit(url)
    link = http.client.HTTPConnection(at.hostname or "", at.port)
    spec = {"type": "function", "function": {"name": "work", "description": "Do one step.", "parameters": {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}  # fmt: skip
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    while True:
        body = {"model": MODEL, "messages": messages, "tools": [spec], "stream": True}
        link.request(
            "POST", f"{at.path}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        content, thought, arguments, id = "", "", "", ""
        for line in link.getresponse().read().split(b"\n"):
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                delta = choice["delta"]
                content += delta.get("content") or ""
                thought += delta.get("reasoning_content") or ""
                for call in delta.get("tool_calls", ()):
                    id = call.get("id") or id
                    arguments += call["function"]["arguments"]
        if not id:
            return content, f"http.client, Python {sys.version.split()[0]}"
        made = {"id": id, "type": "function", "function": {"name": "work", "arguments": arguments}}
        messages.append({"role": "assistant", "content": content, "reasoning_content": thought, "tool_calls": [made]})
        messages.append({"role": "tool", "tool_call_id": id, "content": work(**json.loads(arguments))})


def ours(url: str, steps: int) -> tuple[str, str]:
    """With its log on disk: three fsyncs a step."""
    from openk2 import __version__
    from openk2.agent.api import Agent

    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("OPENK2_BENCH_DIR")) as folder,
        Agent(MODEL, base_url=url, tools=[work], steps=steps + 10, run_dir=folder) as agent,
    ):
        return agent.run(QUESTION).text, f"openk2 {__version__}"


def ours_without_fsync(url: str, steps: int) -> tuple[str, str]:
    """The same, but the disk is not waited for: what the fsyncs are."""
    os.fsync = lambda _: None
    return ours(url, steps)


def pydantic_ai(url: str, steps: int) -> tuple[str, str]:
    from openai import AsyncOpenAI  # pyright: ignore[reportMissingImports]
    from pydantic_ai import Agent  # pyright: ignore[reportMissingImports]
    from pydantic_ai.models.openai import OpenAIChatModel  # pyright: ignore[reportMissingImports]
    from pydantic_ai.providers.moonshotai import MoonshotAIProvider  # pyright: ignore[reportMissingImports]
    from pydantic_ai.usage import UsageLimits  # pyright: ignore[reportMissingImports]

    async def run() -> str:
        provider = MoonshotAIProvider(openai_client=AsyncOpenAI(base_url=url, api_key="none"))
        agent = Agent(OpenAIChatModel(MODEL, provider=provider), tools=[work])
        async with agent.iter(QUESTION, usage_limits=UsageLimits(request_limit=None)) as going:
            async for node in going:
                if Agent.is_model_request_node(node):
                    async with node.stream(going.ctx) as stream:
                        async for _ in stream:
                            pass
        return str(going.result.output if going.result else "")

    return asyncio.run(run()), f"pydantic-ai {version('pydantic-ai-slim')}"


def openai_agents(url: str, steps: int) -> tuple[str, str]:
    from agents import (  # pyright: ignore[reportMissingImports]
        Agent,
        OpenAIChatCompletionsModel,
        Runner,
        function_tool,
        set_tracing_disabled,  # pyright: ignore[reportMissingImports]
    )
    from openai import AsyncOpenAI  # pyright: ignore[reportMissingImports]

    set_tracing_disabled(True)

    async def run() -> str:
        model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=url, api_key="none"))
        agent = Agent(name="bench", model=model, tools=[function_tool(work)])
        going = Runner.run_streamed(agent, QUESTION, max_turns=steps + 10)
        async for _ in going.stream_events():
            pass
        return str(going.final_output)

    return asyncio.run(run()), f"openai-agents {version('openai-agents')}"


CLIENTS = {
    "raw loop": raw, "openk2": ours, "openk2 without fsync": ours_without_fsync, "pydantic-ai": pydantic_ai,
    "openai-agents": openai_agents,
}  # fmt: skip


def main(name: str, url: str, steps: int) -> None:
    try:
        answer, about = CLIENTS[name](url, steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        said: dict[str, Any] = {"answer": answer, "about": about, "peak_bytes": peak}
    except ImportError as error:
        said = {"error": f"{error.name} is missing; install it: {install('bench')}"}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
