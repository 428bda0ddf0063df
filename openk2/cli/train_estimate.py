"""`k2 train estimate`: what a run takes, before it is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from openk2.errors import UserError

_KINDS = {
    "weights": "weights", "gradients": "gradients (float32)", "optimizer": "optimizer", "int4": "experts through INT4",
    "copies": "gathered and cast weights", "activations": "activations", "logits": "head and logits",
}  # fmt: skip


@click.command()
@click.argument("name", metavar="PRESET_OR_FOLDER")
@click.option("--tokens", required=True, help="Tokens of the run, as 20M or 15.5T.")
@click.option("--gpus", "devices", default="cpu", show_default=True, help="Devices, as 8xH100; cpu is this machine.")
@click.option("--context", default="4096", show_default=True, help="Tokens of a document.")
@click.option("--batch", help="Tokens a step; gives the number of steps.")
@click.option("--micro", help="Tokens a device holds at once (default: one document).")
@click.option("--ep", type=click.IntRange(1), help="Expert parallelism (default: 8, or less where it must divide).")
@click.option("--pp", type=click.IntRange(1), default=1, show_default=True, help="Pipeline stages (with --zero 1).")
@click.option("--zero", type=click.Choice(["1", "3"]), default="3", show_default=True, help="3: all sharded.")
@click.option("--optimizer", type=click.Choice(["muonclip", "muon", "adamw"]), default="muonclip", show_default=True)
@click.option("--checkpointing/--keep-activations", default=None, help="Of activations (default: on GPUs).")
@click.option("--qat", is_flag=True, help="With the experts seen through INT4.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Model FLOPs over peak [default: 0.2].")
@click.option("--price", type=click.FloatRange(0), help="Dollars an hour of one device.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def estimate(
    name: str, tokens: str, devices: str, context: str, batch: str | None, micro: str | None, ep: int | None, pp: int,
    zero: str, optimizer: str, checkpointing: bool | None, qat: bool, mfu: float | None, price: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Parameters, FLOPs, memory, hours, cost and expected loss of a run, before it is started.

    PRESET_OR_FOLDER is a preset (kimi-k2, moonlight-16b-a3b), depth:N, a checkpoint folder or a config.json.
    """
    from openk2.cli.model import find
    from openk2.model.config import ModelConfig, read_object
    from openk2.train.devices import device, parse_devices
    from openk2.train.estimate import Layout
    from openk2.train.estimate import estimate as compute
    from openk2.train.options import amount

    config = ModelConfig.from_hf(read_object(Path(name))) if name.endswith(".json") else find(name)[0]
    count, kind = parse_devices(devices)
    if count % pp:
        raise UserError(f"{count} devices do not divide into --pp {pp} pipeline stages; change one of them.")
    dp = count // pp
    if ep is None:
        ep = max(n for n in (1, 2, 4, 8) if dp % n == 0 and config.n_routed_experts % n == 0)
    data = compute(
        config, amount(tokens), device(kind), Layout(dp, ep, pp, int(zero)), context=amount(context),
        batch=amount(batch) if batch else None, micro=amount(micro) if micro else None,
        optimizer=optimizer, checkpointing=checkpointing, qat=qat, mfu=mfu, price=price,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"name": name} | data))
    else:
        _show(name, data)


def _show(name: str, d: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    layout = d["layout"]
    where = f"{d['devices']:,} x {d['device']}" if d["devices"] > 1 else d["device"]
    table = Table(title=f"{name}, {_short(d['tokens'])} tokens, {where}", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = [
        ("parameters", _short(d["parameters"]["total"])), ("active a token", _short(d["parameters"]["active"])),
        (f"FLOPs a token (context {d['context']:,})", f"{d['flops_per_token']:.3g}"), ("FLOPs", f"{d['flops']:.3g}"),
    ]  # fmt: skip
    if d["steps"]:
        rows.append((f"steps of {_short(d['batch'])} tokens", f"{d['steps']:,.0f}"))
    for row in rows:
        table.add_row(*row)
    table.add_section()
    for kind, label in _KINDS.items():
        if d["memory"][kind]:
            table.add_row(label, _bytes(d["memory"][kind]))
    table.add_row("memory of a device", f"{_bytes(d['memory_total'])} of {_bytes(d['memory_of_device'])}")
    table.add_section()
    hours = d["hours"]
    peak = f"{'measured ' if d['device'] == 'CPU' else ''}{_short(d['peak_flops']).replace('B', 'G')}FLOP/s"
    table.add_row(f"time at {d['mfu']:.0%} of {peak}", _time(hours["at"]))
    table.add_row("between 35% and 15%" if d["device"] != "CPU" else "at 15%", " to ".join(
        _time(hours[k]) for k in (("low", "high") if d["device"] != "CPU" else ("high",))))  # fmt: skip
    table.add_row("tokens a second", f"{d['tokens_per_second']:,.0f}")
    if d["cost"]:
        table.add_row(f"{_short(d['device_hours'])} device-hours at ${d['price']:.2f}", f"${_short(d['cost'])}")
    table.add_section()
    for law in d["expected_loss"]:
        table.add_row(f"loss by the {law['law']}", f"{law['loss']:.2f}{'' if law['inside'] else ' *'}")
    console = Console()
    console.print(table)
    console.print(
        f"dp {layout['dp']}, ep {layout['ep']}, pp {layout['pp']}, zero {layout['zero']}; {d['optimizer']}; "
        f"{d['micro']:,} tokens a device at once, with{'' if d['checkpointing'] else 'out'} activation checkpointing"
    )
    if not d["fits"]:
        console.print("It does not fit into a device's memory: take more devices, a larger --ep or a smaller --micro.")
    if d["cost"]:
        console.print(f"Price: {d['price_source']}; --price for your own.")
    if not d["expected_loss"]:
        console.print("No published law of the loss reaches down to so small a run.")
    elif not all(law["inside"] for law in d["expected_loss"]):
        console.print("* outside what the laws were fitted on: compare two runs by them, do not trust the value.")


def _short(value: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}" if value / size < 1000 else f"{value / size:,.0f}{unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    unit, size = next((u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)) if value >= s)
    return f"{value / size:.1f} {unit}"


def _time(hours: float) -> str:
    for unit, size in (("years", 24 * 365.25), ("days", 24), ("hours", 1), ("minutes", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.1f} {unit}"
    return f"{hours * 3600:.0f} seconds"
