"""A web of a few pages for tests: what its servers would send, without a network."""

from __future__ import annotations

import httpx

from openk2.net import SafeTransport
from openk2.tools.web import Web


class Served(httpx.AsyncBaseTransport):
    """A web of a few pages; counts what was asked for."""

    def __init__(self, site: dict[str, tuple[str, bytes]]) -> None:
        self.site, self.asked = site, []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = f"{request.url.scheme}://{request.headers['host']}{request.url.raw_path.decode()}"
        self.asked.append(url)
        if url not in self.site:
            return httpx.Response(404, stream=httpx.ByteStream(b""))
        kind, body = self.site[url]
        return httpx.Response(200, headers={"content-type": kind}, stream=httpx.ByteStream(body))


def site_web(site: dict[str, tuple[str, bytes]]) -> Web:
    """A `Web` that reaches these pages (content type, body) and nothing else."""
    return Web(transport=SafeTransport(resolve=lambda host, port: ["93.184.216.34"], inner=Served(site)))
