"""Where openk2 keeps what it makes: the XDG folders, created on demand."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Rebuildable files (search indexes). `$XDG_CACHE_HOME/openk2`, else `~/.cache/openk2`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openk2"


def data_dir() -> Path:
    """Files to keep (runs). `$XDG_DATA_HOME/openk2`, else `~/.local/share/openk2`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "openk2"
