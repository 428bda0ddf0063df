"""The bubblewrap tier: the box as its own mount, process, network, IPC and host-name namespaces."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from openk2.sandbox.policy import DEVICES

WORKSPACE = "/workspace"
PACKAGE = "/openk2"  # the folder in the box below which it sees `openk2/sandbox`, and nothing else of ours
SUPERVISOR_PID = 1  # with --as-pid-1 the supervisor is the init of its namespace: nobody in there can kill it


def binary() -> str | None:
    return shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")


def arguments(
    readable: list[str], workspace: Path, environment: dict[str, str], command: list[str], *, drop_root: bool
) -> tuple[str, ...]:
    """The options of bwrap. They go to it by a file descriptor, because everybody may read a command line.

    `drop_root`: the supervisor becomes a user of its own, for which it needs two capabilities and no user namespace.
    """
    options = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--cap-drop", "ALL"]
    if drop_root:
        options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        options += ["--unshare-user"]  # a second one inside is refused by the system-call filter
    options += ["--hostname", "box", "--as-pid-1", "--new-session"]
    if drop_root:  # bwrap makes the folders above a mount for their owner only, which is root
        mounted = (*readable, *DEVICES, f"{PACKAGE}/openk2/sandbox")
        above = {str(parent) for path in mounted for parent in Path(path).parents if parent != Path("/")}
        for folder in sorted(above - set(readable)):
            if not any(folder.startswith(f"{path}/") for path in readable):
                options += ["--perms", "0755", "--dir", folder]
    for path in readable:
        if os.path.islink(path) and Path(path).parent == Path("/"):  # noqa: PTH114  (/lib -> usr/lib)
            options += ["--symlink", str(Path(path).readlink()), path]
        else:
            options += ["--ro-bind", path, path]
    for path in DEVICES:
        options += ["--dev-bind-try", path, path]
    options += ["--ro-bind", str(Path(__file__).parent), f"{PACKAGE}/openk2/sandbox"]
    options += ["--bind", str(workspace), WORKSPACE]
    options += ["--remount-ro", "/"]  # the root of the box is a tmpfs: else code could fill memory there
    for key, value in environment.items():
        options += ["--setenv", key, value]
    return (*options, "--", *command)


def packed(options: tuple[str, ...]) -> tuple[bytes, list[str]]:
    """The options as bwrap reads them from --args, and the command, which has to stay on the command line."""
    split = options.index("--")
    return b"".join(os.fsencode(option) + b"\0" for option in options[:split]), list(options[split:])
