"""Twenty records of training data as a person reads them, drawn by a seed; docs/data-samples.md is its output.

.venv/bin/python runs/data_samples.py DIALOGUES LONG MATHS SEARCH > docs/data-samples.md

The four are folders of shards (`k2 synth dialogues`, the same with its dials turned up, `maths`, `search`).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any

from data_pictures import HAPPENS, calls, read

Record = dict[str, Any]
SEED = 20261126  # a date, chosen before anything was read
RESULT, PROMPT = 400, 700  # characters of a result and of a prompt that are shown
LONG = 24  # messages of a long record that are shown, half from its beginning and half from its end
DRAWN: tuple[tuple[str, str, int, Callable[[Record], bool]], ...] = (
    ("dialogues", "any", 4, lambda r: True),
    ("dialogues", "going on after an error", 2, HAPPENS["goes on after an error"]),
    ("dialogues", "an impossible wish", 2, HAPPENS["declines a wish"]),
    ("dialogues", "a missing fact", 2, HAPPENS["asks for a missing fact"]),
    ("long dialogues", "long", 2, lambda r: True),
    ("maths", "any", 4, lambda r: True),
    ("search", "any", 3, lambda r: True),
    ("search", "no answer in the documents", 1, lambda r: r["kind"] == "search-none"),
)


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} … ({len(text) - most:,} more characters)"


def call_line(call: dict[str, Any]) -> str:
    """`name(argument=value, ...)`; code on lines of its own."""
    arguments = json.loads(call["function"]["arguments"])
    if "\n" in str(arguments.get("code", "")):
        return f"{call['function']['name']}:\n\n```python\n{arguments['code']}\n```"
    inside = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"`{call['function']['name']}({inside})`"


def lines_of(message: dict[str, Any]) -> list[str]:
    """A message as paragraphs of Markdown."""
    role, content = message["role"], message["content"]
    if role == "tool":
        return ["> " + cut(content, RESULT).replace("\n", "  \n> ")]
    if role != "assistant":
        return [f"**{role}** {cut(content, PROMPT)}".replace("\n- ", "\n\n- ")]
    out = [f"*{thought}*"] if (thought := message.get("reasoning_content")) else []
    out += [f"**agent** {content}"] if content else []
    return out + [call_line(call) for call in message.get("tool_calls") or ()]


def title(record: Record, wanted: str) -> str:
    proof = record.get("proof", {})
    about = f"{len(calls(record))} calls"
    if "world" in proof:
        wishes = len(proof["user"]["wishes"])
        about = f"world {proof['world']}, {len(record['tools'])} tools offered, {wishes} wishes, {about}"
    if "hops" in proof:
        about = f"{proof['hops']} hops, {proof['documents']} documents, {about}"
    return f"{record['kind']} {record.get('n', '')} ({wanted}): {about}"


def shown(record: Record) -> list[str]:
    messages = record["messages"]
    if len(messages) <= 2 * LONG:
        return [line for m in messages for line in lines_of(m)]
    left_out = len(messages) - LONG
    head, tail = messages[: LONG // 2], messages[-LONG // 2 :]
    return [
        *(line for m in head for line in lines_of(m)),
        f"… *here {left_out} messages are left out* …",
        *(line for m in tail for line in lines_of(m)),
    ]


def draw(data: dict[str, list[Record]]) -> list[tuple[str, str, Record]]:
    """(source, what was drawn from, record) of twenty different records."""
    rng, out = random.Random(SEED), []
    for source, wanted, count, fits in DRAWN:
        taken = {id(record) for *_, record in out}
        left = [record for record in data[source] if fits(record) and id(record) not in taken]
        out += [(source, wanted, record) for record in rng.sample(left, count)]
    return out


def main() -> None:
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    data = read(sys.argv[1:])
    parts = ", ".join(f"{len(records):,} {name}" for name, records in data.items())
    print(
        f"# Twenty samples\n\nDrawn by the seed {SEED} from {parts}, not chosen (`runs/data_samples.py`). "
        "What is in *italics* is the agent's thinking, what is quoted a tool's result; long results and prompts are "
        f"cut, and of a long dialogue the first and the last {LONG // 2} messages are shown."
    )
    for number, (_, wanted, record) in enumerate(draw(data), 1):
        print(f"\n## {number}. {title(record, wanted)}\n")
        print("\n\n".join(shown(record)))


if __name__ == "__main__":
    main()
