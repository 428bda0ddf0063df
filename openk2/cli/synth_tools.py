"""`k2 synth tools / dialogues / audit / verify / serve`: worlds of executable tools, trajectories proved in them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openk2.errors import UserError

if TYPE_CHECKING:
    from openk2.synth.world.schemas import Api

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
@click.option("--out", type=_FOLDER, required=True, help="Folder for the shards; finished ones are kept.")
@click.option("--count", type=click.IntRange(1), default=1000, show_default=True, help="Trajectories to make.")
@click.option("--seed", default=0, show_default=True)
@click.option("--shard", type=click.IntRange(1), default=1000, show_default=True, help="Trajectories a shard.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes; 0 is one a core.")
@click.option("--ray", is_flag=True, help="On the Ray cluster that this machine belongs to (extra `ray`).")
@click.option("--goals", default="1,3", show_default=True, help="Wishes of a user, from and to.")
@click.option(
    "--depth", type=click.IntRange(0), default=2, show_default=True, help="Calls that one may need before it."
)
@click.option("--least-tools", type=click.IntRange(1), default=12, show_default=True, help="Tools that an agent sees.")
def dialogues(
    worlds: Path, out: Path, count: int, seed: int, shard: int, workers: int, ray: bool, goals: str, depth: int,
    least_tools: int,
) -> None:  # fmt: skip
    """Dialogues of users and agents in these worlds, each executed, and verified by executing it again."""
    from openk2.synth.task.make import Order, make
    from openk2.synth.task.task import Dials

    try:
        low, _, high = goals.partition(",")
        span = (int(low), int(high or low))
    except ValueError:
        span = (0, 0)
    if not 1 <= span[0] <= span[1]:
        raise UserError(f"--goals {goals!r} is no span; write for example 1,3.")
    order = Order(str(worlds.resolve()), count, seed, shard, Dials(span, depth, least_tools))
    manifest = make(order, out, workers, ray, say=click.echo)
    click.echo(f"{manifest['trajectories']:,} trajectories in {len(manifest['shards'])} shards, each verified: {out}")


@click.command()
@click.argument("file", type=_FOLDER)
@worlds_option
@click.option("--show", type=click.IntRange(0), default=5, show_default=True, help="Failures to print.")
def verify(file: Path, worlds: Path, show: int) -> None:
    """Execute every trajectory of FILE (or a folder of shards) again, and say which are not true."""
    from openk2.synth.task.make import Library, read_records
    from openk2.synth.task.verify import problems

    library, good, bad = Library(worlds), 0, 0
    for number, record in enumerate(read_records(file)):
        found = problems(record, library.named(record.get("proof", {}).get("world", "")))
        good, bad = good + (not found), bad + bool(found)
        if found and bad <= show:
            click.echo(f"{record.get('n', number)}: {'; '.join(found)}")
    click.echo(f"{good:,} true, {bad:,} not")
    if bad:
        raise SystemExit(1)


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
    rows.append(questions.botocore_row(botocore_apis()))
    if data is not None:
        rows.append(questions.coverage(library, mcp_apis(data / "mcp_servers.jsonl.gz")))
    rows += questions.proofs(questions.sample(library, sample, rng))
    drawn = questions.tasks_of(library, tasks, rng)
    rows += questions.floors(drawn)
    row, made = questions.dialogues(drawn)
    rows += [row, *questions.planted(made, planted, planted // 10, rng)]
    click.echo(questions.to_json(rows) if as_json else questions.table(rows))


@click.command()
@click.argument("world")
@worlds_option
@click.option("--seed", default=0, show_default=True, help="Of the state, or of the task.")
@click.option("--task", is_flag=True, help="Put the world into the first state of a task, and tell the task.")
def serve(world: str, worlds: Path, seed: int, task: bool) -> None:
    """Serve WORLD over MCP (standard input and output), so that any agent can work in it."""
    from openk2.paths import install
    from openk2.synth.task.make import Library
    from openk2.synth.task.task import draw_task

    try:
        from openk2.synth.world.serve import run
    except ImportError:
        raise UserError(f"Serving needs the MCP package; install it with: {install('mcp')}") from None
    opened = Library(worlds).named(world)
    opened.reset(seed)
    text = f"{opened.spec.domain}: {len(opened.spec.tools)} tools over a state that calls change."
    if task:
        drawn = draw_task(opened, seed)
        if drawn is None:
            raise UserError(f"The seed {seed} has no task in {world}; try another.")
        text = json.dumps({"system": drawn.system, "requests": [r.text for r in drawn.requests]})
    run(opened, text)


@click.command()
@click.option("--data", type=_FOLDER, envvar="OPENK2_DATA", required=True, help="Folder with the sources.")
@click.option("--out", type=_FOLDER, required=True, help="File to write, *.jsonl.gz.")
@click.option("--count", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def maths(data: Path, out: Path, count: int, seed: int) -> None:
    """Problems of GSM8K and MAWPS with other numbers, names and things, each solved by running its program."""
    from openk2.synth.maths.problems import write

    write(data, out, count, seed, say=click.echo)


COMMANDS = (tools, dialogues, verify, audit, serve, maths)
