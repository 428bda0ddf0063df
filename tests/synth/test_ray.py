"""The same bytes by Ray as by one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from openk2.synth.shards import make
from openk2.synth.task.make import Order, write_worlds
from tests.synth.world_apis import depot_world


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
