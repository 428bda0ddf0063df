"""The options of `k2 synth dialogues` that let a model be the agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.cli.options import EFFORTS, model_name, together
from openk2.cli.synth_orders import folder

if TYPE_CHECKING:
    from openk2.synth.task.make import Order

_OPTIONS = (
    click.option("--model", help="A model to be the agent: nano, a checkpoint folder, SERVICE:NAME, or a served name."),
    click.option("--base-url", help="The server of the model, as http://localhost:8000/v1."),
    click.option("--api", type=click.Choice(["chat", "responses", "anthropic"]), help="What the server speaks."),
    click.option("--temperature", type=click.FloatRange(0), help="Of the model  [default: the service's own]"),
    click.option("--effort", type=click.Choice(EFFORTS), help="How much the model thinks."),
    click.option("--max-calls", type=click.IntRange(1), help="Calls of a dialogue  [default: 10 + 3 x the planner's]"),
    click.option("--max-tokens", type=click.IntRange(1), default=200_000, show_default=True,
                 help="Tokens that the model may write in a dialogue."),
    click.option("--tries", type=click.IntRange(1), default=1, show_default=True, help="Dialogues of a model a task."),
    click.option("--at-once", type=click.IntRange(1), default=8, show_default=True,
                 help="Dialogues with a model at once."),
    click.option("--keep-refused", is_flag=True, help="Keep what is refused, with the reasons, in OUT/refused."),
)  # fmt: skip


model_options = together(_OPTIONS)


def make(order: Order, out: Path | None, given: dict[str, Any]) -> None:
    """The dialogues of an order with the model that the options name. Raises UserError where it cannot be asked."""
    from openk2.agent.setup import Setup
    from openk2.providers.base import Limits
    from openk2.synth.task import model

    setup = Setup(model=model_name(given["model"], given["base_url"]), base_url=given["base_url"], api=given["api"])
    asking = model.Asking(
        setup.provider(), Limits(temperature=given["temperature"], effort=given["effort"]), given["max_calls"],
        given["max_tokens"], given["at_once"], click.echo,
    )  # fmt: skip
    manifest = model.make(model.Order(
        order.worlds, order.count, order.seed, order.size, order.dials, given["tries"], given["keep_refused"],
        str(folder(out)), asking=asking,
    ))  # fmt: skip
    kept, dropped = manifest["records"], {}
    for shard in manifest["shards"]:
        for why, count in shard["dropped"].items():
            dropped[why] = dropped.get(why, 0) + count
    click.echo(f"{kept:,} of {order.count:,} dialogues kept: {out}")
    for why, count in sorted(dropped.items(), key=lambda item: -item[1]):
        click.echo(f"{count:7,} refused: {why}")
