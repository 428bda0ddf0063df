"""Pretraining by the whole recipe: stable rate and decay, annealing, then longer documents under YaRN.

k2 train pretrain --data out/text --data long=out/long --tokenizer out/tokenizer --out out/base --depth 8 --tokens 20M
"""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from openk2.errors import UserError
from openk2.paths import install
from openk2.train.options import read_recipe, run_options, stage_options, taken
from openk2.train.recipe import recipe

_CONTEXT_A_LAYER, _LONGEST = 128, 4096  # tokens: the dial's context, and K2's


@click.command()
@run_options
@click.option("--stages", default="pretrain,anneal,long", show_default=True, help="Which of them to run.")
@stage_options(tokens="20M")
def pretrain(stages: str, **options: Any) -> None:
    """Train a base model; what is not given follows from --depth and --tokens."""
    try:
        import torch
    except ImportError:
        raise UserError(f"Training needs torch; install it with: {install('train')}") from None

    from openk2.train.start import launch, opened

    world, tokenizer, config, weights = opened(options)
    values = taken(options)
    if weights is None:
        context = values.get("context", min(_LONGEST, _CONTEXT_A_LAYER * config.num_hidden_layers))
        config = dataclasses.replace(config, max_position_embeddings=context)
    values.setdefault("parts", torch.get_num_threads() if world.size == 1 else world.size)
    if options["recipe"]:
        planned = read_recipe(options["recipe"], values)
    else:
        planned = recipe(config, ranks=world.size, **values)
        if unknown := set(stages.split(",")) - {stage.name for stage in planned}:
            raise UserError(f"There is no stage {', '.join(sorted(unknown))}; choose from pretrain, anneal and long.")
        planned = [stage for stage in planned if stage.name in stages.split(",")]
    launch(config, weights, planned, tokenizer=tokenizer, world=world, chat=False, options=options)
