"""Several independent runs of one question, and one answer made of them.

python examples/heavy_mode.py "Which of Kenya, Ghana and Chad has the most people per square kilometre?"

Runs offline with the embedded model, which samples each path anew. Another model: Agent("kimi:kimi-k2-thinking",
mode="heavy", paths=8, max_cost=2.0); all paths and the merge stay within the one budget.
"""

import sys

from openk2 import Agent
from openk2.agent.events import ChildFinished, ChildStarted, Note


def main() -> None:
    question = " ".join(sys.argv[1:]) or "Which of Kenya, Ghana and Chad has the most people per square kilometre?"
    with Agent(mode="heavy", paths=3, merge="evidence") as agent:
        for item in agent.stream(question):
            match item:
                case ChildStarted():
                    print(f"{item.folder} begins")
                case ChildFinished():
                    print(f"path {item.child} ended after {item.steps} steps ({item.reason}): {item.answer}")
                case Note():
                    print(item.text)
        answer = agent.resume(next(iter(sorted(agent.root.iterdir(), reverse=True))).name)
    print(answer)
    for source in answer.sources:
        print(f"  [{source.id}:{source.line}] {source.text}")


if __name__ == "__main__":
    main()
