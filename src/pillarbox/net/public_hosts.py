"""Post to a web service: at an address of the public internet unless allowed otherwise, and without reading all it says.

What is posted is the business of who asks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER_OCTETS = 16_384  # of a web service's answer; the rest is not read
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not of the public internet either, though Python, or an older one, takes them for it: IPv4-compatible, IPv4-translated,
# NAT64 of a network's own, documentation, segment routing, site-local.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "fec0::/10"),
    )
)


class RefusedAddressError(OSError):
    """The name leads to an address that must not be contacted."""


async def pinned_host(url: httpx2.URL, *, allow_private: bool) -> str:
    """The address to connect to, looked up now and checked, so that the name can't change in between. Raises OSError."""
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    allowed = [address for address in addresses if allow_private or is_public(address)]
    if not allowed:
        raise RefusedAddressError(f"{url.host} has no public address")
    return allowed[0]


async def send(client: httpx2.AsyncClient, request: httpx2.Request) -> tuple[httpx2.Response, str]:
    """Send, and read no more of the answer than needed: the answer, and its status and first words.

    Raises httpx2.HTTPError and OSError.
    """
    answer = await client.send(request, stream=True)
    try:
        start = b""
        async for piece in answer.aiter_raw():
            start += piece
            if len(start) >= MAX_ANSWER_OCTETS:
                break
    finally:
        await answer.aclose()
    return answer, f"{answer.status_code} {start[:200].decode('utf-8', 'replace').strip()}".strip()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also when IPv4 is wrapped in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if any(ip in network for network in _NOT_PUBLIC):
            return False
    return ip.is_global and not ip.is_multicast
