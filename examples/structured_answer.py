"""Get the answer as data: a pydantic model, a dataclass, list[int] ... What does not fit is sent back to the model.

python examples/structured_answer.py

Runs offline: the model is a script whose first answer is wrong. A real one:
Agent("kimi:kimi-k2-thinking").run(QUESTION, output=Country).
"""

from pydantic import BaseModel

from openk2 import Agent
from openk2.providers.scripted import ScriptedProvider, call, say


class Country(BaseModel):
    name: str
    capital: str
    coastline_km: int


QUESTION = "Which country has the capital Lima, and how long is its coastline?"
SCRIPT = ScriptedProvider(
    [
        call(("search", '{"query": "Peru coastline"}'), reasoning="Lima is the capital of Peru."),
        say('{"name": "Peru", "capital": "Lima", "coastline_km": "long"}'),
        say('```json\n{"name": "Peru", "capital": "Lima", "coastline_km": 2414}\n```'),
    ]
)


def main() -> None:
    with Agent(provider=SCRIPT, tools=["search"]) as agent:
        answer = agent.run(QUESTION, output=Country)
    country = answer.output
    print(f"{country.name}: {country.capital}, {country.coastline_km:,} km of coast ({len(answer.messages)} messages)")


if __name__ == "__main__":
    main()
