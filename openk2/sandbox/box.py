"""A box: one Python process inside the strongest boundary this machine offers, with its state kept between calls.

The tiers are in `running.TIERS`, strongest first. Where none works, a call raises `NoBoundary`: model code never runs
without a boundary. When the process was lost, the next call first rebuilds its state from the journal.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from openk2.errors import UserError
from openk2.sandbox.journal import Journal
from openk2.sandbox.policy import Policy
from openk2.sandbox.running import TIERS, Answer, Outcome, Refused, Running, Tier
from openk2.sandbox.worker import NO_OUTPUT

__all__ = ["TIERS", "Box", "NoBoundary", "Outcome", "Tier", "TierReport", "probe"]

RESTARTED = "The Python process was restarted; earlier variables are gone."
LONGEST_COMMAND = 100_000  # bytes; the kernel takes no argument over 128 KiB


class NoBoundary(UserError):
    """No tier works here; the message says why for each, as `reasons` does."""

    def __init__(self, reasons: dict[Tier, str]):
        self.reasons = reasons
        grouped: dict[str, list[str]] = {}
        for tier, reason in reasons.items():
            grouped.setdefault(reason, []).append(tier)
        told = "; ".join(f"{', '.join(tiers)}: {reason}" for reason, tiers in grouped.items())
        super().__init__(
            f"Python code and shell commands cannot run here, because no sandbox works on this machine ({told})."
            " Install bubblewrap, or use a Linux kernel from 5.13 on."
        )


@dataclass(frozen=True, slots=True)
class TierReport:
    tier: Tier
    works: bool
    detail: str  # why not, or how long a start took


class Box:
    """Starts on the first call. One call runs at a time; `kill` may come from another thread. Use as a context manager,
    or let it go out of scope: the processes end with it."""

    def __init__(
        self,
        workspace: Path,
        policy: Policy | None = None,
        tier: Tier | None = None,
        *,
        journal: Path | None = None,
        resumed: bool = False,
    ):
        """`workspace`: the one folder that code may write to. `tier`: only this one; by default the strongest.

        `journal`: the file that remembers finished calls, outside the workspace; by default they are remembered as long
        as the box is open. `resumed`: an earlier box had state, so the first call says what became of it.
        """
        if journal is not None and journal.resolve().is_relative_to(workspace.resolve()):
            raise UserError(f"The journal {journal} must be outside the workspace, where code cannot write to it.")
        self.workspace = workspace
        self.policy = policy or Policy()
        self.tier: Tier | None = None  # the tier in use, once started
        self._journal_path = journal
        self._journal: Journal | None = None
        self._wanted: tuple[Tier, ...] = (tier,) if tier else TIERS
        self._running: Running | None = None
        self._lost = resumed  # a process with state was ended, and no call has said so yet
        self._kill_asked = False
        self._lock = threading.Lock()

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, code: str, timeout: float | None = None) -> Outcome:
        """Run Python `code` and return its text. Raises NoBoundary where no tier works, UserError where the journal
        cannot be written; never for anything the code does."""
        with self._lock:
            self._kill_asked = False
            said, answer, journal = self._python(code, timeout or self.policy.timeout)
            if answer.lost:
                self._end()
                self._lost = True
                said, answer, journal = self._python(code, timeout or self.policy.timeout)
            if answer.gone:
                self._end()
            else:
                journal.call(code, answer.done)
            self._lost = answer.gone
            if not said:
                return answer.outcome
            text = said if answer.outcome.text == NO_OUTPUT else f"{said}\n{answer.outcome.text}"
            return replace(answer.outcome, text=text)

    def shell(self, command: str, timeout: float | None = None) -> Outcome:
        """Run `command` in bash, where the last one ended (folder and exported variables). Raises like `call`."""
        if len(command.encode("utf-8", "surrogatepass")) > LONGEST_COMMAND or "\0" in command:
            why = "it holds a NUL" if "\0" in command else f"it is longer than {LONGEST_COMMAND:,} bytes"
            return Outcome(f"The command was not run: {why}. Write a script to a file and run that.", True)
        with self._lock:
            self._kill_asked = False
            running, journal = self._ready()
            answer = running.shell(command, journal.shell, timeout or self.policy.timeout)
            if answer.shell and answer.shell != journal.shell:
                journal.shell_ended(answer.shell)
            if answer.gone:  # the command took the Python process with it: the next call of that says so
                self._lost = self._lost or bool(journal.calls)
                self._end()
            return answer.outcome

    def start(self) -> None:
        """Start now, so that the first call does not have to. Raises NoBoundary."""
        with self._lock:
            self._ready()

    def kill(self) -> None:
        """End a call in flight from another thread, with everything it started."""
        self._kill_asked = True
        if (running := self._running) is not None:
            running.stop()

    def close(self) -> None:
        """End the process and all it started. A later call starts anew; with a journal file, from its state."""
        self.kill()
        with self._lock:
            self._end()
            self._lost = False
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _ready(self) -> tuple[Running, Journal]:
        if self._journal is None:
            self._journal = Journal(self._journal_path)
            self._lost = self._lost or bool(self._journal.calls)
        if self._running is None or not self._running.alive():
            self._lost = self._lost or self._running is not None
            self._end()
            self._running = self._start()
        if self._kill_asked:  # while it started
            self._running.stop()
        return self._running, self._journal

    def _python(self, code: str, timeout: float) -> tuple[str, Answer, Journal]:
        """One call, after what was lost is there again; what is said of that, and the answer."""
        running, journal = self._ready()
        said = self._rebuild(running, journal) if self._lost else ""
        return said, (self._running or running).python(code, timeout), journal

    def _rebuild(self, running: Running, journal: Journal) -> str:
        """Run the journal's calls again in a new process; the sentence that says what is there."""
        if journal.calls:
            request = json.dumps({"calls": journal.calls, "seconds": self.policy.rebuild})
            answer = running.replay(request, self.policy.rebuild + 2.0)
            if not answer.gone:
                return answer.outcome.text
            if self._kill_asked:
                return RESTARTED
            journal.forget()
            self._end()
            self._running = self._start()
        return RESTARTED

    def _end(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _start(self) -> Running:
        reasons: dict[Tier, str] = {}
        for tier in self._wanted:
            try:
                running = Running(self.workspace, self.policy, tier)
            except Refused as refused:
                reasons[tier] = str(refused)
                continue
            self.tier = tier
            return running
        raise NoBoundary(reasons)


def probe(tier: Tier) -> TierReport:
    """Try a tier by starting a box in it."""
    with tempfile.TemporaryDirectory(prefix="openk2-probe-") as folder, Box(Path(folder), tier=tier) as box:
        before = time.monotonic()
        try:
            outcome = box.call("6 * 7", 10.0)
        except NoBoundary as error:
            return TierReport(tier, False, error.reasons[tier])
        spent = f"{(time.monotonic() - before) * 1000:.0f} ms"
        return TierReport(tier, outcome.text == "42", f"starts and answers in {spent}")
