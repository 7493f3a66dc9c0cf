"""Read a certificate chain and its key from files, and say in plain words what is wrong with them.

Who is given which certificate, and when the files are read again, is the business of `net.certificates`.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pillarbox.net.tls import certificate_hash, new_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.x509 import Certificate

_REASONS = {
    "KEY_VALUES_MISMATCH": "does not belong to the first certificate in {chain}",
    "KEY_TYPE_MISMATCH": "does not belong to the first certificate in {chain}",
    "EE_KEY_TOO_SMALL": "is too short to be safe",
    "CA_MD_TOO_WEAK": "has a certificate beside it that is signed by a broken algorithm",
}


class ChainError(ValueError):
    """A file can't be used: which, and why. `setting` is where it is named."""

    def __init__(self, setting: str, file: str, reason: str) -> None:
        """Keep all three."""
        super().__init__(f"{setting}: {file} {reason}")
        self.setting = setting
        self.file = file
        self.reason = reason


class Source(msgspec.Struct, frozen=True):
    """Where a chain is read from, and which settings say so."""

    setting: str  # such as "tls.certificate"
    chain: str
    key_setting: str = ""
    key: str = ""  # "" if it stands in the same file
    expected: bool = True  # to be there; what is made later need not be there yet

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return (self.chain, self.key) if self.key and self.key != self.chain else (self.chain,)


class Chain(msgspec.Struct, frozen=True, eq=False):
    """A certificate with its key, as it was read. `pem` holds the private key: it is never shown."""

    source: Source
    names: tuple[str, ...]  # host names, in small letters
    kind: str  # of the key: ECDSA, RSA or another
    issuer: str
    begins: float
    expires: float
    leaf: bytes  # the certificate alone, in DER
    end_point: bytes
    pem: bytes

    def __repr__(self) -> str:
        """Without the key."""
        return f"Chain({self.source.chain!r}, {self.names!r}, {self.kind!r})"


class Shown(msgspec.Struct, frozen=True):
    """A certificate as clients see it."""

    source: Source
    names: tuple[str, ...]
    kind: str
    expires: float
    octets: bytes  # in DER


def read_shown(source: Source) -> Shown:
    """Read a certificate without its key, which not everybody may read. Raises ChainError."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - as below

    leaf = _first_certificate(source, _read(source.setting, source.chain))
    expires = leaf.not_valid_after_utc.timestamp()
    return Shown(source, _names(leaf), _kind(leaf), expires, leaf.public_bytes(Encoding.DER))


def read_chain(source: Source) -> Chain:
    """Read a chain and see that its key belongs to it. Raises ChainError."""
    octets = _read(source.setting, source.chain)
    if len(source.files) > 1:
        octets += b"\n" + _read(source.key_setting, source.key)
    leaf = _first_certificate(source, octets)
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - it costs start-up time

    der = leaf.public_bytes(Encoding.DER)
    chain = Chain(
        source,
        _names(leaf),
        _kind(leaf),
        leaf.issuer.rfc4514_string(),
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        der,
        certificate_hash(der),
        octets,
    )
    give(new_context(), chain)
    return chain


def give(context: ssl.SSLContext, chain: Chain) -> None:
    """Let a context show a chain. Raises ChainError."""
    asked: list[bool] = []

    def nobody() -> str:
        """OpenSSL would ask at the terminal."""
        asked.append(True)
        return ""

    source = chain.source
    setting, file = source.key_setting or source.setting, source.files[-1]
    try:
        with _as_file(chain.pem) as path:
            context.load_cert_chain(path, password=nobody)
    except (OSError, ValueError) as error:
        reason = (error.reason if isinstance(error, ssl.SSLError) else "") or ""
        if asked:
            said = "is encrypted, and there is nobody to type its password"
        elif reason in _REASONS:
            said = _REASONS[reason].format(chain=source.chain)
        else:
            said = (
                f"holds no private key in PEM that can be used ({reason.replace('_', ' ').lower() or error})"
            )
        raise ChainError(setting, file, said) from error


def read_authorities(file: str) -> bytes:
    """The certificates of those whom to trust about clients. Raises ChainError."""
    octets = _read("tls.client_ca", file)
    try:
        trust(new_context(), octets)
    except (ValueError, ssl.SSLError) as error:
        raise ChainError("tls.client_ca", file, f"holds no certificates: {error}") from error
    return octets


def trust(context: ssl.SSLContext, octets: bytes) -> None:
    """Let a context verify certificates of clients by these. Raises ValueError or SSLError."""
    context.load_verify_locations(cadata=octets.decode("ascii"))


@contextlib.contextmanager
def _as_file(octets: bytes) -> Iterator[str]:
    """A file in memory: the library reads only files, and those on disk may have changed since they were looked at."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(octets)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _read(setting: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ChainError(setting, file, f"cannot be read: {error.strerror}") from error


def _first_certificate(source: Source, octets: bytes) -> Certificate:
    from cryptography import x509  # noqa: PLC0415 - it costs start-up time

    try:
        return x509.load_pem_x509_certificates(octets)[0]
    except (ValueError, IndexError) as error:
        raise ChainError(source.setting, source.chain, "holds no certificate in PEM") from error


def _names(certificate: Certificate) -> tuple[str, ...]:
    from cryptography import x509  # noqa: PLC0415 - as above

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.rstrip(".").lower() for name in found.get_values_for_type(x509.DNSName))


def _kind(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415 - as above

    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ECDSA"
    return (
        "RSA"
        if isinstance(key, rsa.RSAPublicKey)
        else type(key).__name__.removesuffix("PublicKey").strip("_")
    )
