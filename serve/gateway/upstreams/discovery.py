"""Finds the servers of a name in DNS: a name with several addresses stands for all of them."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from serve.gateway.upstreams.server_pool import Address, ServerPool

REFRESH_S = 3.0
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name. Raises OSError where it is not known."""


async def resolve(host: str) -> list[str]:
    """The addresses of a host name by the system's resolver, in a thread. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def find_servers(url: str, resolve: Resolve = resolve) -> list[Address]:
    """The servers of an address. Raises OSError for a name that is not known.

    A name with one address stays a name, and so does one in https://, whose certificate is for the name. Of a host with
    addresses of both kinds only those of IPv4 count: they are the same server.
    """
    parts = urlsplit(url)
    if not _has_name(url):
        return [Address(url=url)]
    numbers = sorted(
        {ipaddress.ip_address(text.partition("%")[0]) for text in await resolve(parts.hostname or "")}, key=str
    )
    numbers = [number for number in numbers if number.version == 4] or numbers
    if len(numbers) <= 1:
        return [Address(url=url)]
    port = f":{parts.port}" if parts.port else ""
    hosts = [f"[{number}]" if number.version == 6 else str(number) for number in numbers]
    return [Address(url=f"http://{host}{port}{parts.path}", host=parts.netloc) for host in hosts]


def _has_name(url: str) -> bool:
    """Whether ``url`` is http:// with a name that DNS may know several addresses of."""
    parts = urlsplit(url)
    try:
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return parts.scheme == "http"
    return False


class Discovery:
    """Keeps the pool's servers at what the names of ``urls`` stand for. While a name is not known, they stay."""

    def __init__(self, urls: Sequence[str], pool: ServerPool, resolve: Resolve = resolve) -> None:
        self._pool, self._resolve = pool, resolve
        self._addresses = {url: [Address(url=url)] for url in urls}

    async def run(self, is_needed: Callable[[], bool]) -> None:
        """Look the names up every few seconds while ``is_needed``; return at once where there is no name."""
        while any(map(_has_name, self._addresses)) and is_needed():
            await self.refresh(is_needed)
            await asyncio.sleep(REFRESH_S)

    async def refresh(self, is_needed: Callable[[], bool] = lambda: True) -> None:
        """Look all names up once, and list what they stand for if that is still needed then."""
        for url in self._addresses:
            try:
                self._addresses[url] = await find_servers(url, self._resolve)
            except (OSError, UnicodeError):  # the latter for what can be no name
                continue
        if is_needed():
            self._pool.update(address for addresses in self._addresses.values() for address in addresses)
