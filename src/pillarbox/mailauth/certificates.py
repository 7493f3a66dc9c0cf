"""Tell whether the certificates that a host shows fit its TLSA records (RFC 7671 5, RFC 7672 3).

Certificates that authorities of the system have to vouch for are checked by the TLS library in the handshake itself.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from pillarbox.mail.reply import printable
from pillarbox.mailauth.dane import END_ENTITY, EXACT, PUBLIC_KEY, SHA_256, SHA_512, TRUST_ANCHOR, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pillarbox.mailauth.dane import Tlsa

Value = TypeVar("Value", bound=x509.ExtensionType)

_MAX_CHAIN = 10  # certificates of one host that are looked at
_MAX_ANCHORS = 10  # authorities that its chain is followed to
_MAX_NAMES = 5  # that are told
_WEAK = frozenset({"md5", "sha1"})
_SERVER_AUTH = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)


class MismatchError(Exception):
    """The certificates do not fit. `kind` is the name that RFC 8460 4.3 gives to such a failure."""

    def __init__(self, kind: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.kind = kind


def verify(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str], *, now: float) -> Tlsa:
    """The record that `chain` fits: certificates in DER, the host's own first. Raises MismatchError.

    `names` are what a host may be called whose authority the record names; for a record about its own certificate
    neither name nor time count (RFC 7672 3.1.1).
    """
    shown = [_load(octets) for octets in chain[:_MAX_CHAIN]]
    if not shown or shown[0] is None:
        raise MismatchError("validation-failure", "its certificate can't be read")
    leaf = shown[0]
    for record in records:
        if record.usage == END_ENTITY and _fits(record, leaf):
            return record
    others = [one for one in shown[1:] if one is not None and one != leaf]
    failure = MismatchError("validation-failure", "no certificate fits a TLSA record")
    for anchor, record in _anchors(records, others).items():
        if anchor == leaf:  # nobody vouches for himself: that would be usage 3
            continue
        try:
            _check_path(leaf, others, anchor, now)
            _check_name(leaf, names)
        except MismatchError as error:
            failure = error
        else:
            return record
    raise failure


def _anchors(records: Sequence[Tlsa], others: Sequence[x509.Certificate]) -> dict[x509.Certificate, Tlsa]:
    """The authorities that the records name: shown by the host, or whole in a record (RFC 7672 3.1.2)."""
    found: dict[x509.Certificate, Tlsa] = {}
    for record in records:
        if record.usage != TRUST_ANCHOR or len(found) >= _MAX_ANCHORS:
            continue
        given = _load(record.data) if (record.selector, record.matching) == (WHOLE, EXACT) else None
        fitting = [one for one in others if _fits(record, one)] or ([given] if given is not None else [])
        for anchor in fitting:
            found.setdefault(anchor, record)
    return found


def names_in(certificate: bytes) -> tuple[str, ...]:
    """What a certificate in DER calls its host, for people: some of the names, made printable."""
    read = _load(certificate)
    return tuple(printable(name, 80) for name in _names(read)[:_MAX_NAMES]) if read is not None else ()


def _load(octets: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(octets)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _fits(record: Tlsa, certificate: x509.Certificate) -> bool:
    try:
        octets = (
            certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            if record.selector == PUBLIC_KEY
            else certificate.public_bytes(Encoding.DER)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    if record.matching == SHA_256:
        return hashlib.sha256(octets).digest() == record.data
    if record.matching == SHA_512:
        return hashlib.sha512(octets).digest() == record.data
    return octets == record.data


def _check_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchor: x509.Certificate, now: float
) -> None:
    """Whether the anchor vouches for the host's certificate, over others in between (RFC 5280 6). Raises MismatchError."""
    at = datetime.fromtimestamp(now, UTC)
    _check_alone(leaf, at)
    _check_use(leaf)
    current, between = leaf, 0
    left = [anchor, *(one for one in others if one != anchor)]
    while current != anchor:
        issuer = next((one for one in left if _issued(current, one)), None)
        if issuer is None:
            raise MismatchError("certificate-not-trusted", "its chain does not lead to the authority in DNS")
        left.remove(issuer)
        _check_alone(issuer, at)
        _check_authority(issuer, between, leaf)
        current, between = issuer, between + 1


def _check_alone(certificate: x509.Certificate, at: datetime) -> None:
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise MismatchError("certificate-expired", "a certificate of its chain is not valid today")
    unknown = [one for one in _extensions(certificate) if one.critical and one.oid not in _UNDERSTOOD]
    if unknown:
        raise MismatchError(
            "validation-failure", f"unknown critical extension {unknown[0].oid.dotted_string}"
        )


def _check_use(leaf: x509.Certificate) -> None:
    allowed = _value(leaf, x509.ExtendedKeyUsage)
    if allowed is not None and not _SERVER_AUTH & set(allowed):
        raise MismatchError("validation-failure", "its certificate is not one for servers")


def _check_authority(issuer: x509.Certificate, between: int, leaf: x509.Certificate) -> None:
    constraints, usage = _value(issuer, x509.BasicConstraints), _value(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise MismatchError("validation-failure", "its certificate was issued by one that may not issue any")
    if constraints.path_length is not None and constraints.path_length < between:
        raise MismatchError("validation-failure", "its chain is longer than its authority allows")
    limits = _value(issuer, x509.NameConstraints)
    if limits is not None and not all(_within(name, limits) for name in _names(leaf)):
        raise MismatchError("validation-failure", "its authority may not vouch for such names")


def _within(name: str, limits: x509.NameConstraints) -> bool:
    """Whether constraints of a certificate allow a host name (RFC 5280 4.2.1.10)."""
    name = name.removeprefix("*.")
    permitted, excluded = (
        [tree.value.lower() for tree in trees or () if isinstance(tree, x509.DNSName)]
        for trees in (limits.permitted_subtrees, limits.excluded_subtrees)
    )
    if any(_below(name, tree) for tree in excluded):
        return False
    return not permitted or any(_below(name, tree) for tree in permitted)


def _below(name: str, tree: str) -> bool:
    tree = tree.lstrip(".")
    return not tree or name == tree or name.endswith(f".{tree}")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    algorithm = _hash_name(certificate)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return algorithm not in _WEAK


def _hash_name(certificate: x509.Certificate) -> str:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return algorithm.name if algorithm is not None else ""


def _check_name(leaf: x509.Certificate, wanted: Iterable[str]) -> None:
    """Raises MismatchError if the certificate has none of these names (RFC 7672 3.2.3)."""
    names = _names(leaf)
    for name in (one.rstrip(".").lower() for one in wanted):
        if name in names or f"*.{name.partition('.')[2]}" in names:
            return
    shown = ", ".join(printable(name, 60) for name in names[:_MAX_NAMES]) or "nobody"
    raise MismatchError("certificate-host-mismatch", f"its certificate is for {shown}")


def _names(certificate: x509.Certificate) -> list[str]:
    """The host names in a certificate, in small letters; the common name only if there are none."""
    alternatives = _value(certificate, x509.SubjectAlternativeName)
    if alternatives is not None:
        found = [str(name) for name in alternatives.get_values_for_type(x509.DNSName)]
        if found:
            return [name.rstrip(".").lower() for name in found]
    try:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return []
    return [str(one.value).rstrip(".").lower() for one in common]


def _extensions(certificate: x509.Certificate) -> list[x509.Extension[x509.ExtensionType]]:
    """The extensions. Raises MismatchError if they can't be read."""
    try:
        return list(certificate.extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise MismatchError("validation-failure", "extensions of a certificate can't be read") from error


def _value(certificate: x509.Certificate, kind: type[Value]) -> Value | None:
    return next((one.value for one in _extensions(certificate) if isinstance(one.value, kind)), None)
