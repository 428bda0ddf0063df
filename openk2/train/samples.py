"""What the network says while it learns: greedy continuations of the same prompts, in samples.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from openk2.chat.messages import Message
from openk2.chat.template import generation_prompt, render
from openk2.chat.tokenizer import Tokenizer
from openk2.model.attention import Packing
from openk2.model.transformer import Transformer
from openk2.train.parallel import drop_gathered, unobserved

_TOKENS = 40  # of a continuation


class Sampler:
    """Continues each of `prompts`: as text, or with `chat` as the answer to a user's message."""

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[str], chat: bool) -> None:
        self.tokenizer, self.texts = tokenizer, prompts
        special = tokenizer.special
        self.ends = {special["[EOS]"], special["<|im_end|>"]}
        self.prompts = [
            render(tokenizer, [Message("user", text)]) + generation_prompt(tokenizer)
            if chat
            else [special["[BOS]"], *tokenizer.encode(text)]
            for text in prompts
        ]

    def write(self, model: Transformer, step: int, file: Path | None) -> None:
        """Add one row a prompt: step, prompt, text. Every rank must call it; those without a file only compute."""
        said = greedy(model, self.prompts, _TOKENS, self.ends)
        if file is None:
            return
        with file.open("a", encoding="utf-8") as rows:
            for prompt, ids in zip(self.texts, said, strict=True):
                row = {"step": step, "prompt": prompt, "text": self.tokenizer.decode(ids)}
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")


@torch.no_grad()
def greedy(model: Transformer, prompts: Sequence[Sequence[int]], tokens: int, ends: set[int]) -> list[list[int]]:
    """The most likely continuations of `tokens` ids each, cut before the first of `ends`.

    Every token is one pass over all prompts, padded to one width: nothing is cached, and all passes have one shape.
    """
    device = model.lm_head.weight.device
    width = max(map(len, prompts)) + tokens
    ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    at = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows, packing = torch.arange(len(prompts), device=device), Packing([width] * len(prompts), device)
    with unobserved(model):
        for _ in range(tokens):
            states = model.hidden(ids.flatten(), packing).view(len(prompts), width, -1)
            ids[rows, at] = F.linear(states[rows, at - 1], model.lm_head.weight.float()).argmax(-1)
            at += 1
    drop_gathered(model)
    continued = [ids[i, len(p) : len(p) + tokens].tolist() for i, p in enumerate(prompts)]
    return [said[: next((i for i, token in enumerate(said) if token in ends), tokens)] for said in continued]
