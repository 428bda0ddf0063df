"""A box of each boundary, with limits small enough for tests. A tier is skipped only where this machine lacks it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openk2.sandbox.box import TIERS, Box, Tier, probe
from openk2.sandbox.policy import Policy

# Where the limits are held makes no difference to what a caller sees: the attempts try all tiers.
BOUNDARIES: tuple[Tier, ...] = ("bubblewrap+seccomp+rlimits", "landlock+seccomp+rlimits")

MiB = 1 << 20
SMALL = Policy(20.0, 256 * MiB, processes=32, file_size=4 * MiB, disk=64 * MiB, output=10_000, output_stop=16 * MiB)
MISSING = {report.tier: report.detail for report in map(probe, TIERS) if not report.works}


@pytest.fixture(params=BOUNDARIES)
def tier(request: pytest.FixtureRequest) -> Tier:
    if request.param in MISSING:
        pytest.skip(MISSING[request.param])
    return request.param


@pytest.fixture
def make_box(tier: Tier, tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Boxes in `tier`, ended with the test."""
    made: list[Box] = []

    def make(name: str = "workspace", policy: Policy = SMALL) -> Box:
        made.append(Box(tmp_path / name, policy, tier))
        return made[-1]

    yield make
    for box in made:
        box.close()


@pytest.fixture
def box(make_box: Callable[..., Box]) -> Box:
    return make_box()
