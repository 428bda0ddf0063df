"""The network of a box: by default none, else the proxy and nothing but what the policy names."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openk2 import net
from openk2.sandbox import bwrap
from openk2.sandbox.box import Box, NoBoundary
from openk2.sandbox.policy import Policy
from openk2.sandbox.proxy import Proxy, _fits


class Server:
    """Answers every request with its first bytes, and remembers them."""

    def __init__(self):
        self.heard: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listening.accept()
            with client:
                self.heard.append(client.recv(4096))
                answer = b"heard " + self.heard[-1][:60]
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield Server()


def ask(network: tuple[str, ...] | str, request: bytes) -> bytes:
    """What a proxy answers to one connection."""
    control, ours = socket.socketpair()
    Proxy(control, network).start()  # type: ignore[arg-type]
    client, theirs = socket.socketpair()
    socket.send_fds(ours, [b"c"], [theirs.fileno()])
    theirs.close()
    client.sendall(request)
    client.settimeout(5)
    answer = b""
    while data := client.recv(4096):
        answer += data
    ours.close()
    return answer


def test_a_named_server_is_reached_with_its_own_host_line(server: Server):
    where = f"127.0.0.1:{server.port}"
    lines = ["GET http://WHERE/a?b HTTP/1.1", "Host: evil.example", "Proxy-Authorization: x", "A: b", "", ""]
    request = "\r\n".join(lines).replace("WHERE", where).encode()
    assert b"heard GET /a?b HTTP/1.1" in ask((where,), request)
    assert server.heard[-1] == f"GET /a?b HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\nA: b\r\n\r\n".encode()
    tunnel = ask((where,), f"CONNECT {where} HTTP/1.1\r\n\r\nhello".encode())
    assert tunnel.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK")
    assert server.heard[-1] == b"hello"


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT 127.0.0.1:80 HTTP/1.1", b"CONNECT other.example:443 HTTP/1.1", b"GET http://[::1]/ HTTP/1.1",
        b"CONNECT named.example\0.other:443 HTTP/1.1", b"GET http://named.example@127.0.0.1/ HTTP/1.1",
        b"CONNECT named.example:22 HTTP/1.1", b"GET ftp://named.example/ HTTP/1.1", b"GET / HTTP/1.1",
        b"GET http://named.example/ HTTP/1.1\r\nX: a\nY: b", b"CONNECT named.example:99999 HTTP/1.1", b"\x16\x03\x01",
    ],
)  # fmt: skip
def test_all_else_is_refused(line: bytes):
    assert ask(("named.example",), line + b"\r\n\r\n").startswith(b"HTTP/1.1 403 ")


def test_a_name_that_changes_its_address(server: Server, monkeypatch: pytest.MonkeyPatch):
    """Resolved once; what is private is refused, also for a named host, and the checked address is what is dialled."""
    asked, dialled = [], []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        address = "93.184.216.34" if len(asked) % 2 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def dial(where: tuple[str, int], *_: object) -> socket.socket:
        dialled.append(where)
        raise OSError("no internet in tests")

    monkeypatch.setattr(net.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", dial)
    request = b"CONNECT named.example:443 HTTP/1.1\r\n\r\n"
    assert ask(("named.example",), request).startswith(b"HTTP/1.1 502 ") and dialled == [("93.184.216.34", 443)]
    assert ask(("named.example",), request).startswith(b"HTTP/1.1 403 ") and len(dialled) == 1
    assert asked == ["named.example"] * 2


def test_patterns():
    assert _fits("a.example.org", 443, "*.example.org") and not _fits("example.org", 443, "*.example.org")
    assert not _fits("evilexample.org", 443, "*.example.org") and not _fits("example.org.evil", 443, "example.org")
    assert _fits("h", 8080, "h:8080") and not _fits("h", 80, "h:8080") and not _fits("h", 8080, "h")
    assert _fits("::1", 8080, "[::1]:8080") and _fits("::1", 80, "::1")


@pytest.mark.skipif(bwrap.binary() is None, reason="bubblewrap is not installed")
def test_from_inside_the_box(server: Server, tmp_path: Path):
    where = f"127.0.0.1:{server.port}"
    with Box(tmp_path / "w", Policy(network=(where,), processes=16)) as box:
        code = f"import urllib.request as u\nu.urlopen('http://{where}/path').read()[:20]"
        assert box.call(code).text == "b'heard GET /path HTTP'"
        assert box.call("u.urlopen('http://169.254.169.254/')").text.endswith("HTTP Error 403: Forbidden")
        assert "PermissionError" in box.call("import socket; socket.socket(socket.AF_UNIX)").text
        assert "PermissionError" in box.call("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)").text
        own = box.call(f"socket.create_connection(('127.0.0.1', {server.port}), 1)")  # of the box itself
        assert "refused" in own.text


def test_landlock_opens_no_network(tmp_path: Path):
    with pytest.raises(NoBoundary, match="bubblewrap can"):
        Box(tmp_path / "w", Policy(network="public"), "landlock+seccomp+rlimits").call("1")
