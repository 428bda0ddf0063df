"""Random and mutated token sequences through the parsers: no exception, no text lost, no call out of plain text.

    k2 bench parser --count 10000000 --seed 1
    k2 bench parser --count 1000000 --parser text

A third of the sequences is random (markup ids and any bytes, half characters included), a third a real message with a
few ids removed, doubled, moved or replaced, and a third plain text that spells markup without one special id. Each is
checked against what needs no parser: the decoded bytes of its ids, and the ids of markup in it. `--parser text` feeds
the decoded text to the text parser instead, whole and in pieces. Sequence n of a seed is always the same.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from openk2.bench.report import Report
from openk2.chat.messages import Message, ToolCall
from openk2.chat.parser import ENDS, Parser
from openk2.chat.template import sampled
from openk2.chat.text_parser import BEGIN_ARGUMENTS, END_MESSAGE, MARKERS, THINK, TextParser
from openk2.chat.tokenizer import Tokenizer
from openk2.paths import NANO

WORDS = [
    "Kenya", " the", "\n", " ", '"', "{", "}", "漢字", "😀", "é", " 12_345", "functions.x:0", "\\", "</think>",
    "<think>", "<|tool_call_begin|>", "<|tool_calls_section_begin|>", "<|tool_call_argument_begin|>", "[EOS]",
    '{"a": "', ":1", "<|",
]  # fmt: skip
_SKIPPED = re.compile("|".join([*map(re.escape, MARKERS), r"\s"]))
REPORTED = 10  # findings shown


class Sequences:
    """Endless sequences, a function of the seed; with each, its kind."""

    def __init__(self, tok: Tokenizer, seed: int) -> None:
        self.tok = tok
        self.rng = random.Random(f"parser fuzz {seed}")
        self.markup = [tok.special[name] for name in tok.special if name in MARKERS or name in ENDS]
        self.other = [tok.special[name] for name in ("<|im_user|>", "[PAD]", "<|im_middle|>")]
        self.plain = [token for word in WORDS for token in tok.encode(word)]
        self.messages = [sampled(tok, self._message()) for _ in range(2000)]
        self.texts = [tok.encode(self._text(12)) for _ in range(2000)]

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        while True:
            yield "random", self._random()
            yield "mutated", self._mutated()
            yield "plain", self.rng.choice(self.texts) + self.rng.choices(self.plain, k=self.rng.randrange(6))

    def _text(self, most: int) -> str:
        return "".join(self.rng.choices(WORDS, k=self.rng.randrange(most)))

    def _message(self) -> Message:
        names = self.rng.choices(["python", "search", "a-b.c"], k=self.rng.randrange(4))
        calls = tuple(ToolCall(f"functions.{n}:{i}", n, self._text(6)) for i, n in enumerate(names))
        return Message("assistant", self._text(8), self._text(8), calls)

    def _random(self) -> list[int]:
        rng = self.rng
        size = rng.randint(1, 24)
        markup = rng.choices(self.markup if rng.random() < 0.9 else self.other, k=size)
        text = rng.choices(self.plain, k=size) if rng.random() < 0.5 else rng.choices(range(self.tok.n_base), k=size)
        share = rng.random()
        return [m if rng.random() < share else t for m, t in zip(markup, text, strict=True)]

    def _mutated(self) -> list[int]:
        rng = self.rng
        ids = list(rng.choice(self.messages))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(ids) + 1)
            match rng.randrange(5):
                case 0:
                    del ids[at : at + rng.randint(1, 4)]
                case 1:
                    ids[at:at] = ids[at : at + rng.randint(1, 6)]
                case 2:
                    ids.insert(at, rng.choice(self.markup))
                case 3:
                    ids[at : at + 1] = [rng.choice(self.plain)]
                case _:
                    del ids[rng.randrange(len(ids) + 1) :]
        return ids


class IdCheck:
    """The parser by token id."""

    def __init__(self, tok: Tokenizer) -> None:
        self.tok = tok
        special = tok.special
        self.ends = {special[name] for name in ENDS}
        self.of_calls = {special[name] for name in special if name.startswith("<|tool_call")}
        self.calls = 0

    def __call__(self, kind: str, ids: list[int]) -> str | None:
        """What is wrong, if anything."""
        parser = Parser(self.tok)
        told = {"reasoning": "", "content": "", "call_id": "", "call_arguments": ""}
        for token in ids:
            for piece in parser.feed(token):
                told[piece.kind] += piece.text
        message = parser.finish()
        called = len(message.tool_calls)
        self.calls += called
        body = next((ids[:i] for i, token in enumerate(ids) if token in self.ends), ids)
        marks = sum(token in self.of_calls for token in body)
        if called > marks:
            return f"{called} calls from {marks} ids of markup"
        fields = [message.reasoning or "", message.content]
        fields += [part for call in message.tool_calls for part in (call.id, call.arguments)]
        given = self._text(body)
        # Between the markers of calls blanks are dropped: then the characters that are none must all be there.
        if "".join(fields) != given and Counter("".join(given.split())) != Counter("".join("".join(fields).split())):
            return "text lost"
        if not message.content.startswith(told["content"]) or not fields[0].startswith(told["reasoning"]):
            return "another message than was told"
        if kind == "plain" and (message.content != given or message.reasoning is not None):
            return "plain text is not the content"
        return None

    def _text(self, body: list[int]) -> str:
        """What the ids say without a parser: the bytes of each run of ordinary ids."""
        first, texts, run = self.tok.n_base, [], []
        for token in body:
            if token < first:
                run.append(token)
            elif run:
                texts.append(self.tok.decode(run))
                run = []
        return "".join([*texts, self.tok.decode(run)])


class TextCheck:
    """The parser of text: the same for any cut, and no more calls than arguments begin."""

    def __init__(self, tok: Tokenizer, seed: int) -> None:
        self.tok = tok
        self.rng = random.Random(f"cuts {seed}")
        self.calls = 0

    def __call__(self, kind: str, ids: list[int]) -> str | None:
        text = self.tok.decode(ids)
        parser = TextParser()
        pieces = parser.feed(text)
        message = parser.finish()
        pieces += parser.finished
        self.calls += len(message.tool_calls)
        cut = TextParser()
        at = 0
        while at < len(text):
            size = self.rng.randint(1, 12)
            cut.feed(text[at : at + size])
            at += size
        if cut.finish() != message:
            return "another message for other cuts"
        if len(message.tool_calls) > text.count(BEGIN_ARGUMENTS):
            return "a call without arguments"
        if not message.tool_calls and message.reasoning is None and not text.rstrip().endswith(END_MESSAGE):
            return None if message.content == text else "text lost"
        if not _only_markup_between(text, [piece.text for piece in pieces]):
            return "text lost"
        if message.reasoning is not None and not text.lstrip().startswith(THINK):
            return "thinking invented"
        return None


def _only_markup_between(text: str, pieces: list[str]) -> bool:
    """Whether the pieces stand in the text in their order, with nothing but markers and blanks around them."""
    places = {0}  # where the rest of the text may begin: a short piece may stand inside a marker as well
    for piece in [*pieces, None]:
        todo = list(places)
        while todo:
            if (skipped := _SKIPPED.match(text, todo.pop())) and skipped.end() not in places:
                places.add(skipped.end())
                todo.append(skipped.end())
        if piece is not None:
            places = {at + len(piece) for at in places if text.startswith(piece, at)}
    return len(text) in places


def measure(
    count: int,
    seed: int,
    kind: str = "ids",
    tokenizer: Path | None = None,
    seconds: float = math.inf,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """`count` sequences, or as many as fit in so many seconds, through the parser of ids or of text (`kind`)."""
    tok = Tokenizer.load(tokenizer or NANO)
    report = Report("parser", {"count": count, "seed": seed, "parser": kind, "tokenizer": str(tokenizer or NANO)})
    sequences = iter(Sequences(tok, seed))
    check = IdCheck(tok) if kind == "ids" else TextCheck(tok, seed)
    found: Counter[str] = Counter()
    started = shown = time.monotonic()
    tokens = n = 0
    while n < count and time.monotonic() - started < seconds:
        name, ids = next(sequences)
        tokens += len(ids)
        try:
            wrong = check(name, ids)
        except Exception as error:  # what this program looks for
            wrong = f"exception: {type(error).__name__}: {error}"
        n += 1
        if wrong:
            found[wrong] += 1
            if found.total() <= REPORTED:
                report.note(f"sequence {n - 1} ({name}): {wrong}: {ids} {tok.decode(ids)!r}")
        if time.monotonic() - shown > 1:
            shown = time.monotonic()
            progress(f"{n:,} sequences, {found.total()} findings")
    took = time.monotonic() - started
    exceptions = sum(count for wrong, count in found.items() if wrong.startswith("exception"))
    invented = sum(count for wrong, count in found.items() if "calls from" in wrong or "a call" in wrong)
    report.rows.append({
        "sequences": n, "tokens": tokens, "calls": check.calls, "exceptions": exceptions, "invented_calls": invented,
        "lost_text": found["text lost"],
        "other_findings": found.total() - exceptions - invented - found["text lost"],
        "seconds": round(took, 1), "sequences_per_second": round(n / took),
    })  # fmt: skip
    report.failed = bool(found)
    return report
