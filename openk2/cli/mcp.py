"""`k2 mcp`: this agent as a tool of others, by the Model Context Protocol, over a pipe or HTTP on this machine."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

from openk2.cli import settings
from openk2.paths import install


@click.command(cls=settings.Command, name="mcp")
@click.option(
    "--docs", envvar="OPENK2_DOCS", multiple=True, type=click.Path(), metavar="PATH",
    help="Files or folders to search instead of the embedded library; ask may be given others below them.",
)  # fmt: skip
@click.option("--model", envvar="OPENK2_MODEL", help="nano (embedded), a checkpoint folder, or a name at --base-url.")
@click.option("--base-url", envvar="OPENK2_BASE_URL", help="An OpenAI-compatible server, as http://localhost:8000/v1.")
@click.option("--steps", envvar="OPENK2_STEPS", type=click.IntRange(1), help="Most replies of the model. [300]")
@click.option(
    "--max-seconds", envvar="OPENK2_MAX_SECONDS", type=click.FloatRange(0, min_open=True), help="Most seconds to work."
)
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help="Serve HTTP at 127.0.0.1:PORT/mcp instead of standard input and output; 0 takes a free port.",
)  # fmt: skip
@settings.run_dir_option
def command(
    docs: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    steps: int | None,
    max_seconds: float | None,
    port: int | None,
    run_dir: Path | None,
) -> int:
    """Offer ask, search, open and find to an MCP client, such as an editor or another agent."""
    from openk2.errors import UserError

    places = [Path(path).expanduser().absolute() for path in docs]
    for given, place in zip(docs, places, strict=True):
        if not given or not place.exists():
            raise UserError(f"There is no file or folder {given or repr(given)}; correct --docs.")
    try:
        from openk2.cli.mcp_server import http_app, made
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise UserError(f"The MCP server needs the package mcp: {install('mcp')}.") from None
    from openk2.agent.log import runs_dir
    from openk2.agent.setup import Setup
    from openk2.cli.stdio import end_on_signals

    setup = Setup("agent", model, base_url, tuple(map(str, places)), steps=steps, max_seconds=max_seconds)
    setup.started("check", "")  # an unknown model is told now, not to whoever asks first
    server = made(setup, run_dir or runs_dir(), places or [Path.cwd()])
    if port is None:
        end_on_signals()
        server.run("stdio")
        return 0
    token = os.environ.get("OPENK2_MCP_TOKEN") or secrets.token_urlsafe(24)
    return _serve(http_app(server, token), port, token)


def _serve(app: object, port: int, token: str) -> int:
    import asyncio
    import socket

    import uvicorn

    from openk2.errors import UserError

    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
        bound.listen()  # before the address is told
    except OSError as error:
        raise UserError(f"The port {port} cannot be used ({error.strerror}); choose another with --port.") from None
    place = f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
    print(f"MCP at {place}\nAuthorization: Bearer {token}", file=sys.stderr, flush=True)
    serving = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))  # type: ignore[arg-type]
    asyncio.run(serving.serve(sockets=[bound]))
    return 0
