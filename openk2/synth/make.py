"""Make the training set of the embedded model: a mixture of executed trajectories, tokenised into shards.

    k2 synth trajectories --data DATA --tokenizer DIR --out DIR --count 60000 --seed 1

Each shard is `NAME.bin` (uint16 ids), `NAME.mask` (uint8, 1 on the model's own tokens), `NAME.idx` (int32 document
lengths) and `NAME.jsonl.gz` (the records with their proofs). The same seed gives the same bytes.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openk2.chat.messages import Message
from openk2.chat.template import render_for_training
from openk2.chat.tokenizer import Tokenizer
from openk2.synth import arithmetic, chains, countries, reach, user_documents
from openk2.synth.heldout import MAWPS_FOLD
from openk2.synth.names import Pieces
from openk2.synth.worlds import World, training_documents, world
from openk2.tools.index import Document, Index

# Shares of examples by kind. `warm` comes first: short examples, so that copying is learned before anything else.
MIXTURES: dict[str, dict[str, float]] = {
    "warm": {"repeat": 30, "lookup": 22, "field": 18, "mawps": 16, "quote": 4, "outside": 4},
    "nano": {
        "lookup": 22, "two": 18, "compare": 17, "mawps": 15, "gsm8k": 5, "chain": 5, "notes": 1.5, "field": 6, "film": 3,
        "quote": 5, "unanswerable": 3, "outside": 4, "talk": 0.6, "repeat": 6,
    },
}  # fmt: skip
WORLD_SIZE = (5, 10)
WORLD_USES = 40  # examples made from one world before the next is drawn
LONGEST = 3900  # tokens; the model's window is 4096


@dataclass
class Sources:
    """Everything examples are made from; paths come from the command line, nothing is downloaded."""

    pages: list[Document]
    mawps: list[arithmetic.Mawps]
    gsm8k: list[arithmetic.Program]
    films: list[dict]
    web: list[Document]
    questions: list[str]

    @classmethod
    def load(cls, data: Path) -> Sources:
        mawps = [p for p in arithmetic.load_mawps(data / "mawps.jsonl.gz") if p.fold != MAWPS_FOLD]
        return cls(
            training_documents(),
            mawps,
            arithmetic.load_gsm8k(data / "gsm8k_train.jsonl"),
            user_documents.load_films(data / "movies.jsonl.gz"),
            user_documents.load_pages(data / "wikipedia_pages.jsonl.gz"),
            reach.load_table_questions(data / "table_questions_train.jsonl.gz"),
        )


class Maker:
    """An endless stream of records, a function of the seed."""

    def __init__(self, sources: Sources, pieces: Pieces, seed: int, mixture: dict[str, float] | None = None):
        self.rng = random.Random(f"openk2 trajectories {seed}")
        self.sources, self.pieces = sources, pieces
        self.kinds, self.weights = zip(*(mixture or MIXTURES["nano"]).items(), strict=True)
        self.choice = countries.Choice(held=False)
        self._world: World | None = None
        self._user: tuple[list[Document], Index] | None = None
        self._films: tuple[list[Document], Index] | None = None
        self._uses = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            kind = self.rng.choices(self.kinds, self.weights)[0]
            record = None
            while record is None:  # a draw that has no sound example is drawn again, so the mixture stays as stated
                record = self._one(kind)
            yield record

    def _one(self, kind: str) -> dict[str, Any] | None:
        rng, s = self.rng, self.sources
        if self._world is None or self._uses >= WORLD_USES:
            self._draw_worlds()
        self._uses += 1
        assert self._world and self._user and self._films
        makers: dict[str, Callable[[], dict[str, Any] | None]] = {
            "lookup": lambda: countries.lookup(rng, self._world, self.choice),  # type: ignore[arg-type]
            "two": lambda: countries.two_figures(rng, self._world, self.choice),  # type: ignore[arg-type]
            "compare": lambda: countries.compare(rng, self._world, self.choice),  # type: ignore[arg-type]
            "mawps": lambda: arithmetic.mawps_problem(rng, rng.choice(s.mawps)),
            "gsm8k": lambda: arithmetic.gsm8k_problem(rng, rng.choice(s.gsm8k)),
            "chain": lambda: chains.arithmetic_chain(rng, chain_length(rng)),
            "notes": lambda: chains.note_chain(rng, self.pieces, rng.randint(3, 20)),
            "field": lambda: user_documents.field_question(rng, *self._user, films=False),  # type: ignore[misc]
            "film": lambda: user_documents.field_question(rng, *self._films, films=True),  # type: ignore[misc]
            "quote": lambda: user_documents.quote(rng, *rng.choice((self._user, self._films))),  # type: ignore[misc]
            "unanswerable": lambda: user_documents.unanswerable(
                rng,
                rng.choice((self._user[1], self._films[1], self._world.index)),  # type: ignore[index,union-attr]
                rng.choice(s.questions),
            ),
            "outside": lambda: reach.outside(rng, self.pieces),
            "talk": lambda: reach.talk(rng),
            "repeat": lambda: reach.repeat(rng, self.pieces),
        }
        return makers[kind]()

    def _draw_worlds(self) -> None:
        rng, s = self.rng, self.sources
        self._world = world(rng, s.pages, self.pieces, rng.randint(*WORLD_SIZE))
        notes = [user_documents.note_document(rng, self.pieces) for _ in range(rng.randint(5, 12))]
        web = rng.sample(s.web, min(len(s.web), rng.randint(2, 6)))
        films = [user_documents.film_document(f) for f in rng.sample(s.films, min(len(s.films), rng.randint(6, 20)))]
        user = user_documents._unique([*notes, *web])
        shown = user_documents._unique(films)
        self._user = (user, Index.memory(user))
        self._films = (shown, Index.memory(shown))
        self._uses = 0


def chain_length(rng: random.Random) -> int:
    """5-60 calls, most of them short: long chains cost tokens and teach the same step again."""
    return rng.choices((rng.randint(5, 12), rng.randint(13, 30), rng.randint(31, 60)), (6, 3, 1))[0]


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """The word pieces of a vocabulary, for inventing names."""
    texts = []
    for token in range(tokenizer.n_vocab):
        if not tokenizer.is_special(token):
            raw = tokenizer.decode_bytes([token])
            if raw.isascii():
                texts.append(raw.decode())
    return Pieces.of(texts)


def write_shard(path: Path, records: list[dict[str, Any]], tokenizer: Tokenizer) -> int:
    """Tokenise and write one shard (atomically by its `.idx`, written last). Returns the number of tokens."""
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    kept = []
    for record in records:
        tokens, mask = render_for_training(tokenizer, [Message.from_json(m) for m in record["messages"]])
        if len(tokens) <= LONGEST:
            ids.append(np.asarray(tokens, dtype=np.uint16))
            masks.append(np.asarray(mask, dtype=np.uint8))
            kept.append(record)
    with gzip.open(path.with_suffix(".jsonl.gz"), "wt", encoding="utf-8", compresslevel=1) as out:
        for record in kept:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    np.concatenate(ids).tofile(path.with_suffix(".bin"))
    np.concatenate(masks).tofile(path.with_suffix(".mask"))
    np.asarray([len(i) for i in ids], dtype=np.int32).tofile(path.with_suffix(".idx"))
    return int(sum(len(i) for i in ids))


def make(
    data: Path, tokenizer_path: Path, out: Path, count: int, seed: int, shard: int = 2000, say: Callable[[str], None] = print,
    mixture: dict[str, float] | None = None,
) -> None:  # fmt: skip
    """Write `count` examples in shards of `shard`; shards that are there already are kept, so a killed run goes on."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(tokenizer_path)
    sources, pieces = Sources.load(data), pieces_of(tokenizer)
    started, tokens, kinds = time.time(), 0, Counter()
    for number in range((count + shard - 1) // shard):
        path = out / f"s{seed}-{number:04d}"
        if path.with_suffix(".idx").exists():
            continue
        maker = iter(Maker(sources, pieces, seed * 1_000_003 + number, mixture))
        records = [next(maker) for _ in range(min(shard, count - number * shard))]
        kinds.update(r["kind"] for r in records)
        tokens += write_shard(path, records, tokenizer)
        done = (number + 1) * shard
        rate = done / (time.time() - started)
        say(f"{min(done, count)}/{count} examples, {tokens / 1e6:.2f}M tokens, {rate:.0f} examples/s")
    say("kinds: " + ", ".join(f"{k} {n}" for k, n in kinds.most_common()))
