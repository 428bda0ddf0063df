"""What several rooms' tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from openk2.cli import settings


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """`serve(answer, models)` starts a chat-completions server that ends with the test."""
    from stub_server import StubServer

    with ExitStack() as servers:
        yield lambda *args, **named: servers.enter_context(StubServer(*args, **named))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no settings, no runs, no caches of the person who runs the tests."""
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    for name in (*settings.NAMES, "api_key"):
        monkeypatch.delenv(f"OPENK2_{name.upper()}", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path
