"""`k2 doctor`: what this machine offers."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from openk2.paths import install

PARTS = {
    "torch": f"training: {install('train')}",
    "tokenizers": f"training tokenizers: {install('train')}",
    "transformers": f"parity tests: {install('dev')}",
    "pytest": "tests: ./k2 test",
}


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> int:
    """Tell what this machine offers: sandbox, model, library, optional parts. Exit code 2 when asking cannot work."""
    found = examine()
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, value in found.items():
            if not isinstance(value, dict):
                click.echo(f"{name:14}{value}")
                continue
            for key, entry in value.items():
                mark = "ok  " if entry["works"] else "none"
                click.echo(f"{name:14}{mark}  {key}: {entry['detail']}")
    return 0 if all(entry["works"] for part in ("model", "library") for entry in found[part].values()) else 2


def examine() -> dict[str, Any]:
    from openk2 import __version__
    from openk2.agent.log import runs_dir
    from openk2.cli.settings import config_path
    from openk2.paths import cache_dir

    return {
        "openk2": f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "model": _model(),
        "library": _library(),
        "sandbox": _sandbox(),
        "search": {"SQLite FTS5": _fts5()},
        "parts": {name: _part(name, use) for name, use in PARTS.items()},
        "kernels": {"processor": _kernels()},
        "runs": str(runs_dir()),
        "cache": str(cache_dir()),
        "settings": f"{config_path()}{'' if config_path().exists() else ' (none)'}",
    }


def _entry(works: bool, detail: object) -> dict[str, Any]:
    return {"works": works, "detail": str(detail)}


def _model() -> dict[str, Any]:
    from openk2.paths import NANO

    size = sum(path.stat().st_size for path in NANO.glob("*")) if (NANO / "config.json").exists() else 0
    return {
        "nano": _entry(size > 0, f"{size / 1e6:.1f} MB" if size else "not in this checkout; use --model or --base-url")
    }


def _kernels() -> dict[str, Any]:
    from openk2.engine.kernels import status

    return _entry(*status())


def _library() -> dict[str, Any]:
    try:
        from openk2 import library

        index = library.index()
        return {"factbook": _entry(len(index) > 0, f"{len(index)} documents")}
    except Exception as error:
        return {"factbook": _entry(False, error)}


def _sandbox() -> dict[str, Any]:
    """Each tier is tried by running code in it. The python and shell tools take the first that works."""
    if os.name != "posix":
        return {"python tool": _entry(False, "needs Linux or macOS; python calls are refused, everything else works")}
    from openk2.sandbox.box import TIERS, probe

    return {report.tier: _entry(report.works, report.detail) for report in map(probe, TIERS)}


def _fts5() -> dict[str, Any]:
    import sqlite3

    try:
        sqlite3.connect(":memory:").execute("CREATE VIRTUAL TABLE t USING fts5(x)")
        return _entry(True, sqlite3.sqlite_version)
    except sqlite3.Error as error:
        return _entry(False, f"this Python's SQLite {sqlite3.sqlite_version} lacks it ({error}); search needs it")


def _part(name: str, use: str) -> dict[str, Any]:
    try:
        return _entry(True, version(name))
    except PackageNotFoundError:
        return _entry(False, use)
