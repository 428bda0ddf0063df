"""Where openk2 keeps what it makes (the XDG folders, created on demand), and the model that comes with it.

And how a new name in a folder gets to the disk.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NANO = Path(__file__).parent / "weights" / "nano"  # the embedded model; absent in a checkout without weights


def cache_dir() -> Path:
    """Rebuildable files (search indexes). `$XDG_CACHE_HOME/openk2`, else `~/.cache/openk2`."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def data_dir() -> Path:
    """Files to keep (runs). `$XDG_DATA_HOME/openk2`, else `~/.local/share/openk2`."""
    return _xdg("XDG_DATA_HOME", ".local/share")


def config_dir() -> Path:
    """The person's settings. `$XDG_CONFIG_HOME/openk2`, else `~/.config/openk2`."""
    return _xdg("XDG_CONFIG_HOME", ".config")


def install(extra: str) -> str:
    """The command that adds an optional part to the Python that runs: from this checkout, or from the index."""
    checkout = Path(__file__).parents[1]
    where = f"-e '{checkout}[{extra}]'" if (checkout / "pyproject.toml").is_file() else f"'openk2[{extra}]'"
    return f"{sys.executable} -m pip install {where}"


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a new or renamed file may else be gone after a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _xdg(variable: str, below_home: str) -> Path:
    if folder := os.environ.get(variable):
        return Path(folder) / "openk2"
    try:
        home = Path.home()
    except RuntimeError:  # a user id without a name and without HOME, as in some containers
        import tempfile

        home = Path(tempfile.gettempdir())
    return home / below_home / "openk2"
