"""Stage zero: copying and recall over random tokens, so that the heads that copy form before anything else is learned.

A model that starts on trajectories first learns their form and can stay there for millions of tokens before it copies
what it has read. Random tokens have no form: copying is all there is to learn, and with tied embeddings what is
learned holds for every token of the vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from openk2.chat.messages import Message
from openk2.chat.shards import Tokens, write_tokens
from openk2.chat.template import generation_prompt, render_message
from openk2.chat.tokenizer import Tokenizer


class Copying:
    """Documents of token ids with their masks.

    A share `few` of them is made of a handful of tokens, each of which comes again and again: then the token before
    does not tell the next one, only the place in the sequence does. The first stage has none of them: with four in
    ten no copying had formed when without them it was done.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int, few: float = 0.0):
        self.rng = random.Random(f"openk2 copying {seed}")
        self.tokenizer = tokenizer
        self.few = few
        self.ordinary = [t for t in range(tokenizer.n_vocab) if not tokenizer.is_special(t)]
        numbers = [t for t in self.ordinary if tokenizer.decode_bytes([t]).isdigit()]
        self.pools = [self.ordinary, self.ordinary, self.ordinary, numbers]
        self.answer = [*generation_prompt(tokenizer), tokenizer.special["<think>"], tokenizer.special["</think>"]]
        self.end = tokenizer.special["<|im_end|>"]

    def draw(self) -> Tokens:
        """(ids, mask) of one document: a sequence said again, or values found by their keys."""
        pool = None
        if self.few and self.rng.random() < self.few:
            pool = self.rng.choices(self.ordinary, k=self.rng.randint(3, 12))
        return self._repeat(pool) if self.rng.random() < 0.6 else self._recall(pool)

    def _tokens(self, low: int, high: int, pool: list[int] | None = None) -> list[int]:
        return self.rng.choices(pool or self.rng.choice(self.pools), k=self.rng.randint(low, high))

    def _document(self, asked: str, given: list[int], said: list[int]) -> Tokens:
        question = render_message(self.tokenizer, Message("user", asked))
        prompt = question[:-1] + given + question[-1:] + self.answer
        return prompt + said + [self.end], [0] * len(prompt) + [1] * (len(said) + 1)

    def _repeat(self, pool: list[int] | None) -> Tokens:
        # Short ones show that any token of the context may come again, long ones which: both are needed.
        tokens = self._tokens(2, self.rng.choice((4, 12, 100)), pool)
        return self._document("Repeat exactly:", tokens, tokens)

    def _recall(self, pool: list[int] | None) -> Tokens:
        """`key value` lines; the answer says some of them again, in another order."""
        line_break = self.tokenizer.encode("\n")
        count = self.rng.randint(2, 24 if pool else 10)
        pairs = [(self._tokens(1, 4), self._tokens(1, 6, pool)) for _ in range(count)]
        given = [t for key, value in pairs for t in (*key, *value, *line_break)]
        said: list[int] = []
        for key, value in self.rng.sample(pairs, len(pairs) // 2 + 1):
            said += [*key, *value, *line_break]
        return self._document("Look up:", given, said)


def make(
    tokenizer_path: Path, out: Path, tokens: int, seed: int, few: float = 0.0, say: Callable[[str], None] = print
) -> None:
    """Write one shard of about `tokens` tokens. Raises UserError for a tokenizer that is missing or damaged."""
    tokenizer = Tokenizer.load(tokenizer_path)
    copying = Copying(tokenizer, seed, few)
    out.mkdir(parents=True, exist_ok=True)
    documents: list[Tokens] = []
    made = 0
    while made < tokens:
        documents.append(copying.draw())
        made += len(documents[-1][0])
    write_tokens(out / f"copy{seed}", documents, tokenizer.n_vocab)
    say(f"{made / 1e6:.2f}M tokens in {out}")
