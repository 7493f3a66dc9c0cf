"""One AUTH exchange of a server session: may the mechanism be used, challenge after challenge, a login to decide.

What the mechanisms say is in `smtp.sasl` and `smtp.scram`; the session around it is `smtp.server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from pillarbox.mail.catalogue import auth, session
from pillarbox.mail.reply import Reply
from pillarbox.smtp import sasl
from pillarbox.smtp.events import Login, Proof, SecretWanted
from pillarbox.smtp.scram import PLUS, ScramServer
from pillarbox.smtp.wire import LineFault

if TYPE_CHECKING:
    from pillarbox.smtp.profile import Channel, Profile

Step = Reply | Login | SecretWanted


def begin(argument: str, profile: Profile, channel: Channel, login: str) -> tuple[Exchange, Step] | Reply:
    """Read what follows AUTH, and begin with the mechanism if it can be used; `login` is who has logged in already."""
    name, _, initial = argument.partition(" ")
    name = name.upper()
    if not profile.offers_login:
        return auth.NOT_OFFERED.reply()
    if login:
        return session.AUTH_NOT_NOW.reply()
    refused = refusal(name, profile, channel)
    if refused is not None:
        return refused
    exchange = Exchange(name, profile, channel)
    return exchange, exchange.begin(initial.strip())


def line_fault(fault: LineFault, begins: bytes, profile: Profile) -> Reply:
    """What is said of a command line that can't be taken; `begins` is the beginning of one that is too long."""
    if fault is not LineFault.TOO_LONG:
        return session.LINE_NOT_CLEAN.reply()
    is_answer = profile.offers_login and begins.upper() == b"AUTH "
    return (auth.ANSWER_TOO_LONG if is_answer else session.LINE_TOO_LONG).reply()


def refusal(name: str, profile: Profile, channel: Channel) -> Reply | None:
    """Why a mechanism can't be used here, or None."""
    if not name:
        return session.BAD_ARGUMENT.reply(detail="A mechanism must follow AUTH")
    if name not in profile.mechanisms:
        return auth.MECHANISM.reply()
    traits = sasl.TRAITS[name]
    if traits.strength < profile.min_strength:
        return auth.TOO_WEAK.reply()
    if not (channel.tls or profile.login_in_clear):
        if traits.in_clear:
            return auth.TLS_FOR_PASSWORD.reply()
        if profile.login_needs_tls or traits.needs_tls:
            return auth.TLS_FOR_LOGIN.reply()
    return None if name in profile.usable(channel) else auth.MECHANISM.reply()


class Exchange:
    """From the AUTH command to the login; each step is a challenge, a refusal, or something to decide."""

    __slots__ = ("_mechanism", "_name", "_refusal")

    def __init__(self, name: str, profile: Profile, channel: Channel) -> None:
        """Begin with a mechanism that `refusal` has nothing against."""
        self._name = name
        self._mechanism = _mechanism(name, profile, channel)
        self._refusal: Reply | None = None

    def begin(self, initial: str) -> Step:
        """Take what came with the command, "" for nothing."""
        if initial and sasl.TRAITS[self._name].server_first:
            return auth.INITIAL_RESPONSE.reply()
        return self.take_line(initial.encode("utf-8")) if initial else self._said(self._mechanism.step(None))

    def take_line(self, line: bytes | LineFault) -> Step:
        """Take one answer."""
        if self._refusal is not None:
            return self._refusal  # RFC 7628 3.2.3: whatever the client says to the reason, it is not let in
        if isinstance(line, LineFault):
            return (auth.ANSWER_TOO_LONG if line is LineFault.TOO_LONG else auth.BASE64).reply()
        response = sasl.decode_response(line)
        return response if isinstance(response, Reply) else self._said(self._mechanism.step(response))

    def take_secret(self, secret: object) -> Step:
        """Take what was asked for by `SecretWanted`."""
        return self._said(cast("sasl.Keyed", self._mechanism).take_secret(secret))

    def explain_refusal(self, login: Login, reply: Reply) -> Reply | None:
        """The challenge that tells a client why its token is not taken (RFC 7628 3.2.2), if it gets one."""
        if login.proof is not Proof.TOKEN or reply.cause is not auth.BAD_CREDENTIALS:
            return None
        self._refusal = reply
        reason = {"status": "401" if self._name == "XOAUTH2" else "invalid_token", "schemes": "bearer"}
        return auth.CHALLENGE.reply(challenge=sasl.encode_challenge(msgspec.json.encode(reason)))

    @staticmethod
    def _said(step: sasl.Step) -> Step:
        if isinstance(step, bytes):
            return auth.CHALLENGE.because(sasl.encode_challenge(step))
        return step


def _mechanism(name: str, profile: Profile, channel: Channel) -> sasl.Mechanism:
    if name == "PLAIN":
        return sasl.Plain()
    if name == "LOGIN":
        return sasl.LoginExchange()
    if name == "EXTERNAL":
        return sasl.External()
    if name in sasl.BY_TOKEN:
        return sasl.Bearer(name)
    assert profile.random is not None  # a profile with such mechanisms has one
    nonce = profile.random(sasl.NONCE_OCTETS)
    if name == "CRAM-MD5":
        return sasl.CramMd5(nonce, profile.hostname)
    offers_plus = name.removesuffix(PLUS) + PLUS in profile.usable(channel)
    return ScramServer(name, nonce, channel.end_point, offers_plus=offers_plus)
