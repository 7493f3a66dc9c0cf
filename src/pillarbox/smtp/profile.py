"""What the sessions of one listener have in common: limits, demands, and what they offer.

Which command fits when is in `smtp.states`, what EHLO says of the extensions in `smtp.extensions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import msgspec

from pillarbox.mail.catalogue import session
from pillarbox.mail.help import help_lines
from pillarbox.mail.reply import Cause, Reply
from pillarbox.mail.units import AtLeast, Octets, Seconds, Settings
from pillarbox.smtp import sasl
from pillarbox.smtp.extensions import FUTURERELEASE, ExtensionSettings, dated, keywords
from pillarbox.smtp.states import (
    ALWAYS,
    ORDERED,
    PEER_VERBS,
    Fitting,
    State,
    fitting,
    transitions,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Limits(Settings, frozen=True):
    """What one session may ask of this server."""

    message_octets: Annotated[
        Octets, AtLeast(1, wise=64 << 10, because="RFC 5321 4.5.3.1.7 asks for 64K")
    ] = Octets(50 << 20)
    """The largest message, announced by SIZE (RFC 1870)."""
    min_free_octets: Octets = Octets(100 << 20)
    """Free space on the disk of the queue below which MAIL is put off (452)."""
    header_octets: Annotated[
        Octets, AtLeast(1, wise=8 << 10, because="headers of mail from the internet are longer")
    ] = Octets(256 << 10)
    """The largest header section."""
    command_line_octets: Annotated[Octets, AtLeast(512, because="RFC 5321 4.5.3.1.4")] = Octets(2048)
    """The longest command line; RFC 5321 4.5.3.1.4 asks for 512, extensions for some 1,200 more."""
    text_line_octets: Annotated[Octets, AtLeast(998, because="RFC 5321 4.5.3.1.6")] = Octets(4000)
    """The longest line of a message; RFC 5321 4.5.3.1.6 asks for 998."""
    recipients: Annotated[int, AtLeast(1, wise=100, because="RFC 5321 4.5.3.1.8 asks for 100")] = 1000
    """Recipients of one message, refused ones included; RFC 5321 4.5.3.1.8 asks for 100."""
    recipient_domains: int = 0
    """Different domains among the recipients of one message (RFC 9422 4.3); 0 for any number."""
    policy_recipients: int = 0
    """Accepted recipients above which the whole message is refused (503); 0 for never."""
    messages: Annotated[int, AtLeast(1)] = 1000
    """Messages of one session, refused ones included."""
    errors: Annotated[int, AtLeast(1)] = 20
    """Mistakes of one session before it is closed."""
    empty_commands: int = 100
    """Commands that lead nowhere, such as NOOP and RSET, since the last message; each further one counts as a mistake."""
    login_failures: Annotated[int, AtLeast(1)] = 3
    """Failed logins of one session before it is closed."""
    hops: Annotated[int, AtLeast(1, wise=30, because="mail that only takes a long way looks like a loop")] = (
        100
    )
    """Received fields before a message counts as looping; RFC 5321 6.3 asks for 100."""
    command_timeout_s: Annotated[
        Seconds, AtLeast(0.001, wise=30, because="RFC 5321 4.5.3.2.7 asks for 5m")
    ] = Seconds(300)
    """How long a client may be silent between commands (RFC 5321 4.5.3.2.7)."""
    data_timeout_s: Annotated[Seconds, AtLeast(0.001, wise=30, because="RFC 5321 4.5.3.2.5 asks for 3m")] = (
        Seconds(180)
    )
    """How long a client may be silent inside a message (RFC 5321 4.5.3.2.5)."""
    min_data_octets: Octets = Octets(512)
    """Octets of a message that a client must send in a second, on average once `data_timeout` has passed; 0 for no such
    demand. It keeps those from holding a place for ever who send an octet now and then."""


class Offer(msgspec.Struct, frozen=True):
    """The extensions of one kind of session: their keywords, and the EHLO reply that lists them."""

    keywords: frozenset[str]
    reply: Reply
    lines: tuple[str, ...]  # of the reply; that of FUTURERELEASE lacks its date


class Channel(msgspec.Struct, frozen=True):
    """What is known of the connection that carries a session."""

    tls: bool = False
    certified: bool = False  # the client showed a certificate, and it was verified
    end_point: bytes = b""  # the hash of our certificate (RFC 5929 4.1)
    trusted_with: frozenset[str] = frozenset()  # those of the `PEER_VERBS` that the client may use


PLAIN_CHANNEL, TLS_CHANNEL = Channel(), Channel(tls=True)  # as much as is known of it at first
_NOTHING: frozenset[str] = frozenset()


class Profile(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What all sessions of one listener have in common."""

    hostname: str
    limits: Limits = msgspec.field(default_factory=Limits)
    lmtp: bool = False
    helps: bool = True
    strict_pipelining: bool = (
        False  # refuse commands behind one that has to be the last of a group (RFC 2920 3.1)
    )
    offers_tls: bool = False
    offers_login: bool = False
    needs_tls: bool = False
    needs_login: bool = False
    login_in_clear: bool = False
    login_needs_tls: bool = True  # whatever the mechanism
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")  # the best first
    min_strength: sasl.Strength = sasl.Strength.PASSWORD
    random: Callable[[int], bytes] | None = (
        None  # octets that nobody can guess; mechanisms with a nonce need it
    )
    extensions: ExtensionSettings = msgspec.field(default_factory=ExtensionSettings)
    suspended: set[str] = msgspec.field(
        default_factory=set
    )  # keywords; shared, and changed while sessions are open
    starts_queue: bool = False  # there are nodes that may ask for their mail
    verifies: bool = True  # VRFY is answered, if only by 252
    expands: bool = False  # EXPN is, for everybody
    expands_for_logins: bool = False
    knows_since: bool = False  # it is known since when mailboxes or domains are whose they are
    peer_verbs: frozenset[str] = frozenset()  # those that some host may use
    # made here, not given:
    table: dict[State, dict[str, Cause | None]] = msgspec.field(default_factory=dict)
    fitting: Fitting = msgspec.field(default_factory=dict)
    _offers: dict[tuple[object, ...], Offer] = msgspec.field(default_factory=dict)
    _helps: dict[tuple[object, ...], Reply] = msgspec.field(default_factory=dict)
    _said: dict[Cause, Reply] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.random is None and not sasl.WITH_NONCE.isdisjoint(self.mechanisms):
            raise ValueError("these mechanisms need random octets")
        etrn = self.starts_queue and self.extensions.etrn != "off"
        for name, choose in (("table", transitions), ("fitting", fitting)):  # once, not at each command
            msgspec.structs.force_setattr(self, name, choose(self.peer_verbs, etrn=etrn))

    def say(self, cause: Cause) -> Reply:
        """The reply for a cause whose text begins with our name, built once."""
        reply = self._said.get(cause)
        if reply is None:
            reply = self._said[cause] = cause.reply(hostname=self.hostname)
        return reply

    def offers(self, verb: str, *, channel: Channel, login: bool) -> bool:
        """Whether a verb makes sense at all in a session that has TLS or a login, or not yet."""
        return {
            "STARTTLS": self.offers_tls and not channel.tls,
            "AUTH": not login and bool(self.usable(channel)),
            "HELP": self.helps,
            "ETRN": self.starts_queue and self.extensions.etrn == "on",
            "BDAT": self.extensions.chunking == "on",
            "VRFY": self.verifies,
            "EXPN": self.expands or (self.expands_for_logins and login),
            "LHLO": self.lmtp,
            "EHLO": not self.lmtp,
            "HELO": not self.lmtp,
            "XCLIENT": "XCLIENT" in channel.trusted_with,
            "XFORWARD": "XFORWARD" in channel.trusted_with,
        }.get(verb, True)

    def usable(self, channel: Channel) -> tuple[str, ...]:
        """The mechanisms that a session over such a channel may use, the best first."""
        if not self.offers_login:
            return ()
        return tuple(name for name in self.mechanisms if self._fits(name, channel))

    def _fits(self, name: str, channel: Channel) -> bool:
        traits = sasl.TRAITS[name]
        if traits.strength < self.min_strength:
            return False
        if traits.needs_tls:
            return channel.certified if name == "EXTERNAL" else bool(channel.end_point)
        return channel.tls or self.login_in_clear or not (traits.in_clear or self.login_needs_tls)

    def general_help(
        self, state: State, refusal: Callable[[str], Reply | None], *, channel: Channel, login: bool
    ) -> Reply:
        """The verbs that can be used now, `refusal` saying of each why not; made once for all sessions of a kind."""
        key = (state, login, channel)
        reply = self._helps.get(key)
        if reply is None:
            offered = (
                verb
                for verb in (*ALWAYS, *ORDERED, *PEER_VERBS)
                if self.offers(verb, channel=channel, login=login)
            )
            lines = help_lines("", [verb for verb in offered if refusal(verb) is None])
            reply = self._helps[key] = session.HELP.because(*(lines or ()))
        return reply

    def offer(self, *, extended: bool, channel: Channel, login: bool) -> Offer:
        """What a session that has TLS or a login, or not yet, is offered; nothing after HELO."""
        suspended = frozenset(self.suspended) if self.suspended else _NOTHING
        key = (extended, suspended, login, channel)
        found = self._offers.get(key)
        if found is None:
            offered = keywords(self, channel, login=login) if extended else {}
            lines = (self.hostname, *(f"{keyword} {said}".rstrip() for keyword, said in offered.items()))
            # MAIL may carry AUTH= even when the login is over (RFC 4954 5)
            known = frozenset(offered) | ({"AUTH"} if extended and login else set())
            found = self._offers[key] = Offer(known, session.HELLO.because(*lines), lines)
        return found

    def welcome(self, offer: Offer, now: float) -> Reply:
        """The EHLO reply that makes an offer at this Unix time."""
        if FUTURERELEASE not in offer.keywords:
            return offer.reply
        until = now + self.extensions.futurerelease_max_s
        lines = (dated(line, until) if line.startswith(FUTURERELEASE) else line for line in offer.lines)
        return session.HELLO.because(*lines)
