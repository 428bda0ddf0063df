"""What several rooms' tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest

from openk2.cli import settings
from openk2.engine.kernels import plan
from openk2.engine.kernels.build import build
from openk2.engine.kernels.native import declare


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """`serve(answer, models)` starts a chat-completions server that ends with the test."""
    from stub_server import StubServer

    with ExitStack() as servers:
        yield lambda *args, **named: servers.enter_context(StubServer(*args, **named))


@pytest.fixture(scope="session", autouse=True)
def built_kernels() -> Iterator[Path | None]:
    """The CPU kernels, built once: in its own empty home, each command would start to build them again."""
    path = None if isinstance(plan(), str) else build()  # where there is a compiler, a failed build fails the tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENK2_KERNELS", str(path or "off"))
        yield path


@pytest.fixture(scope="session")
def kernels(built_kernels: Path | None) -> CDLL:
    if built_kernels is None:
        pytest.skip("no compiler")
    return declare(CDLL(str(built_kernels)))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no settings, no runs, no caches of the person who runs the tests."""
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    for name in (*settings.NAMES, "api_key"):
        monkeypatch.delenv(f"OPENK2_{name.upper()}", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path
