"""Codes hidden in real text and asked for at its end: what a long context is for, at any length.

A code is a line `Code NAMEdigits.`: a name of two or three random word pieces and two random tokens of three digits, so
one in a million is guessed. The text around it is real, other codes lie between, and the document ends with
`Code NAME`. Where the asked code lies and how long the document is are arguments: the same documents teach retrieval
and, from held-out text and another seed, measure it by position.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from openk2.chat.shards import Tokens, write_tokens
from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError
from openk2.synth.rows import read_rows

ANSWER = 2  # tokens of a code's digits
_SHORTEST = 96  # tokens of a document made to learn from


class Recall:
    """Documents of token ids with their masks; the same seed and text give the same ones."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str], seed: int) -> None:
        """Raises UserError when there is no text to hide codes in."""
        self.rng = random.Random(f"openk2 recall {seed}")
        self.texts = [ids for text in texts if len(ids := tokenizer.encode(text)) >= _SHORTEST]
        if not self.texts:
            raise UserError(f"There is no text of {_SHORTEST} tokens or more to hide codes in; give more text.")
        pieces = {t: tokenizer.decode([t]) for t in range(tokenizer.n_vocab) if not tokenizer.is_special(t)}
        self.starts = [t for t, piece in pieces.items() if re.fullmatch(r" [A-Za-z]{2,}", piece)]
        self.middles = [t for t, piece in pieces.items() if re.fullmatch(r"[a-z]{2,}", piece)]
        self.digits = [t for t, piece in pieces.items() if re.fullmatch(r"[0-9]{3}", piece)]
        self.head, self.tail = tokenizer.encode("\nCode"), tokenizer.encode(".\n")

    def learning(self, longest: int) -> Tokens:
        """One document of 96 to `longest` tokens that asks for several of its codes in another order."""
        rng = self.rng
        length = round(_SHORTEST * (longest / _SHORTEST) ** rng.random())
        codes = [self._code() for _ in range(rng.randint(1, max(2, min(24, length // 32))))]
        asked = rng.sample(codes, rng.randint(1, min(len(codes), 8)))
        return self._document(length, [(rng.random(), code) for code in codes], asked)

    def probe(self, length: int, depth: float, distance: int = 256) -> Tokens:
        """One document of exactly `length` tokens that asks for the code that lies at `depth` of it (0 first, 1 last).

        Other codes lie at random places, one for every `distance` tokens.
        """
        code = self._code()
        others = [(self.rng.random(), self._code()) for _ in range(length // distance)]
        return self._document(length, [(depth, code), *others], [code])

    def _code(self) -> tuple[list[int], list[int]]:
        name = [self.rng.choice(self.starts), *self.rng.choices(self.middles, k=self.rng.randint(1, 2))]
        return name, self.rng.choices(self.digits, k=ANSWER)

    def _document(
        self, length: int, codes: list[tuple[float, tuple[list[int], list[int]]]],
        asked: list[tuple[list[int], list[int]]],
    ) -> Tokens:  # fmt: skip
        """What can be known is learned: the text, and a code's digits when it is asked for; not what is drawn."""
        head, tail = self.head, self.tail
        questions: list[tuple[int, int]] = []  # (id, learned)
        for name, digits in asked:
            questions += [(t, 0) for t in (*head, *name)] + [(t, 1) for t in digits] + [(t, 1) for t in tail]
        questions = questions[: -len(tail)]  # the document ends with the last answer
        lines = [[*((t, 1) for t in head), *((t, 0) for t in (*name, *digits)), *((t, 1) for t in tail)]
                 for _, (name, digits) in sorted(codes)]  # fmt: skip
        room = max(0, length - len(questions) - sum(map(len, lines)))
        text = self._text(room)
        pairs: list[tuple[int, int]] = []
        before = 0
        for depth, line in zip(sorted(depth for depth, _ in codes), lines, strict=True):
            at = round(depth * room)
            pairs += [(t, 1) for t in text[before:at]] + line
            before = at
        pairs += [(t, 1) for t in text[before:]] + questions
        return [t for t, _ in pairs], [m for _, m in pairs]

    def _text(self, length: int) -> list[int]:
        """`length` tokens of real text, from a random place on."""
        ids: list[int] = []
        while len(ids) < length:
            text = self.rng.choice(self.texts)
            start = self.rng.randrange(max(1, len(text) - length)) if not ids else 0
            ids += text[start : start + length - len(ids)]
        return ids


def read_texts(paths: Iterable[Path]) -> list[str]:
    """The `text` of every row of JSON-lines files. Raises UserError for one that is missing or has none."""
    try:
        return [row["text"] for path in paths for row in read_rows(path)]
    except (KeyError, TypeError):
        raise UserError("A row has no `text`; give files as `k2 synth text` writes them.") from None


def make(
    tokenizer_path: Path, texts: Iterable[Path], out: Path, tokens: int, longest: int, seed: int,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Write one shard of about `tokens` tokens. Raises UserError for a tokenizer that is missing or too large."""
    tokenizer = Tokenizer.load(tokenizer_path)
    recall = Recall(tokenizer, read_texts(texts), seed)
    out.mkdir(parents=True, exist_ok=True)
    documents: list[Tokens] = []
    made = 0
    while made < tokens:
        documents.append(recall.learning(longest))
        made += len(documents[-1][0])
    write_tokens(out / f"recall{longest}-{seed}", documents, tokenizer.n_vocab)
    say(f"{made / 1e6:.2f}M tokens in {out}")
