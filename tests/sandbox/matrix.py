"""All attempts in every tier, as root and as an ordinary user, beside the same attempts without a boundary.

    .venv/bin/python tests/sandbox/matrix.py        # writes docs/sandbox-matrix.md

A column runs in a process of its own: `matrix.py --column USER TIER` prints what got through as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PAGE = REPOSITORY / "docs" / "sandbox-matrix.md"
sys.path[:0] = [str(HERE), str(REPOSITORY)]

from arena import ATTEMPTS, Arena  # noqa: E402

import attempts_files, attempts_kernel, attempts_network, attempts_resources, attempts_secrets  # noqa: E401, E402, F401  # isort: skip
from openk2.sandbox.box import TIERS, Tier, probe  # noqa: E402
from openk2.sandbox.policy import interpreter, reachable_by_others  # noqa: E402

CONTROL = "control"
ORDINARY = 4243  # user ids from here on own nothing; each column has one, because the kernel counts processes by user
USERS = ("root", "user")
# What a tier is known to let through: (attempt, beginning of the tier) and why.
EXPECTED: dict[tuple[int, str], str] = {
    (22, "landlock"): "Landlock has no namespace for the host's name, and uname() cannot be filtered by its result; the"
    " files that identify the machine are closed.",
}
# Attempts that do not succeed without the boundary either and so prove nothing: (attempt, user) and why.
NO_CONTROL: dict[tuple[int, str], str] = {}


@dataclass
class Column:
    user: str
    tier: str  # or CONTROL
    skipped: str = ""  # why it did not run
    through: dict[int, str] = field(default_factory=dict)  # what got through, by attempt; '' was held


def measure(tier: str) -> dict[int, str]:
    """Make every attempt in `tier`, or without a boundary. An attempt that breaks off is told as `error: ...`."""
    through = {}
    for number, attempt in sorted(ATTEMPTS.items()):
        arena = Arena(None if tier == CONTROL else cast(Tier, tier))
        begin = time.monotonic()
        try:
            through[number] = attempt.run(arena)
        except Exception as error:
            through[number] = f"error: {type(error).__name__}: {error}"
        finally:
            arena.close()
        if os.environ.get("MATRIX_TIMES"):
            print(number, f"{time.monotonic() - begin:.2f}", through[number][:150], file=sys.stderr)
    return through


def other_python() -> str | None:
    """A Python that an ordinary user can reach too."""
    if reachable_by_others(interpreter()):
        return interpreter()
    return next((path for path in ("/usr/local/bin/python3", "/usr/bin/python3") if Path(path).exists()), None)


def run(user: str, tier: str) -> Column:
    """One column, in a process of its own. Never raises for what the machine lacks."""
    column = Column(user, tier)
    drop = os.geteuid() == 0 and user == "user"
    uid = ORDINARY + (CONTROL, *TIERS).index(tier)
    python = other_python() if drop else sys.executable
    if user == "root" and os.geteuid() != 0:
        column.skipped = "this run is not root"
    elif python is None:
        column.skipped = "no Python that an ordinary user can reach"
    elif tier.startswith("seatbelt") and sys.platform != "darwin":
        column.skipped = "this is not macOS"
    if column.skipped or python is None:
        return column
    with tempfile.TemporaryDirectory(prefix="openk2-matrix-") as home:
        names: dict[str, object] = {}
        if drop:
            os.chown(home, uid, uid)
            names = {"user": uid, "group": uid, "extra_groups": []}
        environment = {"PATH": os.environ["PATH"], "HOME": home if drop else str(Path.home()), "TMPDIR": "/tmp"}
        if drop:  # the packages of this environment, for the HTTP client that the proxy is built on
            environment["PYTHONPATH"] = sysconfig.get_path("purelib")
        environment |= {name: value for name, value in os.environ.items() if name.startswith("MATRIX_")}
        process = subprocess.Popen(
            [python, str(HERE / "matrix.py"), "--column", tier], env=environment, cwd="/", text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, **names,  # type: ignore[arg-type]
        )  # fmt: skip
        groups = delegate(process.pid, uid) if drop and tier.endswith("cgroup") else []
        printed, _ = process.communicate("go\n")
        for group in reversed(groups):
            for below in group.iterdir():
                if below.is_dir():
                    below.rmdir()
            group.rmdir()
        answer = json.loads(printed.splitlines()[-1])
        column.skipped = answer["skipped"]
        column.through = {int(number): text for number, text in answer["through"].items()}
    return column


def delegate(pid: int, uid: int) -> list[Path]:
    """Control groups that the ordinary user may make groups below, as a session manager would delegate them."""
    made: list[Path] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if set(controllers.split(",")) & {"memory", "pids"}:
            folder = Path("/sys/fs/cgroup", controllers, path.lstrip("/"), f"delegated-{pid}")
            folder.mkdir()
            made.append(folder)
            (folder / "cgroup.procs").write_text(str(pid))
            for name in (folder, folder / "cgroup.procs"):
                os.chown(name, uid, uid)
    return made


def column_main(tier: str) -> None:
    sys.stdin.readline()  # until we are in our control groups
    skipped = ""
    if tier != CONTROL and not (report := probe(cast(Tier, tier))).works:
        skipped = report.detail
    print(json.dumps({"skipped": skipped, "through": {} if skipped else measure(tier)}))


def run_all(at_once: int = 8) -> list[Column]:
    wanted = [(user, tier) for tier in (CONTROL, *TIERS) for user in USERS]
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda pair: run(*pair), wanted))


def expected(number: int, tier: str) -> str:
    return next((why for (n, begin), why in EXPECTED.items() if n == number and tier.startswith(begin)), "")


def page(columns: list[Column]) -> str:
    """The matrix as Markdown."""
    shown = [column for column in columns if not column.skipped]
    notes: dict[str, str] = {}

    def note(text: str) -> str:
        return notes.setdefault(text, str(len(notes) + 1))

    def cell(column: Column, number: int) -> str:
        through = column.through[number]
        if through.startswith("error: "):
            return "**error**"
        if column.tier == CONTROL:
            why = NO_CONTROL.get((number, column.user), "")
            return "succeeds" if through else f"fails [{note(why)}]" if why else "**fails**"
        if not through:
            return "held"
        why = expected(number, column.tier)
        return f"open [{note(why)}]" if why else "**open**"

    header = [f"{column.tier.replace('+', ' + ')}, {column.user}" for column in shown]
    lines = [
        "# Attempts to get out of the sandbox",
        "",
        "Written by `tests/sandbox/matrix.py`, which the tests run too. Each attempt is made in every tier, as root ",
        "(the code then runs as a user id of its own) and as an ordinary user, and beside that without a boundary: an",
        "attempt that does not succeed there proves nothing. What each does is in `tests/sandbox/attempts_*.py`.",
        "",
        "| # | attempt | " + " | ".join(header) + " |",
        "|---|---|" + "---|" * len(header),
    ]
    part = ""
    for number, attempt in sorted(ATTEMPTS.items()):
        if attempt.part != part:
            part = attempt.part
            lines.append(f"| | **{part}** |" + " |" * len(header))
        cells = " | ".join(cell(column, number) for column in shown)
        lines.append(f"| {number} | {attempt.title} | {cells} |")
    lines.append("")
    lines += [f"[{number}] {text}" for text, number in notes.items()]
    held = sum(not column.through[n] for column in shown if column.tier != CONTROL for n in ATTEMPTS)
    cells = sum(len(ATTEMPTS) for column in shown if column.tier != CONTROL)
    lines += ["", f"{held} of {cells} held."]
    if skipped := [column for column in columns if column.skipped]:
        lines += ["", "Not run here: " + "; ".join(f"{c.tier} as {c.user} ({c.skipped})" for c in skipped) + "."]
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--column"]:
        column_main(sys.argv[2])
    else:
        text = page(run_all())
        PAGE.write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
