"""Make the TLS contexts of the listeners, and tell what a handshake has shown.

Which certificate a client gets is the business of `net.certificates`; connections to other hosts make their own contexts.
"""

from __future__ import annotations

import _ssl
import ssl
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

TlsVersion = Literal["1.2", "1.3"]
# RFC 9325 4.2: forward secrecy and authenticated encryption. Those of TLS 1.3 are all sound.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_IDLE_OCTETS = 32_768  # measured: 25 KiB
_READ_OCTETS = 262_144  # the buffer of uvloop, which fills with what comes at once
_DER = 2  # ENCODING_DER of the module behind `ssl`
_HANDSHAKE, _CERTIFICATE = 22, 11  # a kind of record and of message (RFC 8446 5.1, 4)
_STARTS = (
    10,
    11,
)  # of the first certificate in the message: in TLS 1.2 (RFC 5246 7.4.2), in 1.3 (RFC 8446 4.4.2)


class TlsSettings(Settings, frozen=True):
    """The certificate of the listeners, and what a handshake must come to; without a certificate none offers TLS."""

    certificate: str = ""
    """File with the certificate chain in PEM, our own first: what clients get that name no host, or one that no
    [[certificate]] is for. Files that change are read again, without a reload."""
    key: str = ""
    """File with the private key in PEM."""
    client_ca: str = ""
    """File with the certificates of those who issue certificates to users. Submission listeners then ask clients for
    one, and who shows it may log in by EXTERNAL as the mail address in it. It is read again when it changes."""
    self_signed: bool = False
    """Make a certificate that nobody vouches for, in the data folder, when the first client asks for TLS: for tests. The
    sandbox does; a server for the world should not."""
    max_handshakes: int = 100
    """Handshakes after STARTTLS that may go on at once, and from one address a quarter of them; further ones are put off
    (454)."""
    min_version: TlsVersion = "1.2"
    """The oldest TLS that is good enough. A client that knows only an older one may shake hands with 1.2, and is then told
    why it is refused (554). A listener may ask for more by its own `min_tls`."""


class CertificateSettings(Settings, frozen=True):
    """One more certificate: `[[certificate]]`, for other names, or for the same ones with another kind of key.

    It is given to clients that ask for a name in it. Of an ECDSA and an RSA certificate each client gets the one that it can use.
    """

    chain: str
    """File with the certificate chain in PEM, our own first."""
    key: str = ""
    """File with the private key in PEM; "" if it stands in the same file."""


class ListenerConnection(ssl.SSLObject):
    """Our end of a connection: it knows which certificate it showed, where that is not certain beforehand."""

    shown: bytes = b""  # in DER


class ListenerContext(ssl.SSLContext):
    """A context that knows what SCRAM binds a login to, by the certificate, in DER, that is shown."""

    sslobject_class = ListenerConnection
    end_points: Mapping[bytes, bytes] = {}
    trusted: bytes | None = None  # by whom clients' certificates have to be issued


class TlsManner(msgspec.Struct, frozen=True):
    """How one listener shakes hands."""

    asks: bool = False  # for a certificate of the client
    demands: bool = False  # one that is verified
    binds: bool = False  # logins to the certificate that is shown
    min_version: str = "1.2"

    def is_too_weak(self, version: str) -> bool:
        """Whether a session that ended up with this version of TLS, such as "TLSv1.3", is not good enough."""
        return version.removeprefix("TLSv") < self.min_version


def new_context(*, asks: bool = False, binds: bool = False) -> ListenerContext:
    """A context without a certificate yet: TLS 1.2 and later. With `asks` a client may show a certificate.

    With `binds` it gives no tickets: a session that is resumed shows no certificate that a login could be bound to.
    """
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    if asks:
        context.verify_mode = ssl.CERT_OPTIONAL
    if binds:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        watch_certificates(context)
    return context


def watch_certificates(context: ListenerContext) -> None:
    """Let connections know which certificate they show. It takes effect on those that began with such a context.

    OpenSSL shows messages of the handshake to a function. `ssl` keeps that to itself, and puts a slower one of its own in front.
    """
    watched: Any = getattr(_ssl._SSLContext, "_msg_callback", None)  # noqa: SLF001
    if watched is not None:
        watched.__set__(context, _note_certificate)


def _note_certificate(
    connection: ListenerConnection, direction: str, _version: int, content: int, message: int, octets: bytes
) -> None:
    """Find in a message which certificate of ours it begins with."""
    if content == _HANDSHAKE and message == _CERTIFICATE and direction == "write":
        context = connection.context
        assert isinstance(context, ListenerContext)  # no other is watched
        for shown in context.end_points:
            if any(octets.startswith(shown, start) for start in _STARTS):
                connection.shown = shown


def certificate_hash(certificate: bytes) -> bytes:
    """What SCRAM binds a login to: a hash by the algorithm of the signature; MD5 and SHA-1 count as SHA-256 (RFC 5929 4.1)."""
    from cryptography import x509  # noqa: PLC0415 - it costs start-up time, and many have no certificate
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - the same

    read = x509.load_der_x509_certificate(certificate)
    algorithm = read.signature_hash_algorithm
    if algorithm is None:
        return b""  # as with Ed25519: nothing is defined for it
    return read.fingerprint(hashes.SHA256() if algorithm.name in ("md5", "sha1") else algorithm)


def kept_octets(read: int) -> int:
    """What TLS keeps in memory for a connection, about, if it carries a message of which so much has come."""
    return _IDLE_OCTETS + min(read, _READ_OCTETS)


def end_point(connection: ssl.SSLObject) -> bytes:
    """What a login can be bound to: the hash of the certificate that was shown; b"" if that is not certain.

    A session that is resumed was begun with a certificate that may have been another one.
    """
    context = connection.context
    if not isinstance(context, ListenerContext) or connection.session_reused:
        return b""
    points = context.end_points
    if len(points) < 2:
        return next(iter(points.values()), b"")
    return points.get(connection.shown, b"") if isinstance(connection, ListenerConnection) else b""


def peer_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The certificates that the other end showed, in DER, its own first; none of them need have been checked."""
    get: Any = getattr(connection, "get_unverified_chain", None)  # Python 3.13
    if get is not None:
        return [bytes(one) for one in get() or ()]
    hidden: Any = getattr(connection, "_sslobj")  # noqa: B009 - what that asks has been there since 3.10
    return [one.public_bytes(_DER) for one in hidden.get_unverified_chain() or ()]


def certified_names(connection: ssl.SSLObject) -> tuple[str, ...]:
    """The mail addresses in the certificate of the client; none if it showed none that was verified."""
    if connection.context.verify_mode is ssl.CERT_NONE:
        return ()
    shown: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    return tuple(value for kind, value in shown if kind == "email")


def is_certified(connection: ssl.SSLObject) -> bool:
    """Whether the client showed a certificate that was verified."""
    return connection.context.verify_mode is not ssl.CERT_NONE and bool(connection.getpeercert())
