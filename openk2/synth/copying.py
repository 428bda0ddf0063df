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
from openk2.chat.template import generation_prompt, render_message
from openk2.chat.tokenizer import Tokenizer
from openk2.synth.shards import Tokens, load_tokenizer, write_tokens


class Copying:
    """Documents of token ids with their masks."""

    def __init__(self, tokenizer: Tokenizer, seed: int):
        self.rng = random.Random(f"openk2 copying {seed}")
        self.tokenizer = tokenizer
        self.ordinary = [t for t in range(tokenizer.n_vocab) if not tokenizer.is_special(t)]
        numbers = [t for t in self.ordinary if tokenizer.decode_bytes([t]).isdigit()]
        self.numbers = numbers
        self.answer = [*generation_prompt(tokenizer), tokenizer.special["<think>"], tokenizer.special["</think>"]]
        self.end = tokenizer.special["<|im_end|>"]

    def draw(self) -> Tokens:
        """(ids, mask) of one document: a sequence said again, or values found by their keys."""
        return self._repeat() if self.rng.random() < 0.5 else self._recall()

    def _pool(self) -> list[int]:
        """What a document is made of. With a handful of tokens, each of which comes again and again, the token before
        does not tell the next one: only the place in the sequence does."""
        roll = self.rng.random()
        if roll < 0.4:
            return self.rng.choices(self.ordinary, k=self.rng.randint(3, 12))
        return self.numbers if roll < 0.55 else self.ordinary

    def _tokens(self, pool: list[int], low: int, high: int) -> list[int]:
        return self.rng.choices(pool, k=self.rng.randint(low, high))

    def _document(self, asked: str, given: list[int], said: list[int], learned: list[int]) -> Tokens:
        question = render_message(self.tokenizer, Message("user", asked))
        prompt = question[:-1] + given + question[-1:] + self.answer
        return prompt + said + [self.end], [0] * len(prompt) + learned + [1]

    def _repeat(self) -> Tokens:
        # Short ones show that any token of the context may come again, long ones which: both are needed.
        tokens = self._tokens(self._pool(), 2, self.rng.choice((4, 12, 100)))
        return self._document("Repeat exactly:", tokens, tokens, [1] * len(tokens))

    def _recall(self) -> Tokens:
        """`key value` lines; the answer says some of them again, in any order. Which key comes next is not learned."""
        line_break = self.tokenizer.encode("\n")
        pool = self._pool()
        keys = {
            tuple(self._tokens(self.ordinary, 1, 4)): None for _ in range(self.rng.randint(2, self.rng.choice((6, 24))))
        }
        pairs = [(key, self._tokens(pool, 1, 6)) for key in keys]
        given = [t for key, value in pairs for t in (*key, *value, *line_break)]
        said: list[int] = []
        learned: list[int] = []
        for key, value in self.rng.sample(pairs, len(pairs) // 2 + 1):
            said += [*key, *value, *line_break]
            learned += [0] * len(key) + [1] * (len(value) + len(line_break))
        return self._document("Look up:", given, said, learned)


def make(tokenizer_path: Path, out: Path, tokens: int, seed: int, say: Callable[[str], None] = print) -> None:
    """Write one shard of about `tokens` tokens. Raises UserError for a tokenizer that is missing or too large."""
    copying = Copying(load_tokenizer(tokenizer_path), seed)
    out.mkdir(parents=True, exist_ok=True)
    documents: list[Tokens] = []
    made = 0
    while made < tokens:
        documents.append(copying.draw())
        made += len(documents[-1][0])
    write_tokens(out / f"copy{seed}", documents)
    say(f"{made / 1e6:.2f}M tokens in {out}")
