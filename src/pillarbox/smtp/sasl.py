"""SASL mechanisms as small server machines: fed the client's answers, they end in credentials (RFC 4954, RFC 4616).

Checking the credentials is the directory's business; the client side lives in `smtp.client`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Protocol

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.smtp.events import Login

MAX_RESPONSE_OCTETS = 12288  # RFC 4954 4


class Mechanism(Protocol):
    """One exchange. `begin` gets the decoded initial response or None, `step` each decoded answer."""

    def step(self, response: bytes | None) -> bytes | Login | Reply:
        """Return the next challenge, the credentials, or a refusal."""


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
            return auth.BAD_CREDENTIALS.reply()
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
            return auth.BAD_CREDENTIALS.reply()
        if self._user is None:
            self._user = text
            return b"Password:"
        return Login("LOGIN", "", self._user, text)


MECHANISMS: dict[str, type[Mechanism]] = {"PLAIN": Plain, "LOGIN": LoginExchange}


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
