"""Answer an authority that wants to see that a name is ours: by HTTP (RFC 8555 8.3) or in a TLS handshake (RFC 8737).

What to show lies in a folder, so that any worker can answer, whichever asked for the certificate.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING, cast

from pillarbox.net.arrivals import Arrivals
from pillarbox.net.listener import listen

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from pillarbox.net.listener import Connections, Listener

_PATH = "/.well-known/acme-challenge/"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?")
_LIMIT_S = 5.0
_MAX_OCTETS = 8192  # of a request
_MAX_OPEN = 200  # an authority asks from a handful of places
_ALPN = "acme-tls/1"


def token_file(folder: Path, token: str) -> Path:
    """Where the answer for a token lies. Raises ValueError for what is none."""
    if not _TOKEN.fullmatch(token):
        raise ValueError("not a token")
    return folder / token


def name_file(folder: Path, name: str) -> Path:
    """Where the certificate that answers for a name lies. Raises ValueError for what is none."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError("not a host name")
    return folder / f"{name}.pem"


async def answer(
    bound: socket.socket, kind: str, folder: Path, connections: Connections
) -> Listener | Arrivals:
    """Answer challenges of this kind on a socket, from what lies in `folder`."""
    if kind == "http-01":
        open_now: set[HttpAnswers] = set()
        return await listen(bound, lambda: HttpAnswers(folder, open_now))
    context = _answering_context(folder)
    return Arrivals(bound, lambda _peer: TlsAnswers(), connections, tls=lambda: context)


class HttpAnswers(asyncio.Protocol):
    """One request for one token; anything else is not found. The file is tiny: it is read in the loop."""

    def __init__(self, folder: Path, open_now: set[HttpAnswers]) -> None:
        """`folder` has a file for each token; `open_now` are all connections of this kind."""
        self._folder = folder
        self._open = open_now
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request, not long; one too many is cut off."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._open) >= _MAX_OPEN:
            self._transport.abort()
        self._open.add(self)
        self._timer = asyncio.get_running_loop().call_later(_LIMIT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once the request is there; its body, if any, does not matter."""
        self._read += data
        if b"\r\n\r\n" not in self._read and len(self._read) < _MAX_OCTETS:
            return
        method, _, rest = self._read.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        path = rest.split(" ")[0]
        found = self._find(path.removeprefix(_PATH)) if path.startswith(_PATH) else None
        if found is None or method not in ("GET", "HEAD"):
            self._say("404 Not Found", b"nothing here\n", method)
        else:
            self._say("200 OK", found, method)

    def _find(self, token: str) -> bytes | None:
        try:
            return token_file(self._folder, token).read_bytes()
        except (OSError, ValueError):
            return None

    def _say(self, status: str, body: bytes, method: str) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + (b"" if method == "HEAD" else body))
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Nothing is left to do."""
        self._open.discard(self)
        self._timer.cancel()


class TlsAnswers(asyncio.Protocol):
    """The handshake was the answer: nothing is said after it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hang up."""
        transport.close()


def _answering_context(folder: Path) -> ssl.SSLContext:
    """A context that shakes hands for names whose certificate lies in `folder`, and for no others."""

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        context = _speaks_acme()
        try:
            context.load_cert_chain(name_file(folder, (name or "").lower()))
        except (OSError, ValueError):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None

    context = _speaks_acme()
    context.sni_callback = choose
    return context


def _speaks_acme() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([_ALPN])
    return context


def answer_in_handshake(name: str, authorization: str) -> bytes:
    """The certificate, with its key, that a handshake for `name` has to show (RFC 8737 3)."""
    import hashlib  # noqa: PLC0415 - only who asks for a certificate needs these
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")])
    now = datetime.now(UTC)
    digest = hashlib.sha256(authorization.encode()).digest()
    proof = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"), b"\x04\x20" + digest)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(proof, critical=True)
        .sign(key, hashes.SHA256())
    )
    octets = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return octets + made.public_bytes(serialization.Encoding.PEM)
