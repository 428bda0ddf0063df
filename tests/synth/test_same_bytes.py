"""The same bytes by Ray, and by processes that hash otherwise, as by one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openk2.synth.shards import make
from openk2.synth.task.make import Order, write_worlds
from tests.synth.world_apis import depot_world


def test_shards_do_not_depend_on_how_texts_are_hashed(tmp_path: Path) -> None:
    write_worlds(tmp_path / "w", (depot_world(seed) for seed in range(3)))
    for seed in ("1", "2"):
        command = ["-m", "openk2", "synth", "dialogues", "--worlds", str(tmp_path / "w"), "--out", str(tmp_path / seed)]
        ran = subprocess.run(
            [sys.executable, *command, "--count", "80", "--shard", "80"], env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "1" / "part-00000.jsonl.gz").read_bytes() == (
        tmp_path / "2" / "part-00000.jsonl.gz"
    ).read_bytes()


def test_shards_are_the_same_bytes_by_ray(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    write_worlds(tmp_path / "w", (depot_world(seed) for seed in range(2)))
    order = Order(str(tmp_path / "w"), 24, 5, size=8)
    quiet = lambda line: None  # noqa: E731
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        told = make(order, tmp_path / "many", ray=True, say=quiet)
    finally:
        ray.shutdown()
    assert told == make(order, tmp_path / "one", say=quiet) and told["records"] > 16
    for file in sorted((tmp_path / "one").glob("*.gz")):
        assert file.read_bytes() == (tmp_path / "many" / file.name).read_bytes()
