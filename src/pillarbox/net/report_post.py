"""Post a TLS report to the web service that a domain named (RFC 8460 3, 5.4): public addresses only.

Whether and when reports are sent is the business of `inbound.reporting`.
"""

from __future__ import annotations

import asyncio
import ssl

import httpx2

from pillarbox.net.public_hosts import pinned_host, send

_LIMIT_S = 60.0


async def post_report(url: str, octets: bytes, *, ca_file: str = "", allow_private: bool = False) -> str:
    """Post a packed report; "" if it was taken, else why not. Never raises for what the other side does."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await _post(httpx2.URL(url), octets, ca_file, allow_private=allow_private)
    except TimeoutError:
        return f"no answer within {_LIMIT_S:g} seconds"
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return str(error) or type(error).__name__


async def _post(url: httpx2.URL, octets: bytes, ca_file: str, *, allow_private: bool) -> str:
    if url.scheme != "https" or not url.host or url.userinfo:
        return "not a URL to post to"
    host = await pinned_host(url, allow_private=allow_private)
    context = ssl.create_default_context(cafile=ca_file or None)
    async with httpx2.AsyncClient(
        verify=context, timeout=_LIMIT_S, trust_env=False, follow_redirects=False
    ) as client:
        request = client.build_request(
            "POST",
            url.copy_with(host=host),
            headers={
                "Host": url.netloc.decode("ascii"),
                "User-Agent": "Pillarbox",
                "Content-Type": "application/tlsrpt+gzip",
                "Accept-Encoding": "identity",
            },
            content=octets,
            extensions={"sni_hostname": url.host},  # the certificate must still be the name's
        )
        answer, said = await send(client, request)
    return "" if 200 <= answer.status_code < 300 else said
