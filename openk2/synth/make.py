"""Make the training set of the embedded model: a mixture of executed trajectories, tokenised into shards.

    k2 synth trajectories --data DATA --tokenizer DIR --out DIR --count 60000 --seed 1

Beside each shard of tokens (`chat/shards.py`) stands `NAME.jsonl.gz`: the records with their proofs. The same seed
gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openk2.chat.messages import Message
from openk2.chat.shards import Tokens, write_tokens
from openk2.chat.template import render_for_training
from openk2.chat.tokenizer import Tokenizer
from openk2.errors import UserError
from openk2.synth import chains, countries, reach, sums, user_documents
from openk2.synth.maths.short import gsm8k_problem, mawps_problem
from openk2.synth.names import Pieces, pieces_of
from openk2.synth.newcomer import ASKED
from openk2.synth.sources import Sources
from openk2.synth.trajectory import Record
from openk2.synth.user_documents import Shelf
from openk2.synth.wordings import Choice
from openk2.synth.worlds import World, draw_world

# Shares of examples by kind.
# Examples differ in length: a seventh of the tokens are word problems, as many chains, as many comparisons.
MIXTURE: dict[str, float] = {
    "lookup": 18, "short": 18, "two": 8, "compare": 5, "casual": 5, "sum": 26, "mawps": 50, "gsm8k": 2, "chain": 3,
    "notes": 0.4, "field": 4, "film": 2, "quote": 5, "unanswerable": 5, "outside": 7, "talk": 1.5, "repeat": 5,
}  # fmt: skip
WORLD_SIZE = (5, 10)
SCENE_USES = 40  # examples made from one scene before the next is drawn
LONGEST = 3900  # tokens; the model's window is 4096


@dataclass(frozen=True)
class Scene:
    """Documents drawn for a few dozen examples: invented countries, notes and web pages of a user, films."""

    world: World
    user: Shelf
    films: Shelf

    @classmethod
    def draw(cls, rng: random.Random, sources: Sources, pieces: Pieces) -> Scene:
        world = draw_world(rng, sources.pages, pieces, rng.randint(*WORLD_SIZE))
        notes = [user_documents.note_document(rng, pieces) for _ in range(rng.randint(5, 12))]
        web = rng.sample(sources.web, min(len(sources.web), rng.randint(2, 6)))
        films = rng.sample(sources.films, min(len(sources.films), rng.randint(6, 20)))
        return cls(world, Shelf.of([*notes, *web]), Shelf.of(map(user_documents.film_document, films)))


class Maker:
    """An endless stream of records, a function of the seed."""

    def __init__(self, sources: Sources, pieces: Pieces, seed: int, mixture: dict[str, float] | None = None) -> None:
        self.rng = random.Random(f"openk2 trajectories {seed}")
        self.sources, self.pieces = sources, pieces
        self.mixture = mixture or MIXTURE
        self.choice = Choice(held=False)
        self._scene: Scene | None = None
        self._uses = 0

    def __iter__(self) -> Iterator[Record]:
        kinds, weights = list(self.mixture), list(self.mixture.values())
        while True:
            kind = self.rng.choices(kinds, weights)[0]
            record = None
            while record is None:  # a draw that has no sound example is drawn again, so the mixture stays as stated
                record = self._one(kind)
                if record and record["messages"][1]["content"].casefold() in ASKED:
                    record = None
            yield record

    def _next_scene(self) -> Scene:
        if self._scene is None or self._uses >= SCENE_USES:
            self._scene, self._uses = Scene.draw(self.rng, self.sources, self.pieces), 0
        self._uses += 1
        return self._scene

    def _shown(self, scene: Scene) -> World:
        """The countries; for one question in thirty the documents are the user's, in which there are none."""
        return World(scene.user.index, scene.world.titles, {}) if self.rng.random() < 0.033 else scene.world

    def _one(self, kind: str) -> Record | None:
        scene = self._next_scene()
        rng, sources, pieces = self.rng, self.sources, self.pieces
        match kind:
            case "lookup":
                return countries.lookup(rng, self._shown(scene), self.choice, missing=0.25, texts=0.4, odd=0.2)
            case "short":
                return countries.short_lookup(rng, self._shown(scene), self.choice)
            case "two":
                return countries.two_figures(rng, self._shown(scene), self.choice, odd=0.15)
            case "compare":
                return countries.compare(rng, self._shown(scene), self.choice, quotients=0.5, odd=0.15)
            case "casual":
                return countries.casual_compare(rng, self._shown(scene), self.choice)
            case "sum":
                return sums.bare_sum(rng)
            case "mawps":
                return mawps_problem(rng, rng.choice(sources.mawps))
            case "gsm8k":
                return gsm8k_problem(rng, rng.choice(sources.gsm8k))
            case "chain":
                return chains.arithmetic_chain(rng, chains.length_of(rng))
            case "notes":
                return chains.note_chain(rng, pieces, rng.randint(3, 20))
            case "field":
                return user_documents.field_question(rng, scene.user, films=False)
            case "film":
                return user_documents.field_question(rng, scene.films, films=True)
            case "quote":
                return user_documents.quote(rng, rng.choice((scene.user, scene.films)))
            case "unanswerable":
                index = rng.choice((scene.user.index, scene.films.index, scene.world.index))
                return user_documents.unanswerable(index, rng.choice(sources.questions))
            case "outside":
                return reach.outside(rng, pieces)
            case "talk":
                return reach.talk(rng)
            case "repeat":
                return reach.repeat(rng, pieces, sources.titles)
        raise ValueError(f"no kind of example is called {kind}")


def write_shard(path: Path, records: list[Record], tokenizer: Tokenizer) -> int:
    """Tokenise and write one shard; it exists once its `.idx` does. Returns the number of tokens."""
    documents: list[Tokens] = []
    with (
        gzip.GzipFile(path.with_suffix(".jsonl.gz"), "wb", compresslevel=1, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as lines,
    ):
        for record in records:
            messages = [Message.from_json(m) for m in record["messages"]]
            ids, mask = render_for_training(tokenizer, messages)
            if len(ids) <= LONGEST:
                documents.append((ids, mask))
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return write_tokens(path, documents, tokenizer.n_vocab)


def make(
    data: Path, tokenizer_path: Path, out: Path, count: int, seed: int, shard: int = 2000, kinds: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Write `count` examples in shards of `shard`; shards that are there already are kept, so a killed run goes on.

    `kinds`: only these, in their shares. Raises UserError for a kind that there is not, and for a source file or a
    tokenizer that is missing or damaged.
    """
    if unknown := set(kinds) - set(MIXTURE):
        raise UserError(f"No kind of example is called {min(unknown)}; there are {', '.join(MIXTURE)}.")
    mixture = {kind: share for kind, share in MIXTURE.items() if not kinds or kind in kinds}
    tokenizer = Tokenizer.load(tokenizer_path)
    sources, pieces = Sources.load(data), pieces_of(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    made: Counter[str] = Counter()
    started, tokens = time.monotonic(), 0
    for number, first in enumerate(range(0, count, shard)):
        path = out / f"s{seed}-{number:04d}"
        if path.with_suffix(".idx").exists():
            continue
        maker = iter(Maker(sources, pieces, seed * 1_000_003 + number, mixture))
        records = [next(maker) for _ in range(min(shard, count - first))]
        made.update(record["kind"] for record in records)
        tokens += write_shard(path, records, tokenizer)
        rate = made.total() / (time.monotonic() - started)
        say(f"{first + len(records)}/{count} examples, {tokens / 1e6:.2f}M tokens, {rate:.0f} examples/s")
    if made:
        say("kinds: " + ", ".join(f"{k} {n}" for k, n in made.most_common()))
    else:
        say(f"all {count} examples are in {out} already")
