"""Talk to programs that look into messages: ClamAV's daemon, and Rspamd.

What follows from their verdicts is `policy.scanner`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING

import httpx2
import msgspec

from pillarbox.policy.hooks import Score
from pillarbox.policy.scanner import ScannerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.policy.hooks import Incoming

_MAX_ANSWER_OCTETS = 1 << 20


class Clamd:
    """ClamAV's daemon. Each message gets a connection of its own, as the daemon wants it."""

    def __init__(self, address: str, limit_s: float) -> None:
        """`address` is "host:port" or "unix:/path"."""
        self._address = address
        self._limit_s = limit_s

    async def find_virus(self, message: Incoming) -> str:
        """The name of the virus that was found, "" for none. Raises ScannerError."""
        try:
            async with asyncio.timeout(self._limit_s):
                answer = await self._scan(message)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ScannerError(f"clamd at {self._address}: {str(error) or type(error).__name__}") from error
        text = answer.decode("utf-8", "replace").rstrip("\0\n ")
        if text.endswith(" FOUND"):
            return text.removesuffix(" FOUND").rpartition(": ")[2] or "a virus"
        if text.endswith("OK"):
            return ""
        raise ScannerError(f"clamd at {self._address} says {text[:200]!r}")

    async def _scan(self, message: Incoming) -> bytes:
        if self._address.startswith("unix:"):
            opening = asyncio.open_unix_connection(self._address.removeprefix("unix:"))
        else:
            host, _, port = self._address.rpartition(":")
            opening = asyncio.open_connection(host.strip("[]"), int(port))
        reader, writer = await opening
        try:
            # it may stop reading in the middle, and says why
            with contextlib.suppress(ConnectionError):
                writer.write(b"zINSTREAM\0")
                async for piece in _pieces(message):
                    writer.write(struct.pack("!I", len(piece)) + piece)
                    await writer.drain()
                writer.write(struct.pack("!I", 0))
                await writer.drain()
            return await reader.readuntil(b"\0")
        finally:
            writer.close()


class _Verdict(msgspec.Struct):
    """What of Rspamd's answer is used."""

    score: float
    action: str = ""


class Rspamd:
    """Rspamd's HTTP interface."""

    def __init__(self, address: str, limit_s: float) -> None:
        """`address` is the URL of a normal worker, without path."""
        self._address = address.rstrip("/")
        self._limit_s = limit_s

    async def score(self, message: Incoming) -> Score:
        """The score of a message. Raises ScannerError."""
        client, envelope = message.client, message.envelope
        headers = [
            ("IP", client.address),
            ("Helo", client.helo),
            ("From", envelope.sender or "<>"),
            *(("Rcpt", recipient.address) for recipient in envelope.recipients[:100]),
        ]
        octets = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers]
        try:
            async with (
                asyncio.timeout(self._limit_s),
                httpx2.AsyncClient(trust_env=False, timeout=self._limit_s) as web,
                web.stream(
                    "POST", f"{self._address}/checkv2", content=_pieces(message), headers=octets
                ) as answer,
            ):
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _MAX_ANSWER_OCTETS:
                        raise ScannerError(f"rspamd at {self._address} gives an answer without end")
            if answer.status_code != httpx2.codes.OK:
                raise ScannerError(f"rspamd at {self._address} answers {answer.status_code}")
            verdict = msgspec.json.decode(body, type=_Verdict)
        except (httpx2.HTTPError, OSError, TimeoutError, msgspec.MsgspecError) as error:
            raise ScannerError(f"rspamd at {self._address}: {str(error) or type(error).__name__}") from error
        return Score(verdict.score, f"rspamd: {verdict.action}")


async def _pieces(message: Incoming) -> AsyncIterator[bytes]:
    """The octets of a message; those of a file are read in a thread."""
    if message.file is None:
        yield message.body or b""
        return
    pieces = message.chunks()
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
