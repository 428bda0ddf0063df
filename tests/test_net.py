"""What may be reached: addresses in every disguise, names that change their mind, redirects, bombs."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from openk2 import net
from openk2.net import Refused, SafeTransport, addresses, checked, get, host_name, is_public

PUBLIC = "93.184.216.34"

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.8.9.1", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.9.9",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:93.184.216.34", "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:0:53aa:64c:0:fbfe:ff00:1", "2001:db8::1", "2002:7f00:1::",
    "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip
IS_PUBLIC = ["1.1.1.1", PUBLIC, "100.63.255.255", "100.128.0.0", "172.32.0.1", "198.20.0.1", "2606:4700::1111",
             "2a00:1450:4001:82a::200e"]  # fmt: skip


def resolver(*answers: Sequence[str]) -> Callable[[str, int], Sequence[str]]:
    """A resolver that changes its mind: each question gets the next answer, and the last one again."""
    left = list(answers)
    return lambda host, port: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_written_out_and_behind_a_name(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(Refused, match="not on the public web"):
        addresses(address, 443)
    with pytest.raises(Refused, match="not on the public web"):
        addresses("innocent.example", 443, resolve=resolver([address]))
    with pytest.raises(Refused):
        addresses(f"[{address}]" if ":" in address else f"{address}.", 80)
    assert addresses("mixed.example", 443, resolve=resolver([address, PUBLIC])) == [PUBLIC]


@pytest.mark.parametrize("address", IS_PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert addresses(address, 443) == [address] == addresses("a.example", 80, resolve=resolver([address]))


DISGUISED = [
    "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "0x7f.1", "127.0.0.1.nip.0x1", "1",
    "017700000001", "00000127.0.0.1", "4294967297", "127.0.0.0x1", "0", "0x", "1.2.3.4.5", "256.1.1.1", "0xA9FEA9FE",
]  # fmt: skip


@pytest.mark.parametrize("host", DISGUISED)
def test_an_address_in_disguise_is_refused_whatever_a_resolver_makes_of_it(host: str) -> None:
    for name in (host, f"{host}."):
        with pytest.raises(Refused, match=r"disguised|not a valid"):
            addresses(name, 80, resolve=resolver([PUBLIC]))
        with pytest.raises(Refused):
            checked(f"http://{name}/")


@pytest.mark.parametrize("host", ["①②⑦.⓪.⓪.①", "127。0。0。1", "127.0.0.1", "ⓛocalhost", "localhost。"])
def test_other_scripts_are_read_as_what_they_mean(host: str) -> None:
    with pytest.raises(Refused):
        addresses(host, 80, resolve=lambda name, _: ["127.0.0.1"] if name == "localhost" else pytest.fail(name))


@pytest.mark.parametrize(
    "host",
    ["", ".", "..", "a..b", "a b", "a\0b.example", "a\nb", "a\x7f", "user@host", "a%00b", "fe80::1%eth0", "a/b", "a\\b",
     "a?b", "a#b", "-a.example", "x" * 64, ".".join(["abcdefg"] * 40), "[::1", "::1]", "[a]b", "a\u2028b", "\u200b"],
)  # fmt: skip
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(Refused):
        addresses(host, 80, resolve=resolver([PUBLIC]))


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "gopher://a.example/", "ftp://a.example/", "data:text/html,x", "javascript:alert(1)",
     "//a.example/", "a.example", "", "http://", "http:///x", "https://user:pass@a.example/",
     "http://a.example@127.0.0.1/", "http://127.0.0.1\\@a.example/", "http://a.example/\r\nX: y", "http://a.example/\0",
     "http://a.exa mple/",
     "http://%31%32%37.0.0.1/", "http://a.example:port/", "http://a.example:99999/", "http://[::1",
     "http://a.example/" + "x" * 5000, "unix:/run/docker.sock", "http+unix://x/", "http://@a.example/"],
)  # fmt: skip
def test_what_is_no_url_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        checked(url)


def test_one_spelling() -> None:
    assert str(checked(" https://EXAMPLE.com./a?q=ü#part ")) == "https://example.com/a?q=%C3%BC"
    assert host_name("BÜCHER.example") == "xn--bcher-kva.example"
    assert host_name("[2606:4700::1111]") == "2606:4700::1111"
    assert str(checked("https://bücher.example/")) == "https://xn--bcher-kva.example/"


def test_ports_and_what_a_person_allowed() -> None:
    for port in (22, 25, 6379, 8080, 11211):
        with pytest.raises(Refused, match="port"):
            addresses("a.example", port, resolve=resolver([PUBLIC]))
    local = resolver(["127.0.0.1"])
    assert addresses("localhost", 8080, ["localhost:8080"], local) == ["127.0.0.1"]
    assert addresses("LOCALHOST.", 8080, ["localhost"], local) == ["127.0.0.1"]
    assert addresses("::1", 9, ["[::1]:9"]) == ["::1"]
    for allow in (["localhost:8081"], ["notlocalhost"], ["localhost.evil.example"], [""], ["127.0.0.1:8080"]):
        with pytest.raises(Refused):
            addresses("localhost", 8080, allow, local)
    with pytest.raises(Refused, match="not found"):
        addresses("nowhere.example", 443, resolve=fails)


def fails(host: str, port: int) -> list[str]:
    raise OSError("Name or service not known")


# ------------------------------------------------------------------------------------------------ connections


class Recorded(httpx.AsyncBaseTransport):
    """What would be sent, and to which address."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.seen = list(answers), []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        answer.request = request
        return answer


def page(text: str = "hello") -> httpx.Response:
    return httpx.Response(200, stream=httpx.ByteStream(text.encode()), headers={"content-type": "text/plain"})


def fetch(url: str, transport: httpx.AsyncBaseTransport, **more: object) -> net.Fetched:
    return asyncio.run(get(url, transport, **more))  # type: ignore[arg-type]


def test_the_connection_goes_to_the_judged_address_with_the_names_host_and_sni() -> None:
    inner = Recorded(page())
    rebinding = resolver([PUBLIC], ["127.0.0.1"])
    assert fetch("https://a.example/x?y=1", SafeTransport(resolve=rebinding, inner=inner)).body == b"hello"
    (sent,) = inner.seen
    assert str(sent.url) == f"https://{PUBLIC}/x?y=1" and sent.extensions["sni_hostname"] == "a.example"
    assert sent.headers["host"] == "a.example" and "cookie" not in sent.headers and "authorization" not in sent.headers


def test_a_name_that_changes_its_mind_before_the_redirect_is_refused() -> None:
    inner = Recorded(httpx.Response(302, headers={"location": "/again"}), page())
    with pytest.raises(Refused, match="not on the public web"):
        fetch("https://a.example/", SafeTransport(resolve=resolver([PUBLIC], ["169.254.169.254"]), inner=inner))
    assert len(inner.seen) == 1


@pytest.mark.parametrize(
    "place",
    ["http://127.0.0.1/", "//localhost/", "http://[::ffff:10.0.0.1]/", "file:///etc/passwd", "http://2130706433/",
     "https://b.example:22/", "http://x@b.example/", "javascript:1", "http://"],
)  # fmt: skip
def test_every_redirect_is_judged(place: str) -> None:
    inner = Recorded(httpx.Response(302, headers={"location": place}), page())
    by_name = {"a.example": [PUBLIC], "b.example": [PUBLIC], "localhost": ["127.0.0.1"]}
    with pytest.raises(Refused):
        fetch("https://a.example/", SafeTransport(resolve=lambda host, _: by_name[host], inner=inner))
    assert len(inner.seen) == 1


def test_redirects_end_and_the_last_url_is_told() -> None:
    def answers(count: int) -> Recorded:
        return Recorded(*[httpx.Response(301, headers={"location": f"/{n}"}) for n in range(count)], page())

    safe = resolver([PUBLIC])
    cookie = Recorded(httpx.Response(302, headers={"location": "/b", "set-cookie": "a=1"}), page())
    assert fetch("https://a.example/", SafeTransport(resolve=safe, inner=cookie)).url == "https://a.example/b"
    assert "cookie" not in cookie.seen[1].headers
    assert fetch("https://a.example/", SafeTransport(resolve=safe, inner=answers(5))).url == "https://a.example/4"
    with pytest.raises(Refused, match="redirects more than 5 times"):
        fetch("https://a.example/", SafeTransport(resolve=safe, inner=answers(6)))


def test_the_next_address_is_tried_and_an_error_is_a_sentence() -> None:
    inner = Recorded(httpx.ConnectError("refused"), page())
    both = SafeTransport(resolve=resolver(["1.1.1.1", PUBLIC]), inner=inner)
    assert fetch("http://a.example/", both).body == b"hello"
    gone = SafeTransport(resolve=resolver(["1.1.1.1"]), inner=Recorded(httpx.ConnectError("refused")))
    with pytest.raises(Refused, match="could not be read"):
        fetch("http://a.example/", gone)


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with server(lambda handler: answer(handler, b"direct")) as port:
        found = fetch(f"http://127.0.0.1:{port}/", SafeTransport([f"127.0.0.1:{port}"]))
    assert found.body == b"direct"


def test_through_a_proxy_that_a_person_set_names_are_judged_by_their_form() -> None:
    inner = Recorded(page(), page())
    transport = SafeTransport(["intranet.corp"], inner=inner, proxy="http://proxy.example:3128", resolve=fails)
    assert fetch("https://a.example/x", transport).body == b"hello" == fetch("http://intranet.corp/", transport).body
    assert [str(sent.url) for sent in inner.seen] == ["https://a.example/x", "http://intranet.corp/"]
    for url in ("http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://wiki.corp/", "http://a.example:22/",
                "http://metadata.google.internal/", "http://2130706433/", "http://printer.local/"):  # fmt: skip
        with pytest.raises(Refused, match="refused"):
            fetch(url, transport)
    assert len(inner.seen) == 2


# ------------------------------------------------------------------------------------------------ a real server


@contextmanager
def server(serve: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                serve(self)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield made.server_address[1]
    finally:
        made.shutdown()
        made.server_close()


def answer(handler: BaseHTTPRequestHandler, body: bytes, **headers: str) -> None:
    handler.send_response(200)
    for key, value in {"content_type": "text/html; charset=UTF-8", **headers}.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_local_server_is_reached_only_where_allowed() -> None:
    hosts: list[str] = []

    def serve(handler: BaseHTTPRequestHandler) -> None:
        hosts.append(handler.headers["host"])
        answer(handler, b"<p>hi</p>")

    with server(serve) as port:
        local = resolver(["127.0.0.1"])
        found = fetch(f"http://local.example:{port}/", SafeTransport([f"local.example:{port}"], local))
        assert (found.body, found.content_type, found.charset) == (b"<p>hi</p>", "text/html", "utf-8")
        assert hosts == [f"local.example:{port}"]
        for url in (f"http://local.example:{port}/", f"http://127.0.0.1:{port}/", f"http://[::ffff:7f00:1]:{port}/"):
            with pytest.raises(Refused):
                fetch(url, SafeTransport(resolve=local))
        assert len(hosts) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "identity", "gzip, gzip", "br"])
def test_compression_and_bombs(encoding: str) -> None:
    def packed(text: bytes) -> bytes:
        if encoding == "raw deflate":
            pack = zlib.compressobj(wbits=-15)
            return pack.compress(text) + pack.flush()
        return {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, lambda x: x)(text)

    small, bomb = packed(b"hello " * 100), packed(bytes(64 << 20))
    header = encoding.removeprefix("raw ")

    def serve(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, bomb if handler.path == "/bomb" else small, content_encoding=header)

    with server(serve) as port:
        place, allow = f"http://127.0.0.1:{port}/", [f"127.0.0.1:{port}"]
        if encoding in ("gzip, gzip", "br"):
            with pytest.raises(Refused, match="not asked for"):
                fetch(place, SafeTransport(allow))
            return
        assert fetch(place, SafeTransport(allow)).body == b"hello " * 100
        with pytest.raises(Refused, match="larger than 1 MB"):
            fetch(f"{place}bomb", SafeTransport(allow), max_bytes=1 << 20)


def test_a_server_that_drips_is_left_in_time() -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/plain")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b".")
            time.sleep(0.05)

    with server(drip) as port:
        begin = time.monotonic()
        with pytest.raises(Refused, match=r"more than 0.3 seconds"):
            fetch(f"http://127.0.0.1:{port}/", SafeTransport([f"127.0.0.1:{port}"]), seconds=0.3)
        assert time.monotonic() - begin < 3


def test_types_statuses_and_damage() -> None:
    def serve(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/missing":
            handler.send_error(404, "Gone fishing")
        elif handler.path == "/damaged":
            answer(handler, b"no gzip at all", content_encoding="gzip")
        else:
            answer(handler, b"x", content_type="application/zip")

    with server(serve) as port:
        place, allow = f"http://127.0.0.1:{port}", [f"127.0.0.1:{port}"]
        for path, says in (("/zip", "application/zip, which is not read"), ("/missing", "404 Gone fishing"),
                           ("/damaged", "is damaged")):  # fmt: skip
            with pytest.raises(Refused, match=says):
                fetch(place + path, SafeTransport(allow), types=("text/",))
