"""Log in as a client: which mechanism to take, and what to say in it (RFC 4954).

SCRAM is in `smtp.scram`, the server's side in `smtp.sasl`; carrying the lines is the business of `relay`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING, Protocol

from pillarbox.smtp.sasl import BY_KEYS, BY_TOKEN
from pillarbox.smtp.scram import PLUS, ScramClient

if TYPE_CHECKING:
    from collections.abc import Collection

MECHANISMS = (
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-1",
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
)  # those that take a password, the best first; CRAM-MD5 comes last because over TLS it gains nothing
CANCEL = b"*\r\n"


class ClientMechanism(Protocol):
    """One exchange at the client. `initial` is what goes with the command, None for nothing."""

    initial: bytes | None

    @property
    def content(self) -> bool:
        """Whether the server may say now that the login is good: it has shown what it has to show."""

    def step(self, challenge: bytes) -> bytes:
        """Answer a challenge. Raises ValueError for one that has no answer."""


class _Plain:
    content = True

    def __init__(self, user: str, secret: str) -> None:
        self.initial: bytes | None = f"\0{user}\0{secret}".encode()

    def step(self, challenge: bytes) -> bytes:  # noqa: ARG002
        raise ValueError("PLAIN is over after its first answer")


class _Login:
    content = True

    def __init__(self, user: str, secret: str) -> None:
        self.initial: bytes | None = None
        self._answers = [user.encode(), secret.encode()]

    def step(self, challenge: bytes) -> bytes:  # noqa: ARG002 - servers word it as they like
        if not self._answers:
            raise ValueError("LOGIN has two answers")
        return self._answers.pop(0)


class _CramMd5:
    content = True

    def __init__(self, user: str, secret: str) -> None:
        self.initial: bytes | None = None
        self._user, self._secret = user, secret

    def step(self, challenge: bytes) -> bytes:
        digest = hmac.new(self._secret.encode(), challenge, "md5").hexdigest()
        return f"{self._user} {digest}".encode()


class _Bearer:
    content = True

    def __init__(self, name: str, user: str, token: str) -> None:
        who = (
            f"n,a={user.replace('=', '=3D').replace(',', '=2C')},"
            if name == "OAUTHBEARER"
            else f"user={user}"
        )
        self.initial: bytes | None = f"{who}\x01auth=Bearer {token}\x01\x01".encode()
        self._answer = b"\x01" if name == "OAUTHBEARER" else b""

    def step(self, challenge: bytes) -> bytes:  # noqa: ARG002 - it tells why the token is not taken
        return self._answer  # the refusal follows (RFC 7628 3.2.3)


class _Scram:
    def __init__(self, scram: ScramClient) -> None:
        self._scram = scram
        self.initial: bytes | None = scram.initial

    @property
    def content(self) -> bool:
        return self._scram.proven

    def step(self, challenge: bytes) -> bytes:
        return self._scram.step(challenge)


def choose(offered: Collection[str], *, token: bool, end_point: bytes) -> list[str]:
    """The mechanisms that can be used with a server, the best first."""
    usable = BY_TOKEN if token else MECHANISMS
    return [name for name in usable if name in offered and (end_point or not name.endswith(PLUS))]


def mechanism(name: str, user: str, secret: str, *, nonce: bytes, end_point: bytes = b"") -> ClientMechanism:
    """Begin an exchange. `secret` is the password, or the token where the mechanism takes one."""
    if name in BY_KEYS:
        return _Scram(ScramClient(name, user, secret, nonce, end_point))
    if name in BY_TOKEN:
        return _Bearer(name, user, secret)
    if name == "PLAIN":
        return _Plain(user, secret)
    return _Login(user, secret) if name == "LOGIN" else _CramMd5(user, secret)


def auth_command(name: str, initial: bytes | None) -> bytes:
    """The AUTH command; an initial answer that is empty is written "=" (RFC 4954 4)."""
    return f"AUTH {name}\r\n".encode() if initial is None else f"AUTH {name} ".encode() + _line(initial, b"=")


def answer_line(answer: bytes) -> bytes:
    """The line that answers a challenge."""
    return _line(answer, b"")


def _line(octets: bytes, empty: bytes) -> bytes:
    return (base64.b64encode(octets) or empty) + b"\r\n"


def read_challenge(text: str) -> bytes:
    """What a 334 reply asks. Raises ValueError."""
    try:
        return base64.b64decode(text.strip().encode("ascii", "replace"), validate=True)
    except binascii.Error as error:
        raise ValueError("the challenge is not base64") from error
