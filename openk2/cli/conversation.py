"""The conversation of `k2 chat`: turns of one run, and the commands between them.

All turns stand in one log. A change of model, mode, effort or documents goes on in a copy of the run, because a log
says what it was made with.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from openk2.agent.calls import abandon
from openk2.agent.events import Event, RunFinished, RunStarted, RunStopped, UserSaid
from openk2.agent.export import KINDS, export
from openk2.agent.fork import fork
from openk2.agent.log import Log, new_id, runs_dir
from openk2.agent.loop import Loop
from openk2.agent.parts import Parts
from openk2.agent.setup import Setup
from openk2.cli import keyboard, options, settings
from openk2.cli.consent import Consent
from openk2.cli.show import used_text
from openk2.cli.terminal import Terminal, one_line
from openk2.errors import UserError
from openk2.paths import data_dir
from openk2.providers.base import Delta

PROMPT = "› "
HISTORY = 1000  # lines

HELP = """\
/mode chat|agent              without tools, or with them
/model NAME [BASE_URL]        another model
/effort low|medium|high|max   how much to think and doubt
/docs PATH ...                what is searched; /docs library: the embedded one
/run                          how to come back to this chat
/save FILE                    write it as .html, .jsonl or .json
/help                         this
/quit                         leave (or Ctrl-D)
What you type while it works is told to the model before its next step.
Ctrl-C stops the turn."""


class Conversation:
    """`log`: a run to go on with; else one begins with the first question."""

    def __init__(self, setup: Setup, root: Path, *, yes: bool = False, log: Log | None = None) -> None:
        self.setup, self.root, self.log = setup, root, log
        self.terminal = Terminal()
        self._worker: Loop | None = None
        self._told: list[str] = []  # typed while it works, and not yet read by the model
        self._later: list[str] = []  # what is done when the turn is over
        self._typing = keyboard.Typing(self._steer, self.terminal.typing)
        self._asked = keyboard.present()
        self._consent = Consent(self.terminal, yes=yes, quietly=self._typing.paused)
        self._yes = yes
        self._parts: Parts | None = None
        self._runner = asyncio.Runner()

    def talk(self, lines: Iterator[str]) -> int:
        """Answer each line until there are no more. Returns the exit code."""
        code = 0
        try:
            self._greet()
            for typed in lines:
                self._later.append(typed)
                while self._later:
                    try:
                        if not self._line(self._later.pop(0).strip()):
                            return code
                        code = 0
                    except UserError as error:
                        self.terminal.say(str(error))
                        code = 2
            return code
        finally:
            self._close()
            self._runner.close()
            if self.log is not None:
                self.log.close()

    def _line(self, line: str) -> bool:
        """Do what a line says; False: leave."""
        if line.startswith("/"):
            return self._command(line)
        if line:
            self._turn(line)
        return True

    # A turn.

    def _greet(self) -> None:
        if self.log is None:
            if self._asked:
                model = self.setup.model or self.setup.base_url or "nano"
                self.terminal.line(f"{model}, mode {self.setup.mode}. /help shows what else there is.", "dim")
                if not self.setup.habits.steer:
                    self.terminal.line("Each question is answered by itself, without what was said before.", "dim")
            return
        for event in self.log.events:
            if isinstance(event, RunStarted | UserSaid):
                said = event.question if isinstance(event, RunStarted) else event.text
                self.terminal.line(f"{PROMPT}{said}", "bold")
            elif isinstance(event, RunFinished):
                self.terminal.line(event.answer + "\n", "")
        if self.log.finished is None and not isinstance(self.log.events[-1], RunStopped):
            self.terminal.note("the last question has no answer yet; going on with it")
            self._work()

    def _turn(self, text: str) -> None:
        if self.log is None:
            started = self.setup.started(new_id(), text)
            self.log = Log.create(self.root / started.run)
            self.log.append(started)
        else:
            self.log.append(UserSaid(text=text))
        self._work()

    def _work(self) -> None:
        log = self.log
        assert log is not None
        try:
            end = self._runner.run(self._answer(log))
        except KeyboardInterrupt:
            abandon(log)
            self._close()  # with what its tools still run
            self._told.clear()
            self.terminal.end()
            self.terminal.note("stopped; ask on, or Ctrl-D leaves")
            return
        except UserError:
            abandon(log)
            self.terminal.end()
            raise
        finally:
            self._worker = None
            self._later += self._told  # too late for this turn: the next one
            self._told.clear()
        assert self._parts is not None
        self.terminal.finish(end, self._parts.sources(log, end))
        self.terminal.line(f"({used_text(end.steps, end.usage, end.seconds)})\n", "dim")

    async def _answer(self, log: Log) -> RunFinished:
        if self._parts is None:
            if self.setup.docs:
                self.terminal.wait("the documents are being read")
            servers = settings.servers() if self.setup.mcp else ()
            parts = await asyncio.to_thread(Parts.open, log, servers=servers)
            try:
                await parts.connect(log)
            except BaseException:  # Ctrl-C while servers start: the next turn starts them again
                await parts.aclose()
                raise
            self._parts = parts
            for note in self._parts.notes:
                self.terminal.note(note)
        self.terminal.wait(f"{self._parts.provider.name} is reading")
        worker = self._parts.worker(
            log,
            watch=self._watch,
            approve=self._consent.approve if self._yes or self._asked else None,
            more=self._consent.more if self._asked else None,
        )
        self._worker = worker if isinstance(worker, Loop) else None
        with self._typing.listening() if self._asked else contextlib.nullcontext():
            return await worker.run()

    def _watch(self, name: str, item: Event | Delta) -> None:
        if not name and isinstance(item, UserSaid) and self._told:
            self._told.pop(0)
        self.terminal.watch_tree(name, item)

    def _steer(self, line: str) -> None:
        self.terminal.line(f"{PROMPT}{line}", "bold")
        if line.startswith("/"):
            self._later.append(line)
            self.terminal.note("this is done when the turn is over")
        elif self._worker is not None:
            self._told.append(line)
            self._worker.steer(line)

    # Commands.

    def _command(self, line: str) -> bool:
        """Do what a line that begins with a slash says; False: leave."""
        name, *words = line[1:].split()
        if name in ("quit", "exit", "q"):
            return False
        known: dict[str, Callable[[list[str]], None]] = {
            "help": self._help, "mode": self._mode, "effort": self._effort, "model": self._model, "docs": self._docs,
            "run": self._run, "save": self._save,
        }  # fmt: skip
        if name not in known:
            raise UserError(f"There is no command /{one_line(name)}; /help lists them.")
        known[name](words)
        return True

    def _help(self, words: list[str]) -> None:
        self.terminal.line(HELP, "")

    def _mode(self, words: list[str]) -> None:
        match words:
            case ["chat" | "agent" as mode]:
                self._change(replace(self.setup, mode=mode))
            case []:
                self.terminal.line(f"The mode is {self.setup.mode}.", "")
            case _:
                raise UserError("/mode takes chat or agent; heavy mode answers one question: k2 ask --mode heavy.")

    def _effort(self, words: list[str]) -> None:
        if not words:
            self.terminal.line(f"The effort is {self.setup.effort or 'not set'}.", "")
        elif len(words) == 1 and words[0] in options.EFFORTS:
            self._change(replace(self.setup, effort=words[0]))
        else:
            raise UserError(f"/effort takes one of {', '.join(options.EFFORTS)}.")

    def _model(self, words: list[str]) -> None:
        match words:
            case [name] | [name, _]:
                base_url = words[1] if len(words) == 2 else self.setup.base_url if ":" not in name else None
                if name == "nano":
                    base_url = None
                self._change(replace(self.setup, model=options.model_name(name, base_url), base_url=base_url))
            case []:
                self.terminal.line(f"The model is {self.setup.model or self.setup.base_url or 'nano'}.", "")
            case _:
                raise UserError("/model takes a name, and the address of its server where it needs one.")

    def _docs(self, words: list[str]) -> None:
        if not words:
            self.terminal.line("\n".join(self.setup.docs) or "The embedded library is searched.", "")
        else:
            self._change(replace(self.setup, docs=() if words == ["library"] else options.documents(tuple(words))))

    def _run(self, words: list[str]) -> None:
        if self.log is None:
            self.terminal.line("Nothing was asked yet.", "")
        else:
            other = "" if self.root == runs_dir() else f" --run-dir {self.root}"
            self.terminal.line(f"k2 chat --resume {self.log.folder.name}{other}", "")

    def _save(self, words: list[str]) -> None:
        if self.log is None or len(words) != 1:
            raise UserError("/save takes the file to write, once something was asked.")
        place = Path(words[0]).expanduser()
        kind = {".json": "openai"}.get(place.suffix, place.suffix.lstrip("."))
        if kind not in KINDS:
            raise UserError("/save writes .html, .jsonl or .json; name the file so.")
        try:
            place.write_bytes(export(self.log.folder, kind).encode("utf-8", "replace"))
        except OSError as error:
            raise UserError(f"{place} cannot be written ({error.strerror}); name another file.") from None
        self.terminal.line(f"saved as {place}", "dim")

    def _change(self, setup: Setup) -> None:
        """Go on with another setup: in a copy of the run where one has begun."""
        folder = fork(self.log.folder, None, self.root, setup=setup) if self.log is not None else None
        if folder is None:
            _ = setup.folder  # an unknown model is said now
        self._close()
        if self.log is not None and folder is not None:
            self.log.close()
            self.log = Log.open(folder)
            self.terminal.note(f"goes on as run {folder.name}")
        self.setup = setup

    def _close(self) -> None:
        if self._parts is not None:
            self._runner.run(self._parts.aclose())
            self._parts = None


def piped_lines() -> Iterator[str]:
    """Each line of standard input is a turn."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace").strip()


def typed_lines() -> Iterator[str]:
    """Lines from the terminal, with editing and the history of earlier chats."""
    import readline

    history = data_dir() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(HISTORY)
    try:
        while True:
            try:
                yield input(PROMPT)
            except KeyboardInterrupt:
                print("\n(Ctrl-D leaves)")
            except EOFError:
                print()
                return
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
