"""Watch a run: text as it is written, calls as they run, and each event of the log.

python examples/stream_events.py "Which of Kenya, Ghana and Chad has the most people per square kilometre?"

Runs offline with the embedded model. In an event loop: `async for item in agent.astream(question)`.
"""

import sys

from openk2 import Agent
from openk2.agent.events import ReplyReceived, RunFinished, ToolFinished, ToolStarted
from openk2.providers.base import Delta


def main() -> None:
    question = " ".join(sys.argv[1:]) or "What is the population of Ghana divided by the population of Chad?"
    with Agent(max_seconds=60) as agent:
        for item in agent.stream(question):
            match item:
                case Delta(kind="reasoning" | "content", text=text):
                    print(text, end="", flush=True)
                case ToolStarted():
                    print(f"\n→ {item.name} {item.arguments}")
                case ToolFinished():
                    print(f"  {item.content.splitlines()[0][:100]} ({item.seconds * 1000:.0f} ms)")
                case ReplyReceived():
                    print(f"\n[{item.usage.completion} tokens in {item.seconds:.2f} s]")
                case RunFinished():
                    print(f"\n{item.answer}\n{item.steps} steps, {item.seconds:.1f} s")


if __name__ == "__main__":
    main()
