"""The macOS tier: the box under `sandbox-exec` with a profile that denies by default.

Written from Apple's own profiles in /System/Library/Sandbox/Profiles and from what other programs do with them; Apple
documents the language nowhere and calls the command deprecated, though it is what Chromium and others rest on. There is
no process namespace and no system-call filter here: limits are rlimits and what the host watches.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

COMMAND = "/usr/bin/sandbox-exec"  # never looked up on PATH
READABLE = (
    "/usr/lib", "/usr/bin", "/bin", "/usr/share", "/System/Library", "/Library/Apple",
    "/System/Volumes/Preboot/Cryptexes", "/private/var/db/timezone", "/private/var/db/dyld", "/opt/homebrew",
    "/Library/Frameworks/Python.framework",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SYSCTL = ("hw.", "kern.os", "kern.version", "kern.argmax", "kern.maxfilesperproc", "sysctl.proc_", "vm.")

_HEAD = """(version 1)
(deny default)
(allow process-exec process-fork)
(allow process-info* (target same-sandbox))
(allow signal (target same-sandbox))
(allow mach-priv-task-port (target same-sandbox))
(allow ipc-posix-sem)
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
"""


def available() -> bool:
    return Path(COMMAND).exists()


def profile(readable: Iterable[str], workspace: str) -> tuple[str, dict[str, str]]:
    """The profile's text and its parameters. Paths are parameters only, so that none can add a rule."""
    folders = list(dict.fromkeys([*READABLE, *readable]))
    parameters = {"WORKSPACE": workspace} | {f"READ_{number}": path for number, path in enumerate(folders)}
    above = {str(parent) for path in (*folders, workspace) for parent in Path(path).parents}
    parameters |= {f"ABOVE_{number}": path for number, path in enumerate(sorted(above))}

    def rules(verb: str, filter_name: str, prefix: str) -> str:
        names = [name for name in parameters if name.startswith(prefix)]
        return f"(allow {verb}\n" + "\n".join(f'  ({filter_name} (param "{name}"))' for name in names) + ")\n"

    devices = " ".join(f'(literal "{path}")' for path in DEVICES)
    text = _HEAD
    text += "(allow sysctl-read " + " ".join(f'(sysctl-name-prefix "{name}")' for name in SYSCTL) + ")\n"
    text += rules("file-read* file-map-executable", "subpath", "READ_")
    text += rules("file-read-metadata", "literal", "ABOVE_")
    text += f"(allow file-read* file-write-data file-ioctl {devices})\n"
    text += rules("file-read* file-write* file-map-executable", "subpath", "WORKSPACE")
    # The last matching rule wins: in the workspace too there are no device nodes, sockets or set-user-id bits.
    text += "(deny file-write-setugid file-mknod)\n(deny network*)\n"
    return text, parameters


def arguments(readable: Iterable[str], workspace: Path, command: list[str]) -> list[str]:
    """The whole command line. `workspace` must be resolved: the kernel compares real paths."""
    text, parameters = profile((str(Path(path).resolve()) for path in readable), str(workspace))
    return [COMMAND, "-p", text, *(f"-D{name}={value}" for name, value in parameters.items()), "--", *command]
