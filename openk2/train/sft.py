"""Supervised training: the model learns the tokens that a mask marks as its own.

k2 train sft --data out/data --tokenizer out/tokenizer --out out/run1 --depth 8 --tokens 20M
"""

from __future__ import annotations

from typing import Any

import click

from openk2.errors import UserError
from openk2.paths import install
from openk2.train.options import read_recipe, run_options, stage_options, taken
from openk2.train.recipe import Stage

_SMALLEST_PART = 2048  # tokens: no document may be longer than a part


@click.command()
@run_options
@stage_options(
    tokens="20M", batch="8192", lr=1e-2, adam_scale=0.3, balance=1e-2, weight_decay=0.1, qk_clip=100.0, qat=0.2,
    warmup=0.02, decay=0.25, seed=0,
)  # fmt: skip
def sft(**options: Any) -> None:
    """Train on the tokens that a mask marks as the model's own."""
    try:
        import torch
    except ImportError:
        raise UserError(f"Training needs torch; install it with: {install('train')}") from None

    from openk2.train.start import launch, opened

    world, tokenizer, config, weights = opened(options)
    values = taken(options)
    threads = torch.get_num_threads() if world.size == 1 else 1
    values.setdefault("parts", world.size * max(1, min(threads, values["batch"] // world.size // _SMALLEST_PART)))
    values.setdefault("context", values["batch"] // values["parts"])
    file = options["recipe"]
    stages = read_recipe(file, {"name": "sft"} | values) if file else [Stage(name="sft", **values)]
    launch(config, weights, stages, tokenizer=tokenizer, world=world, chat=True, options=options)
