"""Several worlds in one hand: the one that the task is about, and others whose tools the agent has, too.

The others really work: a call there changes their state, which the rubric then finds changed. An office is a world to
whoever uses it; its spec and its state are those of the first world.
"""

from __future__ import annotations

import copy
from typing import Any

from openk2.synth.task.rubric import state_checks
from openk2.synth.world.spec import Tool
from openk2.synth.world.state import State
from openk2.synth.world.world import Fault, Result, World


class Office(World):
    """`main` and the worlds `beside` it, each in its first state whenever `main` is restored."""

    def __init__(self, main: World, beside: list[World]) -> None:
        self.main, self.spec = main, main.spec
        self._starts: list[State] = []
        self.beside = [world for world in beside if world.spec.name != main.spec.name]
        self.tools: dict[str, Tool] = dict(main.tools)
        self._at: dict[str, World] = dict.fromkeys(main.tools, main)
        for world in self.beside:
            for name, tool in world.tools.items():
                if name not in self.tools:  # two services may have a tool of the same name: the agent has one
                    self.tools[name], self._at[name] = tool, world

    def __copy__(self) -> Office:
        return Office(copy.copy(self.main), [copy.copy(world) for world in self.beside])

    @property
    def state(self) -> State:
        return self.main.state

    @state.setter
    def state(self, state: State) -> None:
        self.main.state = state

    @property
    def fault(self) -> Fault | None:
        return self.main.fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        for world in (self.main, *self.beside):
            world.fault = fault

    def call(self, name: str, arguments: dict[str, Any]) -> Result:
        return self._at.get(name, self.main).call(name, arguments)

    def restore(self, snapshot: State) -> None:
        self.main.restore(snapshot)
        for world in self.beside:
            world.reset(0)
        self._starts = [world.snapshot() for world in self.beside]

    def changed(self) -> list[str]:
        """What was changed in the worlds beside."""
        return [
            f"something was changed in {world.spec.domain}"
            for world, first in zip(self.beside, self._starts, strict=True)
            if len(state_checks(world.spec, first, world.state)) > 1
        ]
