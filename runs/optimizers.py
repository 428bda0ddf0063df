"""MuonClip against AdamW at the size of nano: a grid for each, then three seeds of the best, then fewer tokens.

    export OPENK2_DATA=/path/to/data          # the source files of docs/recipe.md
    python runs/optimizers.py prepare         # token shards: half real text, half trajectories, and a held-out set
    python runs/optimizers.py run grid/...    # one or more runs by name; `names` prints them; finished ones are kept
    python runs/optimizers.py table           # docs/optimizers.json: held-out losses, p-values
    python runs/optimizers.py draw            # docs/optimizers.png

docs/optimizers.md says what came out. Every run goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from openk2.chat.tokenizer import Tokenizer
from openk2.synth.make import make
from openk2.synth.rows import read_rows
from openk2.synth.shards import Tokens, write_tokens

OUT = Path(os.environ.get("OPENK2_STUDY", "out/optimizers"))
TOKENIZER = Path("openk2/weights/nano")
CONTEXT = 1024  # tokens of a piece of text
TEXT = {"wikipedia": 0.5, "python": 0.2, "pepys": 0.15, "passages": 0.15}  # shares of the text's tokens
TRAIN_TOKENS, HELD_TOKENS = 1_800_000, 40_000  # of text; as many of trajectories


def texts(kind: str, data: Path) -> list[str]:
    """All documents of a kind, in a fixed random order."""
    match kind:
        case "wikipedia":
            found = [row["text"] for row in read_rows(data / "wikipedia_pages.jsonl.gz")]
        case "passages":
            found = [f"{row['title']}\n{row['text']}" for row in read_rows(data / "wikipedia_passages.jsonl.gz")]
        case "pepys":  # an entry a document
            rows = read_rows(data / "pepys.jsonl.gz")
            found = [entry for row in rows for entry in row["text"].split("\n\n") if len(entry) > 200]
        case _:
            library = Path(sysconfig.get_paths()["stdlib"])
            files = [p for p in sorted(library.rglob("*.py")) if not {"test", "tests", "site-packages"} & {*p.parts}]
            found = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    random.Random(f"order of {kind}").shuffle(found)
    return found


def pieces(tokenizer: Tokenizer, documents: list[str]) -> Iterator[tuple[bool, Tokens]]:
    """(held out?, ids and mask) of pieces of at most CONTEXT tokens; a document is held out whole, by its hash."""
    for text in documents:
        held = hashlib.sha256(text.encode()).digest()[0] < 16
        ids = tokenizer.encode(text[:20_000])  # no page outweighs the others
        for start in range(0, len(ids), CONTEXT):
            piece = ids[start : start + CONTEXT]
            yield held, (piece, [1] * len(piece))


def prepare(data: Path) -> None:
    """Shards in OUT/data: text, trajectories, and their held-out counterparts, of which no document is trained on."""
    tokenizer = Tokenizer.load(TOKENIZER)
    for held, name, total in ((False, "text", TRAIN_TOKENS), (True, "held-text", HELD_TOKENS)):
        folder = OUT / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for kind, share in TEXT.items():
            taken, left = [], total * share
            for piece in (tokens for is_held, tokens in pieces(tokenizer, texts(kind, data)) if is_held == held):
                if left <= 0:
                    break
                taken.append(piece)
                left -= len(piece[0])
            print(f"{name}: {write_tokens(folder / kind, taken):,} tokens of {kind} in {len(taken)} pieces")
    # 262 tokens an example; other seeds draw other worlds, names and figures
    make(data, TOKENIZER, OUT / "data" / "trajectories", TRAIN_TOKENS // 262, seed=77)
    make(data, TOKENIZER, OUT / "data" / "held-trajectories", HELD_TOKENS // 262, seed=78)


if __name__ == "__main__":
    command, *names = sys.argv[1:] or ["help"]
    if command == "prepare":
        prepare(Path(os.environ["OPENK2_DATA"]))
