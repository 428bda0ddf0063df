"""Give the agent a function of yours as a tool: types and docstring are all that it needs.

python examples/own_tool.py

Runs offline: the model is a script. A real one: drop `provider=` and name a model, as in
Agent("kimi:kimi-k2-thinking", tools=[stock, order], approve=approve).
"""

from openk2 import Agent, tool
from openk2.providers.scripted import ScriptedProvider, call, say

SHELF = {"apples": 3, "pears": 12}


@tool(idempotent=True)
def stock(fruit: str) -> int:
    """How many pieces of a fruit are left.

    Args:
        fruit: Its name in the plural, as apples.
    """
    return SHELF[fruit]


@tool(needs_approval=True)
def order(fruit: str, pieces: int) -> str:
    """Order more of a fruit; this costs money."""
    SHELF[fruit] += pieces
    return f"{pieces} {fruit} are on their way"


def approve(made: object, why: str) -> bool:
    print(f"asked: {why}")
    return True


SCRIPT = ScriptedProvider(
    [
        call(("stock", '{"fruit": "apples"}'), ("stock", '{"fruit": "pears"}'), reasoning="I look at both."),
        call(("order", '{"fruit": "apples", "pieces": 9}'), reasoning="Apples run out.", first=2),
        say("Only 3 apples were left, so I ordered 9 more."),
    ]
)


def main() -> None:
    with Agent(provider=SCRIPT, tools=[stock, order], approve=approve) as agent:
        print(agent.run("Keep at least ten pieces of each fruit."))
    print(SHELF)


if __name__ == "__main__":
    main()
