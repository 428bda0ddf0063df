"""Ask about your own files; every statement comes with the line it rests on.

python examples/ask_documents.py ~/notes "What do my notes say about the garden?"

Runs offline with the embedded model. Another model: Agent("kimi:kimi-k2-thinking", docs=[...]).
"""

import sys
import tempfile
from pathlib import Path

from openk2 import Agent


def main() -> None:
    if len(sys.argv) == 3:
        folder, question = Path(sys.argv[1]), sys.argv[2]
    else:  # without arguments: a note of our own
        folder = Path(tempfile.mkdtemp())
        (folder / "garden.txt").write_text("The garden has twelve apple trees and a pond.\n")
        question = "What do my notes say about the garden?"
    with Agent(docs=[folder]) as agent:
        answer = agent.run(question)
    print(answer)
    for source in answer.sources:
        print(f"  [{source.id}:{source.line}] {source.text}")
    print(f"{answer.steps} steps, {answer.seconds:.1f} s; `k2 runs show {answer.run}` shows how")


if __name__ == "__main__":
    main()
