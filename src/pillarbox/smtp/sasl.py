"""SASL mechanisms as the server runs them: fed the client's answers, they end in a login to decide (RFC 4954, RFC 4422).

SCRAM is in `smtp.scram`, the order of an exchange in `smtp.exchange`, the client's side in `smtp.login`. Whether a
password, a token or a certificate is good for an account is decided by `policy`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from enum import IntEnum
from typing import NamedTuple, Protocol

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.scram import HASHES, PLUS

MAX_RESPONSE_OCTETS = 12288  # RFC 4954 4
MAX_RESPONSE_LINE_OCTETS = MAX_RESPONSE_OCTETS + 2  # with CRLF
MAX_AUTH_LINE_OCTETS = MAX_RESPONSE_LINE_OCTETS + 32  # with the command and the name of a mechanism before it
NONCE_OCTETS = 18
_SEPARATOR = "\x01"  # RFC 7628 3.1

Step = bytes | Login | SecretWanted | Reply


class Strength(IntEnum):
    """How well a mechanism keeps what it proves from others."""

    PASSWORD = 0  # the password itself is sent
    DIGEST = 1  # something is sent that only the password can make, by outdated means
    SCRAM = 2  # as before, by today's means; or a token that soon ends
    BOUND = 3  # nobody in between can use what is sent


class Traits(NamedTuple):
    """What to know of a mechanism before it runs."""

    strength: Strength
    in_clear: bool = False  # whoever reads the exchange can log in: it wants TLS
    needs_tls: bool = False  # it is made of the TLS session
    server_first: bool = False  # the client has nothing to say before the first challenge (RFC 4422 5)


TRAITS = {
    "SCRAM-SHA-256-PLUS": Traits(Strength.BOUND, needs_tls=True),
    "SCRAM-SHA-256": Traits(Strength.SCRAM),
    "SCRAM-SHA-1-PLUS": Traits(Strength.BOUND, needs_tls=True),
    "SCRAM-SHA-1": Traits(Strength.SCRAM),
    "EXTERNAL": Traits(Strength.BOUND, needs_tls=True),
    "OAUTHBEARER": Traits(Strength.SCRAM, in_clear=True),
    "XOAUTH2": Traits(Strength.SCRAM, in_clear=True),
    "CRAM-MD5": Traits(Strength.DIGEST, server_first=True),
    "PLAIN": Traits(Strength.PASSWORD, in_clear=True),
    "LOGIN": Traits(Strength.PASSWORD, in_clear=True),
}
BY_TOKEN = ("OAUTHBEARER", "XOAUTH2")
BY_KEYS = (*HASHES, *(name + PLUS for name in HASHES))
WITH_NONCE = frozenset({*BY_KEYS, "CRAM-MD5"})


class Mechanism(Protocol):
    """One exchange at the server."""

    def step(self, response: bytes | None) -> Step:
        """Take the decoded initial response, or None, then each answer: the next challenge, a login, or a refusal."""


class Keyed(Mechanism, Protocol):
    """One that compares with what is kept of the account."""

    def take_secret(self, secret: object) -> Step:
        """Go on with what was asked for by `SecretWanted`."""


class Plain:
    """PLAIN: authorization identity, user and password in one answer (RFC 4616 2)."""

    def step(self, response: bytes | None) -> bytes | Login | Reply:
        """Ask with an empty challenge if there was no initial response."""
        if response is None:
            return b""
        parts = response.split(b"\0")
        try:
            authorize_as, user, password = (part.decode("utf-8") for part in parts)
        except ValueError:
            return auth.MALFORMED.reply()
        return Login("PLAIN", authorize_as, user, password)


class LoginExchange:
    """LOGIN: user and password asked for one after the other (an old habit without a standard)."""

    def __init__(self) -> None:
        """Begin without the user's name."""
        self._user: str | None = None

    def step(self, response: bytes | None) -> bytes | Login | Reply:
        """Ask for the user's name, then for the password."""
        if response is None:
            return b"Username:"
        try:
            text = response.decode("utf-8")
        except ValueError:
            return auth.MALFORMED.reply()
        if self._user is None:
            self._user = text
            return b"Password:"
        return Login("LOGIN", "", self._user, text)


class CramMd5:
    """CRAM-MD5: a digest of the challenge, keyed with the password, which we must keep for it (RFC 2195)."""

    def __init__(self, nonce: bytes, hostname: str) -> None:
        """`nonce` makes the challenge one that was never asked before."""
        self._challenge = f"<{nonce.hex()}@{hostname}>".encode()
        self._user, self._digest = "", b""

    def step(self, response: bytes | None) -> bytes | SecretWanted | Reply:
        """Challenge, then take name and digest."""
        if response is None:
            return self._challenge
        name, space, digest = response.rpartition(b" ")
        try:
            self._user, self._digest = name.decode("utf-8"), digest
        except ValueError:
            space = b""
        return SecretWanted("CRAM-MD5", self._user) if space else auth.MALFORMED.reply()

    def take_secret(self, secret: object) -> Login:
        """Compare the digests."""
        assert isinstance(secret, str)  # what was asked for
        expected = hmac.new(secret.encode(), self._challenge, "md5").hexdigest().encode()
        right = hmac.compare_digest(expected, self._digest)
        return Login("CRAM-MD5", "", self._user, "", Proof.PROVEN if right else Proof.DISPROVEN)


class External:
    """EXTERNAL: the certificate that the client showed in the TLS handshake (RFC 4422 A)."""

    def step(self, response: bytes | None) -> bytes | Login | Reply:
        """Ask with an empty challenge; the answer is the authorization identity, mostly empty."""
        if response is None:
            return b""
        try:
            return Login("EXTERNAL", response.decode("utf-8"), "", "", Proof.CERTIFICATE)
        except ValueError:
            return auth.MALFORMED.reply()


class Bearer:
    """OAUTHBEARER (RFC 7628) and its forerunner XOAUTH2: a token from somebody whom the operator trusts."""

    def __init__(self, name: str) -> None:
        """`name` is the mechanism's."""
        self._name = name

    def step(self, response: bytes | None) -> bytes | Login | Reply:
        """Ask with an empty challenge if there was no initial response."""
        if response is None:
            return b""
        try:
            head, *pairs = response.decode("utf-8").split(_SEPARATOR)
        except ValueError:
            return auth.MALFORMED.reply()
        user = _user_of_header(head) if self._name == "OAUTHBEARER" else head.removeprefix("user=")
        given = dict(pair.partition("=")[::2] for pair in pairs)
        kind, _, token = given.get("auth", "").partition(" ")
        if user is None or kind.lower() != "bearer" or not token:
            return auth.MALFORMED.reply()
        return Login(self._name, user, user, token.strip(), Proof.TOKEN)


def _user_of_header(header: str) -> str | None:
    """The name in "n,a=user@example.org,", which may be missing (RFC 5801 4); None if it is no such header."""
    parts = header.split(",")
    if len(parts) != 3 or parts[0] not in ("n", "y") or parts[2] or (parts[1] and parts[1][:2] != "a="):
        return None
    return parts[1][2:].replace("=2C", ",").replace("=3D", "=")


def decode_response(text: bytes) -> bytes | Reply:
    """Decode one base64 line of the client; `*` cancels and `=` stands for an empty initial response."""
    if text == b"*":
        return auth.CANCELLED.reply()
    if text == b"=":
        return b""
    if len(text) > MAX_RESPONSE_OCTETS:
        return auth.ANSWER_TOO_LONG.reply()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return auth.BASE64.reply()


def encode_challenge(challenge: bytes) -> str:
    """Encode a challenge for a 334 reply."""
    return base64.b64encode(challenge).decode("ascii")
