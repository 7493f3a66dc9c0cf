"""Read the keys of DKIM: the records that domains publish, and the private keys that we sign with (RFC 6376 3.6, RFC 8463).

Where a record or a file comes from is for others to say.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pillarbox.mailauth.tags import TagError, parse_tags, unspaced

MIN_RSA_BITS = 1024  # shorter keys prove nothing (RFC 8301 3.2)
MAX_RSA_BITS = 4096  # longer ones cost more time than a stranger may take
_MAX_RECORD = 4096  # characters of a record that can hold a key we take

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ed25519.Ed25519PublicKey
# What a key of each algorithm is told beside the sum that is signed; to ask a key what it is takes longer.
_MEANS = {"rsa-sha256": (padding.PKCS1v15(), Prehashed(hashes.SHA256())), "ed25519-sha256": ()}


class BadKey(ValueError):
    """A key record or a key file that can't be used; the text says why."""


class KeyRecord(msgspec.Struct, frozen=True):
    """What a domain publishes at `selector._domainkey`."""

    key: PublicKey
    bits: int  # of an RSA key; 256 for Ed25519
    algorithm: str  # rsa-sha256 or ed25519-sha256
    testing: bool = False  # t=y: a failing signature is to be treated as none
    exact: bool = False  # t=s: `i=` may not name a subdomain


@lru_cache(maxsize=2048)
def parse_record(text: str) -> KeyRecord:
    """Read a key record. Raises BadKey."""
    if len(text) > _MAX_RECORD:
        raise BadKey("the key record is too long")
    try:
        tags = parse_tags(text)
    except TagError as error:
        raise BadKey(f"key record: {error}") from None
    if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
        raise BadKey("key record: not of version DKIM1")
    if "h" in tags and "sha256" not in _list(tags["h"]):
        raise BadKey("key record: h= does not allow sha256")
    if "s" in tags and not {"*", "email"} & set(_list(tags["s"])):
        raise BadKey("key record: s= does not allow mail")
    if "p" not in tags:
        raise BadKey("key record: no p=")
    octets = unspaced(tags["p"])
    if not octets:
        raise BadKey("the key was revoked")
    try:
        key, bits = _load(tags.get("k", "rsa").lower(), b64decode(octets, validate=True))
    except BadKey:
        raise
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("key record: p= is no key") from None
    flags = _list(tags.get("t", ""))
    return KeyRecord(key, bits, algorithm(key), "y" in flags, "s" in flags)


def _list(value: str) -> list[str]:
    return unspaced(value).lower().split(":")


def _load(kind: str, octets: bytes) -> tuple[PublicKey, int]:
    if kind == "ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(octets), 256
    if kind != "rsa":
        raise BadKey(f"key record: unknown k={kind[:20]}")
    key = serialization.load_der_public_key(octets)
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadKey("key record: p= is not the key that k= says")
    return key, key.key_size


def is_valid(record: KeyRecord, signature: bytes, data: bytes) -> bool:
    """Whether a signature over `data` was made with the key: over its SHA-256, for either kind of key (RFC 8463 3)."""
    verify: Callable[..., None] = record.key.verify
    try:
        verify(signature, sha256(data).digest(), *_MEANS[record.algorithm])
    except InvalidSignature:
        return False
    return True


def sign(key: PrivateKey, data: bytes, algorithm: str) -> bytes:
    """The signature over `data`; `algorithm` is that of the key, for who signs much to ask only once."""
    make: Callable[..., bytes] = key.sign
    return make(sha256(data).digest(), *_MEANS[algorithm])


def algorithm(key: PrivateKey | PublicKey) -> str:
    """The value of `a=`."""
    return "rsa-sha256" if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) else "ed25519-sha256"


def new_key(kind: str) -> PrivateKey:
    """A fresh key: "rsa" (2048 bits) or "ed25519"."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def format_key(key: PrivateKey) -> bytes:
    """A private key as it is kept: PKCS #8 in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> PrivateKey:
    """Read a private key, PKCS #8 or PKCS #1 in PEM. Raises BadKey."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(f"not a private key without password in PEM: {error}") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise BadKey(f"an RSA key of {key.key_size} bits is too short; 2048 are right")
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    raise BadKey("neither an RSA nor an Ed25519 key")


def format_record(key: PrivateKey) -> str:
    """The record to publish for a key."""
    return format_public(key.public_key())


def format_public(key: PublicKey) -> str:
    """The record of a public key."""
    if isinstance(key, rsa.RSAPublicKey):
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={b64encode(der).decode()}"
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"v=DKIM1; k=ed25519; p={b64encode(raw).decode()}"
