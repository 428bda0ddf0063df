"""What is asked of the person at the terminal: may this call run, and may the run use more?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from openk2.agent.events import BudgetSpent
from openk2.chat.messages import ToolCall
from openk2.cli import keyboard
from openk2.cli.terminal import Terminal, call_text

UNITS = {"steps": "steps", "tokens": "tokens", "seconds": "seconds", "money": "US dollars"}


class Consent:
    """Asks at the terminal. `yes` allows every call unasked. `quietly` wraps each question: what else listens to keys.

    `ask` is how a line comes in; None is the end of input.
    """

    def __init__(
        self,
        terminal: Terminal,
        *,
        yes: bool = False,
        quietly: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._terminal, self._yes, self._quietly = terminal, yes, quietly
        self._always: set[str] = set()

    async def approve(self, call: ToolCall, why: str) -> bool:
        if self._yes or call.name in self._always:
            return True
        self._terminal.say(f"{why}\n  {call_text(call.name, call.arguments)}")
        while True:
            said = await self._line("Run it? y (yes), n (no), a (always, for this tool): ")
            match (said or "n").strip().lower():
                case "y" | "yes":
                    return True
                case "n" | "no":
                    return False
                case "a" | "always":
                    self._always.add(call.name)
                    return True

    async def more(self, spent: BudgetSpent) -> float | None:
        unit = UNITS.get(spent.axis, spent.axis)
        self._terminal.say(f"The budget of {spent.limit:g} {unit} is used up.")
        while True:
            said = (await self._line(f"Go on? y ({spent.limit:g} {unit} more), a number, or n (answer now): ")) or "n"
            match said.strip().lower():
                case "y" | "yes":
                    return spent.limit
                case "n" | "no":
                    return None
                case text:
                    try:
                        number = float(text)
                    except ValueError:
                        continue
                    return number if 0 < number < float("inf") else None

    async def _line(self, question: str) -> str | None:
        with self._quietly():
            self._terminal.prompt(question)
            return await keyboard.read_line()
