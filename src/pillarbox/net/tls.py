"""Make the TLS contexts of the listeners, and renew their certificates while they are in use.

What a session may do without TLS is the business of `smtp.server`; connections to other hosts make their own contexts.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class TlsSettings(Settings, frozen=True):
    """The certificate of the listeners; without it none offers TLS."""

    certificate: str = ""
    """File with the certificate chain in PEM."""
    key: str = ""
    """File with the private key in PEM."""
    client_ca: str = ""
    """File with the certificates of those who issue certificates to users. Submission listeners then ask clients for
    one, and who shows it may log in by EXTERNAL as the mail address in it."""
    max_handshakes: int = 100
    """Handshakes after STARTTLS that may go on at once; further ones are put off (454)."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest TLS that is good enough. A client that knows only an older one may shake hands with 1.2, and is then told
    why it is refused (554)."""

    def is_too_weak(self, version: str) -> bool:
        """Whether a session that ended up with this version of TLS, such as "TLSv1.3", is not good enough."""
        return version.removeprefix("TLSv") < self.min_version


class ListenerContext(ssl.SSLContext):
    """A context that knows the hash of its certificate, which SCRAM can bind a login to."""

    end_point: bytes = b""


class Handshakes:
    """Counts the handshakes that go on."""

    def __init__(self, most: int) -> None:
        """There should be at most `most`."""
        self._most = most
        self._going_on = 0

    @property
    def full(self) -> bool:
        """Whether there are as many as there should be."""
        return self._going_on >= self._most

    def __enter__(self) -> None:
        """One begins."""
        self._going_on += 1

    def __exit__(self, *_error: object) -> None:
        """One has ended."""
        self._going_on -= 1


def server_context(settings: TlsSettings, *, asks_client: bool = False) -> ListenerContext | None:
    """A context for listeners: TLS 1.2 and later; None if there is no certificate.

    With `asks_client` the client may show a certificate of `client_ca`; one of another authority is refused. Raises ValueError, which names the file that can't be used.
    """
    if not settings.certificate:
        return None
    context = _new_context()
    chain = _read("certificate", settings.certificate)
    _read("key", settings.key)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        problem = f"{settings.certificate} and {settings.key} cannot be used together: {error}"
        raise ValueError(f"tls: {problem}") from error
    context.end_point = _end_point(chain)
    if asks_client:
        ask_client(context, settings)
    return context


def ask_client(context: ssl.SSLContext, settings: TlsSettings) -> None:
    """Let a context ask clients for certificates, if it is set which to trust. Raises ValueError."""
    if not settings.client_ca:
        return
    _read("client_ca", settings.client_ca)
    try:
        context.load_verify_locations(settings.client_ca)
    except ssl.SSLError as error:
        raise ValueError(f"tls.client_ca: {settings.client_ca} holds no certificates: {error}") from error
    context.verify_mode = ssl.CERT_OPTIONAL


def _read(key: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"tls.{key}: {file} cannot be read: {error.strerror}") from error


def _end_point(chain: bytes) -> bytes:
    """The hash of the first certificate of a chain in PEM."""
    from cryptography import x509  # noqa: PLC0415 - it costs start-up time, and many have no certificate
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - the same

    return certificate_hash(x509.load_pem_x509_certificate(chain).public_bytes(Encoding.DER))


def certificate_hash(certificate: bytes) -> bytes:
    """What SCRAM binds a login to: a hash by the algorithm of the signature; MD5 and SHA-1 count as SHA-256 (RFC 5929 4.1)."""
    from cryptography import x509  # noqa: PLC0415 - it costs start-up time, and many have no certificate
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - the same

    read = x509.load_der_x509_certificate(certificate)
    algorithm = read.signature_hash_algorithm
    if algorithm is None:
        return b""  # as with Ed25519: nothing is defined for it
    return read.fingerprint(hashes.SHA256() if algorithm.name in ("md5", "sha1") else algorithm)


def end_point(connection: ssl.SSLObject) -> bytes:
    """The hash of the certificate that a connection was opened with."""
    context = connection.context
    return context.end_point if isinstance(context, ListenerContext) else b""


def certified_names(connection: ssl.SSLObject) -> tuple[str, ...]:
    """The mail addresses in the certificate of the client; none if it showed none that was verified."""
    if connection.context.verify_mode is ssl.CERT_NONE:
        return ()
    shown: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    return tuple(value for kind, value in shown if kind == "email")


def renewable_context(
    current: Callable[[], ssl.SSLContext | None], settings: TlsSettings | None = None
) -> ssl.SSLContext:
    """A context for a listener that begins with TLS: each handshake takes its certificate from the `current` context.

    Whether it asks for a client's certificate is settled here, by `settings`. A new chain is not loaded into the old context: it would keep the old one beside it if their keys are of two kinds.
    """
    context = _new_context()

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        chosen = current()
        if chosen is not None:
            connection.context = chosen

    if settings is not None:
        ask_client(context, settings)
    context.sni_callback = choose  # it is called for clients that name no host, too
    return context


def _new_context() -> ListenerContext:
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context
