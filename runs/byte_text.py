"""Real text as bytes, for the small experiments of this folder: a vocabulary of 256 needs no tokenizer."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import torch

from openk2.errors import UserError
from openk2.model.attention import Packing
from openk2.model.config import ModelConfig
from openk2.model.transformer import Transformer
from openk2.train.data import Folder

FILES = ("wikipedia_passages.jsonl.gz", "pepys.jsonl.gz")
CONTEXT = 512  # bytes of a document: longer texts are cut
BATCH = 4096  # bytes of a step
_HELD = 400  # documents never trained on


def shards(data: Path, out: Path) -> tuple[Path, Path]:
    """Folders of training and held-out documents, made once from the first paragraphs of Wikipedia and Pepys' diary."""
    train, held = out / "text", out / "held"
    if not (held / "bytes.idx").exists():
        documents: list[bytes] = []
        for name in FILES:
            try:
                with gzip.open(data / name, "rt", encoding="utf-8") as lines:
                    rows = [json.loads(line) for line in lines]
            except OSError:
                raise UserError(f"{data / name} is missing; set OPENK2_DATA to the folder that has it.") from None
            for row in rows:
                text = f"{row['title']}\n{row['text']}".encode()
                documents += [text[at : at + CONTEXT] for at in range(0, len(text), CONTEXT) if len(text) - at >= 64]
        random.Random(0).shuffle(documents)
        _write(train, documents[_HELD:])
        _write(held, documents[:_HELD])
    return train, held


def _write(folder: Path, documents: list[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    joined = np.frombuffer(b"".join(documents), np.uint8)
    (folder / "bytes.bin").write_bytes(joined.astype(np.uint16).tobytes())
    (folder / "bytes.mask").write_bytes(np.ones(len(joined), np.uint8).tobytes())
    (folder / "bytes.idx").write_bytes(np.array([len(document) for document in documents], np.int32).tobytes())


def network(layers: int, width: int, heads: int) -> ModelConfig:
    """A network of the family over bytes: experts of half the width, 16 of them, 2 a byte, and one shared."""
    return ModelConfig.from_depth(
        layers, vocab_size=256, hidden_size=width, num_attention_heads=heads, intermediate_size=2 * width,
        moe_intermediate_size=width // 2, initializer_range=round(width**-0.5, 4),
    )  # fmt: skip


@torch.no_grad()
def held_out_loss(model: Transformer, held: Path) -> float:
    """Nats a byte over all held-out documents, in float32."""
    training, dtype = model.training, model.dtype
    model.eval()
    model.dtype = torch.float32
    folder = Folder(held, CONTEXT)
    total = count = 0
    for at in range(0, folder.size, 8):
        texts = [folder.document(i).ids for i in range(at, min(at + 8, folder.size))]
        packing = Packing([len(text) for text in texts])
        rows = torch.nonzero(packing.positions)[:, 0]  # nothing predicts a first byte
        total += float(model.loss(torch.from_numpy(np.concatenate(texts).astype(np.int64)), packing, rows)) * len(rows)
        count += len(rows)
    model.train(training)
    model.dtype = dtype
    return total / count
