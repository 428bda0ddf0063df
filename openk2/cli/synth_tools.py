"""`k2 synth tools / dialogues / audit / verify / serve`: worlds of executable tools, trajectories proved in them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openk2.cli import synth_model, synth_orders
from openk2.errors import UserError

if TYPE_CHECKING:
    from openk2.synth.world.schemas import Api

_TRIED = 50  # seeds of a task
_FOLDER = click.Path(path_type=Path)
worlds_option = click.option("--worlds", type=_FOLDER, required=True, help="Folder that `k2 synth tools` wrote.")


def _apis(data: Path | None) -> list[Api]:
    """AWS's APIs, and the MCP servers where the data folder has them."""
    from openk2.synth.world.schemas import botocore_apis, mcp_apis

    found = list(botocore_apis())
    if data is not None:
        found += mcp_apis(data / "mcp_servers.jsonl.gz")
    return found


@click.command()
@click.option("--out", type=_FOLDER, required=True, help="Folder for the worlds.")
@click.option(
    "--data", type=_FOLDER, envvar="OPENK2_DATA", help="Folder with mcp_servers.jsonl.gz, for MCP servers too."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--show", help="Print one world's tools as the Python that runs, instead of writing.")
def tools(out: Path, data: Path | None, seed: int, show: str | None) -> None:
    """Make worlds of executable tools from real API descriptions (AWS's, and MCP servers')."""
    from openk2.synth.task.make import Library, write_worlds
    from openk2.synth.world.build import worlds_of
    from openk2.synth.world.code import source
    from openk2.synth.world.lower import lower

    if show:
        for tool in Library(out).named(show).spec.tools:
            click.echo(f"# {tool.doc}\n{source(tool.name, lower(tool))}")
        return
    worlds, count = write_worlds(out, (world for api in _apis(data) for world in worlds_of(api, seed)))
    click.echo(f"{worlds:,} worlds, {count:,} tools in {out}")


@click.command()
@worlds_option
@synth_orders.order_options
@click.option("--dial", multiple=True, metavar="NAME=VALUE", help="How hard tasks are: goals, crowd, beside (FROM,TO), "
              "depth, tools, private, impossible, ask, each, corrected, faults, long (chances).")  # fmt: skip
@synth_model.model_options
def dialogues(
    worlds: Path, out: Path | None, count: int, seed: int, size: int, workers: int, ray: bool, dial: tuple[str, ...],
    **asked: Any,
) -> None:  # fmt: skip
    """Dialogues of users and agents in these worlds, each executed, and verified by executing it again."""
    from openk2.synth.task.dials import Dials
    from openk2.synth.task.make import Order

    order = Order(str(worlds.resolve()), count, seed, size, Dials().turned(dial))
    if asked["model"] or asked["base_url"]:
        synth_model.make(order, out, asked)
    else:
        synth_orders.make(order, out, workers, ray)


@click.command()
@click.argument("file", type=_FOLDER)
@worlds_option
@click.option("--show", type=click.IntRange(0), default=5, show_default=True, help="Failures to print.")
@click.option("--rubric", is_flag=True, help="Print the checks that fail as sentences, and the mean score.")
def verify(file: Path, worlds: Path, show: int, rubric: bool) -> None:
    """Execute every trajectory of FILE (or a folder of shards) again, and say which are not true."""
    from openk2.synth.task.make import Library
    from openk2.synth.task.verify import score

    library, shares = Library(worlds), list[float]()

    def problems(record: dict[str, Any]) -> list[str]:
        found = score(record, library.of(record))
        shares.append(found.share)
        return [*found.untrue, *(f"not so: {asked} {reason}" if rubric else reason for asked, reason in found.failed)]

    try:
        synth_orders.verify(file, problems, show)
    finally:
        if rubric and shares:
            click.echo(f"{100 * sum(shares) / len(shares):.1f}% of the checks hold, on average")


@click.command()
@worlds_option
@click.option("--data", type=_FOLDER, envvar="OPENK2_DATA", help="Folder with mcp_servers.jsonl.gz, for the coverage.")
@click.option(
    "--sample", type=click.IntRange(1), default=200, show_default=True, help="Tools proved by laws and mutants."
)
@click.option("--tasks", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--planted", type=click.IntRange(1), default=10_000, show_default=True, help="Bad trajectories.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def audit(worlds: Path, data: Path | None, sample: int, tasks: int, planted: int, seed: int, as_json: bool) -> None:
    """What a sceptic would ask of these tools and tasks, answered by running them."""
    from openk2.synth.task import audit as questions
    from openk2.synth.task.make import Library
    from openk2.synth.world.schemas import botocore_apis, mcp_apis

    library, rng = Library(worlds), random.Random(seed)
    rows = questions.tools_of(library)
    rows += questions.botocore_rows(botocore_apis())
    if data is not None:
        rows += questions.coverage(library, mcp_apis(data / "mcp_servers.jsonl.gz"))
    rows += questions.proofs(questions.sample(library, sample, rng))
    drawn = questions.tasks_of(library, tasks, rng)
    rows += questions.floors(drawn)
    row, made = questions.dialogues(drawn)
    rows += [row, *questions.planted(made, planted, planted // 10, rng)]
    click.echo(questions.to_json(rows) if as_json else questions.table(rows))


@click.command()
@click.argument("world")
@worlds_option
@click.option("--seed", default=0, show_default=True, help="Of the state; the first that is tried for a task.")
@click.option("--task", is_flag=True, help="Put the world into the first state of a task, with the task's tools.")
@click.option("--tell", is_flag=True, help="Print the task as one would give it to an agent, and serve nothing.")
@click.option("--result", type=_FOLDER, help="JSON file that says after each call whether the task's goal is reached.")
def serve(world: str, worlds: Path, seed: int, task: bool, tell: bool, result: Path | None) -> None:
    """Serve WORLD over MCP (standard input and output), so that any agent can work in it."""
    from openk2.cli.stdio import end_on_signals
    from openk2.paths import install
    from openk2.synth.task.dials import ALONE
    from openk2.synth.task.make import Library
    from openk2.synth.task.phrases import sentence
    from openk2.synth.task.task import draw_task

    opened = Library(worlds).named(world)
    opened.reset(seed)
    text, offered = f"{opened.spec.domain}: {len(opened.spec.tools)} tools over a state that calls change.", ()
    seeds = range(seed, seed + _TRIED) if task or tell else ()
    drawn = next((found for number in seeds if (found := draw_task(opened, number, ALONE))), None)
    if drawn is not None:
        wishes = [sentence(f"tell me {w.text}" if w.question else w.text) for w in drawn.wishes]
        text, offered = "\n\n".join([drawn.system, *wishes]), drawn.tools
    elif task or tell:
        raise UserError(f"No task was found in {world} from the seed {seed} on; give another --seed or world.")
    if tell:
        click.echo(text)
        return
    reached = (lambda: drawn.reached(opened.state)) if drawn else None
    try:
        from openk2.synth.world.serve import Served, run
    except ImportError:
        raise UserError(f"Serving needs the MCP package; install it with: {install('mcp')}") from None
    served = Served(opened, offered or tuple(opened.tools), reached, result)
    end_on_signals(served.told)
    run(served, text)


@click.command()
@click.option("--data", type=_FOLDER, envvar="OPENK2_DATA", required=True, help="Folder with the sources.")
@synth_orders.order_options
def maths(data: Path, out: Path | None, count: int, seed: int, size: int, workers: int, ray: bool) -> None:
    """Problems of GSM8K and MAWPS with other numbers, names and things, each solved by running its program."""
    from openk2.synth.maths.make import Order

    synth_orders.make(Order(str(data.resolve()), count, seed, size), out, workers, ray)


COMMANDS = (tools, dialogues, verify, audit, serve, maths)
