"""`k2 model`: what a network is, from its configuration or its folder, and its export."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openk2.errors import UserError
from openk2.model.config import PRESETS, ModelConfig
from openk2.model.expected import storage
from openk2.paths import NANO

_PARTS: tuple[str, ...] = ("embedding", "head", "attention", "dense", "router", "shared", "routed", "norms")


@click.group()
def command() -> None:
    """Inspect models and checkpoints."""


@command.command()
@click.argument("name", metavar="NAME_OR_FOLDER")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--check", is_flag=True, help="Read the whole folder: every tensor there, of its shape, no NaN.")
def info(name: str, as_json: bool, check: bool) -> None:
    """Parameters, bytes on disk by part and cache bytes per token of a preset, `nano`, `depth:N` or a folder."""
    data = describe(name)
    if check:
        data["tensors_checked"] = _checked(name)
    if as_json:
        click.echo(json.dumps(data))
        return
    from rich.console import Console
    from rich.table import Table

    parameters, disk = data["parameters"], data["bytes"]
    table = Table(title=name, title_justify="left")
    for column, justify in (("part", "left"), ("parameters", "right"), ("on disk", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for part in disk["parts"]:
        table.add_row(part, _count(parameters["parts"][part]), _bytes(disk["parts"][part]))
    table.add_section()
    table.add_row("total", _count(parameters["total"]), _bytes(disk["total"]))
    table.add_row("active a token", _count(parameters["active"]), "")
    console = Console()
    console.print(table)
    shape = data["shape"]
    console.print(
        f"{shape['layers']} layers of width {shape['hidden']}, {shape['heads']} heads, {shape['experts']} experts "
        f"({shape['experts_per_token']} a token, {shape['shared_experts']} shared), vocabulary {shape['vocabulary']}, "
        f"context {shape['context']:,}; routed experts in {data['routed_experts']}; "
        f"latent cache {_bytes(data['cache_bytes_per_token'])} a token"
    )
    if check:
        console.print(f"{data['tensors_checked']:,} tensors are whole, of the right shape and free of NaN and infinity")


def _checked(name: str) -> int:
    from openk2.model.checkpoint import check_values

    folder = find(name)[1]
    if folder is None:
        raise UserError(f"{name} is a description, not a checkpoint folder: there is nothing to check.")
    return check_values(folder)


def describe(name: str) -> dict[str, Any]:
    """What `k2 model info` prints. Raises UserError when `name` is neither a known model nor a checkpoint folder."""
    config, folder = find(name)
    count = config.count()
    parts = {part: getattr(count, part) for part in _PARTS}
    form = storage(config)
    sizes = _measured(folder) if folder else _computed(config, parts, form == "int4")
    return {
        "name": name,
        "parameters": {
            "total": count.total, "active": count.active, "active_without_embedding": count.active - count.embedding,
            "parts": parts,
        },
        "bytes": {"total": sum(sizes.values()), "measured": folder is not None, "parts": sizes},
        "routed_experts": form,
        "cache_bytes_per_token": config.cache_bytes_per_token(),
        "shape": {
            "layers": config.num_hidden_layers, "hidden": config.hidden_size, "heads": config.num_attention_heads,
            "experts": config.n_routed_experts, "experts_per_token": config.num_experts_per_tok,
            "shared_experts": config.n_shared_experts, "vocabulary": config.vocab_size,
            "context": config.max_position_embeddings,
        },
    }  # fmt: skip


def find(name: str) -> tuple[ModelConfig, Path | None]:
    """The configuration of a preset, `nano`, `depth:N` or a folder, and the folder if it is one."""
    if name in PRESETS:
        return ModelConfig.preset(name), None
    if name.startswith("depth:") and name[6:].isdigit():
        return ModelConfig.from_depth(int(name[6:])), None
    if name == "nano" and not (NANO / "config.json").exists():
        raise UserError("The embedded model is not in this checkout; name a checkpoint folder or a preset.")
    folder = NANO if name == "nano" else Path(name)
    if not folder.is_dir():
        raise UserError(
            f"{name} is neither a checkpoint folder nor a known model; the presets are {', '.join(PRESETS)}, nano and "
            "depth:N."
        )
    return ModelConfig.from_folder(folder), folder


def _computed(config: ModelConfig, parts: dict[str, int], int4: bool) -> dict[str, int]:
    """Bytes of a checkpoint in bf16 (selection biases float32) with the routed experts in INT4 or bf16."""
    sizes = {part: 2 * count for part, count in parts.items()}
    sizes["router"] += 2 * config.moe_layers() * config.n_routed_experts
    if int4:  # half a byte and, for every 32, a bf16 scale; 16 bytes of shape for each of the three matrices
        matrices = 3 * config.moe_layers() * config.n_routed_experts
        sizes["routed"] = parts["routed"] // 2 + parts["routed"] // 32 * 2 + 16 * matrices
    return sizes


def _measured(folder: Path) -> dict[str, int]:
    from openk2.model.checkpoint import load

    sizes: dict[str, int] = dict.fromkeys(_PARTS, 0)
    for tensor, entry in load(folder).entries.items():
        sizes[_part(tensor)] += entry.bytes
    return sizes


def _part(tensor: str) -> str:
    for mark, part in (
        ("norm", "norms"), ("embed_tokens", "embedding"), ("lm_head", "head"), ("self_attn", "attention"),
        (".experts.", "routed"), ("shared_experts", "shared"), (".mlp.gate.", "router"),
    ):  # fmt: skip
        if mark in tensor:
            return part
    return "dense"


def _count(n: int) -> str:
    return _scaled(n, ("", "k", "M", "B", "T"))


def _bytes(n: int) -> str:
    return _scaled(n, (" B", " KB", " MB", " GB", " TB"))


def _scaled(n: int, units: tuple[str, ...]) -> str:
    value, unit = float(n), units[0]
    for unit in units:
        if value < 999.5 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:.4g}{unit}"


_OUT = click.argument("out", type=click.Path(path_type=Path))
_SRC = click.argument("src", type=click.Path(exists=True, path_type=Path))
_FORMS = click.Choice(["bf16", "int4", "fp32"])
_GGUF_TYPES = click.Choice(["f32", "bf16", "q8_0", "q4_0"])


def _size(_: click.Context, __: click.Parameter, text: str) -> int:
    """`5GB`, `500MB` or bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if size < 1:
        raise click.BadParameter(f"{text!r} is no size; write it as 5GB or 500MB.")
    return size


_SHARD = click.option("--shard-size", default="5GB", show_default=True, callback=_size, help="Largest file of OUT.")


@command.command()
@_SRC
@_OUT
@click.option("--to", "form", required=True, type=_FORMS, help="What weights are stored in; int4: the routed experts.")
@_SHARD
def convert(src: Path, out: Path, form: str, shard_size: int) -> None:
    """Write checkpoint SRC (bf16, fp16, fp32, block-FP8 or INT4) as OUT, piece by piece."""
    _convert(src, out, form, shard_size)


@command.command()
@_SRC
@_OUT
@_SHARD
def quantize(src: Path, out: Path, shard_size: int) -> None:
    """Quantise the routed experts of checkpoint SRC to INT4, as `convert --to int4`."""
    _convert(src, out, "int4", shard_size)


@command.command()
@click.argument("name", metavar="NAME_OR_FOLDER")
@_OUT
@click.option("--format", "form", default="bf16", show_default=True, type=_FORMS)
@click.option("--seed", default=0, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), help="Number of layers, when not the network's own.")
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), help="Folder whose tokenizer OUT gets.")
@_SHARD
def random(
    name: str, out: Path, form: str, seed: int, layers: int | None, tokenizer: Path | None, shard_size: int
) -> None:
    """Write random weights of a preset, `depth:N` or a folder's config.json: a stand-in for tests and measurements."""
    from openk2.model.convert import RandomSource, copy_extras
    from openk2.model.convert import convert as write

    config = find(name)[0]
    if layers:
        config = dataclasses.replace(config, num_hidden_layers=layers)
    extras = copy_extras(tokenizer) if tokenizer else lambda folder: None
    _written(out, lambda progress: write(
        RandomSource(config, seed), out, form, shard_bytes=shard_size, extras=extras, progress=progress
    ))  # fmt: skip


def _convert(src: Path, out: Path, form: str, shard_size: int) -> None:
    from openk2.model.convert import FolderSource, copy_extras
    from openk2.model.convert import convert as write

    source = FolderSource(src)
    _written(out, lambda progress: write(
        source, out, form, shard_bytes=shard_size, extras=copy_extras(src), progress=progress
    ))  # fmt: skip


class _Stopped(UserError):
    exit_code = 130


_REPORT_SECONDS = 30  # between two lines of progress where there is no terminal


def _written(
    out: Path, work: Callable[[Callable[[int, int], None]], int], stopped: str = "stopped; the same command goes on."
) -> None:
    """Run `work` with its progress and the time left on stderr, and say what was written."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    start = said = time.monotonic()
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if bar.disable and now - said > _REPORT_SECONDS:
                said = now
                left = (now - start) * (total - done) / max(done, 1)
                click.echo(f"{out}: {_bytes(done)} of {_bytes(total)}, {left:.0f} s left", err=True)

        try:
            size = work(progress)
        except KeyboardInterrupt:
            raise _Stopped(stopped) from None
    click.echo(f"{out}: {_bytes(size)} in {time.monotonic() - start:.1f} s")


@command.command()
@_SRC
@_OUT
@click.option(
    "--format",
    "kind",
    type=click.Choice(["hf", "gguf"]),
    default="hf",
    show_default=True,
    help="A folder for transformers, vLLM, SGLang and openk2; or one file for llama.cpp.",
)
@click.option("--int4/--bf16", default=None, help="Routed experts [default: as in SRC; of a training run int4].")
@click.option(
    "--experts", type=_GGUF_TYPES, help="GGUF type of the routed experts [default: q4_0 for INT4, else bf16]."
)
@click.option("--dense", type=_GGUF_TYPES, default="bf16", show_default=True, help="GGUF type of all other matrices.")
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), help="Folder [default: SRC's own].")
@click.option("--profile", type=click.Path(exists=True, path_type=Path), help="JSON file to become openk2.json.")
@click.option("--untie", is_flag=True, help="The head as a matrix of its own, for torchtitan and Megatron-Bridge.")
@_SHARD
def export(
    src: Path,
    out: Path,
    kind: str,
    int4: bool | None,
    experts: str | None,
    dense: str,
    tokenizer: Path | None,
    profile: Path | None,
    untie: bool,
    shard_size: int,
) -> None:
    """Write a training run or a checkpoint, SRC, for other programs: a Hugging Face folder or a GGUF file, OUT."""
    run = src.name.startswith("step-") or any(src.glob("step-*"))
    if kind == "gguf" and run:
        raise UserError(f"{src} is a training run; give `k2 model export {src} FOLDER` first, then export FOLDER.")
    if kind == "gguf":
        from openk2.export.gguf import export as write_gguf

        notes: list[str] = []
        _written(out, lambda progress: write_gguf(
            src, out, experts, dense, tokenizer=tokenizer, progress=progress, note=notes.append
        ), "stopped; nothing was written.")  # fmt: skip
        for sentence in notes:
            click.echo(sentence)
    elif run:
        _export_run(src, out, int4 is not False, tokenizer, profile, untie)
    else:
        from openk2.export.hf import export as write_hf

        form = None if int4 is None else "int4" if int4 else "bf16"
        _written(out, lambda progress: write_hf(
            src, out, form, tokenizer=tokenizer, profile=profile, untie=untie, shard_bytes=shard_size, progress=progress
        ))  # fmt: skip


def _export_run(
    run: Path, out: Path, int4: bool, tokenizer: Path | None, profile: Path | None, untie: bool
) -> None:  # fmt: skip
    try:
        from openk2.train.export import export_run
    except ImportError:
        from openk2.paths import install

        raise UserError(f"Exporting a training run needs torch; install it: {install('train')}") from None
    from openk2.export.hf import add_tokenizer
    from openk2.model.checkpoint import TOKENIZER_FILES

    said = export_run(run, out, int4=int4, tokenizer=tokenizer, profile=profile, untie=untie)
    if all((out / name).exists() for name in TOKENIZER_FILES):
        add_tokenizer(out, out)
    click.echo(said)
