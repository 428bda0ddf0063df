"""The host's end of a box's network: a proxy that reaches only what the policy names.

It speaks HTTP/1.1: CONNECT for HTTPS, whose bytes pass unread, and absolute URLs for plain HTTP. A name is resolved
once, here, by `openk2.net.addresses`, which refuses private addresses in every spelling, and the connection goes to the
address that was checked. A redirect is the client's own next request and is judged like any other.

What it cannot see: with CONNECT, which site behind one address the client asks for inside its encryption.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Sequence
from typing import Literal

from openk2 import net
from openk2.errors import UserError
from openk2.sandbox.forward import copy

HEAD_LIMIT = 32 << 10
HEAD_SECONDS = CONNECT_SECONDS = 10.0
MOST_CONNECTIONS = 64
# Header lines of a request that are between the client and us.
_HOP_BY_HOP = (b"proxy-", b"connection:", b"keep-alive:", b"host:", b"te:", b"upgrade:")
_REQUEST = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]{1,8000}) HTTP/1\.[01]")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#]+)(?::([0-9]{1,5}))?")


class Proxy:
    """Serves the connections that arrive on `control`, each as the end of a socket pair, until that is closed."""

    def __init__(self, control: socket.socket, network: Sequence[str] | Literal["public"]):
        self._control, self._network = control, network
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def start(self) -> None:
        threading.Thread(target=self._accept, name="sandbox-proxy", daemon=True).start()

    def _accept(self) -> None:
        with self._control:
            while True:
                try:
                    data, handles, _, _ = socket.recv_fds(self._control, 1, 1)
                except OSError:
                    return
                if not data:
                    return
                for handle in handles:
                    client = socket.socket(fileno=handle)
                    if self._slots.acquire(blocking=False):
                        threading.Thread(target=self._serve, args=(client,), daemon=True).start()
                    else:
                        client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                self._answer(client)
        except (OSError, ValueError):
            return
        finally:
            self._slots.release()

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(HEAD_SECONDS)
        head, body = _head(client)
        try:
            method, host, port, head = self._judged(head)
            upstream = self._connected(host, port)
        except UserError as refused:
            _refuse(client, 403, str(refused))
            return
        except OSError as error:
            _refuse(client, 502, f"The host did not answer: {error.strerror or error}.")
            return
        with upstream:
            if method == b"CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.sendall(head + body)
            for end in (client, upstream):
                end.settimeout(None)
            back = threading.Thread(target=copy, args=(upstream, client), daemon=True)
            back.start()
            copy(client, upstream)
            back.join()

    def _judged(self, head: bytes) -> tuple[bytes, str, int, bytes]:
        """Method, host, port, and the head as the host is to get it. Raises Refused or UserError with the reason."""
        lines = head.split(b"\r\n")
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join(lines)):  # also a bare CR or LF, and a NUL
            raise UserError("The request is refused: it holds control bytes.")
        if (match := _REQUEST.fullmatch(lines[0])) is None:
            raise UserError("The request is refused: it is not an HTTP/1.1 request to a proxy.")
        method, target = match[1], match[2].decode("ascii")
        if method == b"CONNECT":
            host, port = _authority(target, 443)
            return method, host, port, b""
        scheme, slashes, rest = target.partition("://")
        if scheme.lower() != "http" or not slashes:
            raise UserError("The request is refused: a proxy takes http:// URLs, and CONNECT for https.")
        authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
        host, port = _authority(authority, 80)
        path = path if path.startswith("/") else f"/{path}"
        kept = [line for line in lines[1:] if line and not line.lower().startswith(_HOP_BY_HOP)]
        start = [method + b" " + path.encode() + b" HTTP/1.1", b"Host: " + authority.encode(), b"Connection: close"]
        return method, host, port, b"\r\n".join([*start, *kept, b"", b""])

    def _connected(self, host: str, port: int) -> socket.socket:
        name = net.host_name(host)
        allow: tuple[str, ...] = ()
        if self._network != "public":
            fitting = [entry for entry in self._network if _fits(name, port, entry)]
            if not fitting:
                raise net.Refused(f"The host {name} is refused: it is not among {', '.join(self._network)}.")
            # Only who names the port as well means this very server, also one on a private network.
            allow = tuple(entry for entry in fitting if _split(entry)[1] and not entry.startswith("*."))
        error = OSError("no address")
        for address in net.addresses(name, port, allow):
            try:
                return socket.create_connection((address, port), CONNECT_SECONDS)
            except OSError as failed:
                error = failed
        raise error


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The request's head without the empty line, and what came after it. Raises ValueError for one too long."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 14)
        if not more or len(data) > HEAD_LIMIT:
            raise ValueError("no request")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _authority(text: str, port: int) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(text)
    if match is None or not 0 < int(match[2] or port) < 65536:
        raise UserError("The request is refused: its host is not a plain name or address with a port.")
    return match[1], int(match[2] or port)


def _split(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry of the policy; the host of an IPv6 address stands in brackets when it has a port."""
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host.strip("[]").lower(), int(port)
    return entry.strip("[]").lower(), None


def _fits(name: str, port: int, entry: str) -> bool:
    host, only = _split(entry)
    if port != only and (only is not None or port not in (80, 443)):
        return False
    return name.endswith(host[1:]) and len(name) > len(host) - 1 if host.startswith("*.") else name == host


def _refuse(client: socket.socket, code: int, why: str) -> None:
    text = why.encode("utf-8", "replace") + b"\n"
    reason = {403: b"Forbidden", 502: b"Bad Gateway"}[code]
    head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    client.sendall(head % (code, reason, len(text)) + text)
