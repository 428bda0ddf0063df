"""What code in the box may use: limits, the paths it may read, its environment, and the user it runs as."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openk2.errors import UserError

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of one box. Sizes are in bytes, times in seconds."""

    timeout: float = 60.0  # wall clock of one call
    memory: int = 1024 * MiB  # of each process, and of all together
    processes: int = 64
    open_files: int = 256
    file_size: int = 256 * MiB
    disk: int = 1024 * MiB  # what the workspace may grow by in one call
    files: int = 20_000  # that one call may make
    output: int = 20_000  # kept of what one call prints; the middle is left out
    output_stop: int = 64 * MiB  # a call that prints more than this is stopped
    rebuild: float = 20.0  # for running earlier calls again after the process was lost
    read: tuple[str, ...] = ()  # files and folders of the person that code may read, at their own paths
    # Hosts that code may reach by HTTP and HTTPS: names, `*.example.org` for all below one, `host:8080` for a port
    # that is neither 80 nor 443; or every public host. Nothing on a private network, except what is named here.
    network: tuple[str, ...] | Literal["public"] | None = None


# Allow-lists only: a list of what is forbidden can always be walked around (/proc/self/root, ld.so, copies).
SYSTEM_PATHS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/alternatives", "/etc/ld.so.cache")
SYSTEM_FILES = ("/etc/localtime", "/etc/fonts")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NIX_STORE = "/nix/store"  # programs there are linked against each other

# Users that systemd hands out for the life of a service: nobody's files, nobody's processes.
FREE_USERS = range(61184, 65520)


def interpreter() -> str:
    """The real Python binary, not the link in a virtual environment, whose folder stays outside."""
    return str(Path(sys.executable).resolve())


def site_packages() -> list[str]:
    """Where installed packages are, so that numpy can be imported in the box."""
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(path for path in paths if path and Path(path).is_dir())


# What programs check certificates with; only where there is a network. Private keys are in other folders.
CERTIFICATES = ("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/ca-certificates")
PROXY_PORT = 3128  # in the box, on its own loopback


def readable_paths(policy: Policy) -> list[str]:
    """Every path that code in the box may read, beside its workspace. Only what exists.

    Raises UserError where the person named something to read that does not exist or is everything.
    """
    prefixes = [sys.base_prefix, sys.base_exec_prefix, *site_packages()]
    if any(prefix.startswith(NIX_STORE) for prefix in prefixes):
        prefixes.append(NIX_STORE)
    paths = [*SYSTEM_PATHS, *SYSTEM_FILES, *prefixes, *(CERTIFICATES if policy.network else ())]
    never = {"/", str(Path("~").expanduser())}
    allowed = [path for path in dict.fromkeys(paths) if path not in never and Path(path).exists()]
    for name in policy.read:
        path = Path(name).expanduser()
        if not path.exists():
            raise UserError(f"{name} cannot be read in the sandbox: it does not exist.")
        if path.resolve() == Path("/"):
            raise UserError("The whole file system cannot be opened to the sandbox; name the folders that are needed.")
        allowed.append(str(path.resolve()))
    return list(dict.fromkeys(allowed))


def environment(workspace: str, policy: Policy) -> dict[str, str]:
    """The whole environment in the box: nothing of the host's. One thread a library, a fixed hash seed."""
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    network = {name: proxy for upper in names for name in (upper, upper.lower())} if policy.network else {}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": workspace,
        "TMPDIR": workspace,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "module://openk2_figures",
        **network,
    }


def spare_user() -> int | None:
    """When we are root: a user id of the box's own, which owns nothing and runs nothing. Else None: we stay who we are.

    Root is exempt from the limit on processes, and a user of its own cannot signal or read anybody else's processes.
    """
    if os.geteuid() != 0:
        return None
    taken = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                taken.add(entry.stat().st_uid)
            except OSError:
                continue  # it ended meanwhile
    start = (os.getpid() * 7919 + int.from_bytes(os.urandom(2), "big")) % len(FREE_USERS)
    for offset in range(len(FREE_USERS)):
        user = FREE_USERS[(start + offset) % len(FREE_USERS)]
        if user not in taken and _mapped(user):
            return user
    return None


def _mapped(user: int) -> bool:
    """Whether the user id exists in our user namespace (in a container it may not)."""
    try:
        ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        return True
    return any(int(first) <= user < int(first) + int(count) for first, _, count in ranges)


def reachable_by_others(path: str) -> bool:
    """Whether a user that is not the owner can walk down to `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).resolve().parents)
