"""What of the network may be reached on a model's behalf: public web servers, and what a person allowed by name.

A model, or a page it has read, chooses the URLs. So a name is resolved once, every address is judged, and the
connection goes to the judged address, not to the name again (DNS rebinding). Every redirect is judged anew. There are
no cookies and no credentials; bytes (after decompression) and seconds are capped.

Address blocks: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import httpx

from openk2.errors import UserError

PORTS = (80, 443)
LOCAL_NAMES = (".localhost", ".local", ".internal", ".intranet", ".lan", ".home", ".corp", ".home.arpa", ".localdomain")
MAX_REDIRECTS = 5
MAX_BYTES = 20 << 20  # of a body, after decompression
SECONDS = 30.0  # for one fetch with all its redirects
READ_SECONDS = 10.0  # for one read of the socket
AGENT = "openk2 (research agent; reads pages for one person)"
Resolve = Callable[[str, int], Sequence[str]]  # host, port -> addresses; raises OSError

_NOT_PUBLIC = [
    ipaddress.ip_network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "2001::/23",  # IETF protocols, Teredo among them
        "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",  # documentation, 6to4, AS112
    )
]  # fmt: skip
# All that is public in IPv6. Outside: loopback, mapped and compatible IPv4, NAT64, unique local, link-local, multicast.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ufeff]")


class Refused(UserError):
    """An address, a URL or an answer that is not for a model; the sentence says why."""


def is_public(address: str) -> bool:
    """Whether an IP address in its usual form belongs to the public internet."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    return not any(ip.version == block.version and ip in block for block in _NOT_PUBLIC)


def host_name(host: str) -> str:
    """The one spelling of a host: lower-case ASCII, no final dot, no brackets. Raises Refused for what hides one."""
    name = host.strip("[]") if host.startswith("[") and host.endswith("]") else host
    if not name or _FORBIDDEN.search(name) or any(sign in name for sign in "%@/?#<>\"'`{}|^"):
        raise Refused(f"The host {host!r} is refused: it holds a character that no host name has.")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not name.isascii():
        try:
            import idna

            name = idna.encode(name, uts46=True).decode("ascii")
        except (UnicodeError, ValueError):
            raise Refused(f"The host {host!r} is refused: it is not a valid international name.") from None
    name = name.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused(f"The host {host!r} is refused: it is not a valid name.")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):  # WHATWG URL, "ends in a number": an address for some readers
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise Refused(f"The host {host!r} is refused: it is an address in a disguised form.") from None
    return name


def system_resolver(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_allowed(host: str, port: int, allow: Sequence[str]) -> bool:
    """Whether a person named this place: `host` (any port) or `host:port`, `[v6]:port` for an IPv6 address."""
    shown = f"[{host}]" if ":" in host else host
    return any(entry.lower() in (host, shown, f"{shown}:{port}") for entry in allow)


def addresses(host: str, port: int, allow: Sequence[str] = (), resolve: Resolve = system_resolver) -> list[str]:
    """The addresses of `host` that may be connected to: its public ones, or all where `allow` names the place.

    The name is resolved once: connect to what this returns, never to the name. Raises Refused with the reason.
    """
    name = host_name(host)
    allowed = is_allowed(name, port, allow)
    if not allowed and port not in PORTS:
        raise Refused(f"The port {port} of {name} is refused: only {' and '.join(map(str, PORTS))} are reached.")
    try:
        found = [name] if _is_address(name) else [a for a in resolve(name, port) if _is_address(a)]
    except (OSError, UnicodeError) as error:
        raise Refused(f"The host {name} was not found ({getattr(error, 'strerror', None) or error}).") from None
    usable = found if allowed else [address for address in found if is_public(address)]
    if not usable:
        raise Refused(f"The host {name} is refused: it is {', '.join(found[:3]) or 'nowhere'}, not on the public web.")
    return usable


def _judge_name(name: str, port: int, allow: Sequence[str]) -> None:
    """What can be said of a name that somebody else resolves. Raises Refused."""
    if is_allowed(name, port, allow):
        return
    if port not in PORTS:
        raise Refused(f"The port {port} of {name} is refused: only {' and '.join(map(str, PORTS))} are reached.")
    if "." not in name or name.endswith(LOCAL_NAMES):
        raise Refused(f"The host {name} is refused: it is a name of a local network.")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone is of this machine


def checked(url: str | httpx.URL) -> httpx.URL:
    """`url` in one spelling, with a host that `host_name` accepts. Raises Refused; resolves nothing."""
    text = str(url).strip()
    if len(text) > 4096 or _FORBIDDEN.search(text):
        raise Refused("The URL is refused: it holds blanks or control characters, or is longer than 4096 characters.")
    try:
        parsed = httpx.URL(text)
        port = parsed.port
        if port is not None and not 0 < port < 65536:
            raise ValueError(port)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise Refused(f"{text[:200]!r} is not a valid URL.") from None
    if parsed.scheme not in ("http", "https"):
        raise Refused(f"The URL {text[:200]} is refused: only http and https are read.")
    if parsed.userinfo or "@" in text.partition("://")[2].partition("/")[0]:
        raise Refused("The URL is refused: it carries a user name or password.")
    if not parsed.host:
        raise Refused(f"The URL {text[:200]} has no host.")
    name = host_name(parsed.host)
    return httpx.URL(scheme=parsed.scheme, host=name, port=port, raw_path=parsed.raw_path)


def port_of(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


class SafeTransport(httpx.AsyncBaseTransport):
    """An httpx transport that connects to judged addresses only. Host header, SNI and certificate stay the name's.

    `inner` makes the connection. Connections are not kept: one to an address would be reused for another name there.
    `proxy`: a way out that a person has set (the environment's is ignored). It resolves the names itself, so here only
    their form is judged: written addresses as always, and names that mean a local network are refused.
    """

    def __init__(
        self,
        allow: Sequence[str] = (),
        resolve: Resolve = system_resolver,
        inner: httpx.AsyncBaseTransport | None = None,
        proxy: str | None = None,
    ) -> None:
        self.allow, self.resolve, self.proxied = tuple(allow), resolve, proxy is not None
        self.inner = inner or httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0), proxy=proxy)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = checked(request.url)
        if self.proxied and not _is_address(url.host):
            _judge_name(url.host, port_of(url), self.allow)
            return await self.inner.handle_async_request(request)
        places = await asyncio.to_thread(addresses, url.host, port_of(url), self.allow, self.resolve)
        headers = [(key, value) for key, value in request.headers.raw if key.lower() != b"host"]
        failure: Exception | None = None
        for address in places[:4]:
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=[(b"Host", url.netloc), *headers],
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": url.host},
            )
            try:
                return await self.inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass(frozen=True, slots=True)
class Fetched:
    url: str  # the last one, after redirects
    content_type: str  # lower-case, without parameters
    charset: str  # as the server says; empty where it does not
    body: bytes


async def get(
    url: str,
    transport: httpx.AsyncBaseTransport,
    *,
    types: Sequence[str] = (),
    max_bytes: int = MAX_BYTES,
    seconds: float = SECONDS,
) -> Fetched:
    """GET a URL. `types`: beginnings of the content types that are read; empty reads all. Raises Refused.

    Where the server declares no type, the body is read: its reader looks at what it is.
    """
    place = url
    try:
        async with asyncio.timeout(seconds):
            for _ in range(MAX_REDIRECTS + 1):
                target = checked(place)
                response = await transport.handle_async_request(_request(target))
                try:
                    if response.is_redirect:
                        place = _redirected(target, response)
                        continue
                    return await _read(target, response, types, max_bytes)
                finally:
                    await response.aclose()
            raise Refused(f"{url} is refused: it redirects more than {MAX_REDIRECTS} times.")
    except TimeoutError:
        raise Refused(f"{url} was not read: it took more than {seconds:g} seconds.") from None
    except httpx.HTTPError as error:
        raise Refused(f"{place} could not be read ({type(error).__name__}: {error}).") from None


def _request(target: httpx.URL) -> httpx.Request:
    headers = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "gzip, deflate", "Connection": "close"}
    limits = {"connect": READ_SECONDS, "read": READ_SECONDS, "write": READ_SECONDS, "pool": READ_SECONDS}
    return httpx.Request("GET", target, headers=headers, extensions={"timeout": limits})


def _redirected(target: httpx.URL, response: httpx.Response) -> str:
    try:
        return str(target.join(response.headers["location"]))
    except (httpx.InvalidURL, ValueError):
        raise Refused(f"{target} redirects to something that is not a URL.") from None


async def _read(target: httpx.URL, response: httpx.Response, types: Sequence[str], max_bytes: int) -> Fetched:
    if response.status_code >= 400:
        raise Refused(f"{target} answered {response.status_code} {response.reason_phrase}.")
    declared = response.headers.get("content-type", "")
    kind = declared.partition(";")[0].strip().lower()
    if types and kind and not kind.startswith(tuple(types)):
        raise Refused(f"{target} is {kind}, which is not read.")
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", declared, re.IGNORECASE)
    body = b"".join([piece async for piece in _decoded(target, response, max_bytes)])
    return Fetched(str(target), kind, charset[1].lower() if charset else "", body)


async def _decoded(target: httpx.URL, response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """The body, decompressed a bounded piece at a time, so that a bomb is stopped before it is memory."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise Refused(f"{target} is compressed as {encoding!r}, which was not asked for.")
    unpack = None if encoding in ("identity", "") else zlib.decompressobj(47 if "gzip" in encoding else 15)
    left = max_bytes
    begun = False
    async for raw in response.aiter_raw():
        while raw:
            if unpack is None:
                piece, raw = raw, b""
            else:
                try:
                    piece = unpack.decompress(raw, left + 1)
                except zlib.error as error:
                    if encoding != "deflate" or begun:
                        raise Refused(f"{target} is damaged ({error}).") from None
                    unpack = zlib.decompressobj(-15)  # "deflate" is raw from some servers
                    continue
                raw = b"" if unpack.eof else unpack.unconsumed_tail
            begun = True
            left -= len(piece)
            if left < 0:
                raise Refused(f"{target} is refused: it is larger than {max_bytes >> 20} MB.")
            yield piece
