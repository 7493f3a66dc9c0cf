"""The extensions that a session is offered: which can be switched off, and what EHLO says of each.

How their parameters are read is `smtp.grammar`'s, what is granted `policy.terms`' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pillarbox.mail.units import AtLeast, Octets, Seconds, Settings
from pillarbox.smtp.attributes import OF_XCLIENT, OF_XFORWARD
from pillarbox.smtp.wire import format_moment

if TYPE_CHECKING:
    from pillarbox.smtp.profile import Channel, Profile

Switch = Literal["on", "off", "suspended"]

FUTURERELEASE = "FUTURERELEASE"
# setting -> keyword, of those that can be suspended
_KEYWORDS = {
    "smtputf8": "SMTPUTF8",
    "dsn": "DSN",
    "binarymime": "BINARYMIME",
    "deliverby": "DELIVERBY",
    "futurerelease": FUTURERELEASE,
    "mt_priority": "MT-PRIORITY",
    "rrvs": "RRVS",
    "requiretls": "REQUIRETLS",
    "etrn": "ETRN",
}


class ExtensionSettings(Settings, frozen=True):
    """Which extensions are offered. One that is `suspended` is not, and sessions that saw it offered are told to wait (455)."""

    smtputf8: Switch = "on"
    """Addresses and headers beyond ASCII (RFC 6531)."""
    dsn: Switch = "on"
    """Delivery reports on request (RFC 3461)."""
    chunking: Literal["on", "off"] = "on"
    """Messages in counted pieces, by BDAT (RFC 3030). A command that is followed by octets can't be suspended."""
    binarymime: Switch = "on"
    """Messages that are not lines of text (RFC 3030); of no use without `chunking`."""
    deliverby: Switch = "on"
    """Messages that are to arrive within a time, or to be returned (RFC 2852)."""
    deliverby_min_s: Seconds = Seconds(60)
    """The shortest time that a message to be returned may ask for; it is announced (555)."""
    futurerelease: Switch = "on"
    """Messages that are to be sent later (RFC 4865), from users who log in."""
    futurerelease_max_s: Seconds = Seconds(2_592_000)
    """How long a message may be held at most; it is announced (501)."""
    mt_priority: Switch = "on"
    """Messages that go before others, or after them (RFC 6710)."""
    raise_priority: Literal["login", "trusted", "nobody"] = "trusted"
    """Who may ask for a priority above 0: users who log in, these and the hosts in `policy.relay_networks`, or nobody. For
    all others it is lowered to 0."""
    urgent_octets: Octets = Octets(0)
    """The largest message with a priority above 0 (552); 0 for no limit of its own."""
    busy_after_s: Seconds = Seconds(600)
    """When mail waits so long for its turn, the queue is busy."""
    busy_priority: Annotated[int, AtLeast(-9)] = -9
    """The lowest priority that is taken while the queue is busy (450); -9 for all."""
    rrvs: Switch = "on"
    """Messages for those only who had the address at a given time (RFC 7293); offered if `since` is known of any mailbox
    or domain."""
    requiretls: Switch = "on"
    """Messages that must not travel without TLS (RFC 8689); offered under TLS."""
    etrn: Switch = "on"
    """The command to send what waits for a node that was away (RFC 1985); offered if `etrn.allow` names any."""

    @property
    def suspended(self) -> frozenset[str]:
        """The keywords of those that are suspended."""
        return frozenset(keyword for name, keyword in _KEYWORDS.items() if getattr(self, name) == "suspended")


def keywords(profile: Profile, channel: Channel, *, login: bool) -> dict[str, str]:
    """The extensions of a session, each with what EHLO says of it."""
    limits, settings = profile.limits, profile.extensions
    chunking = settings.chunking == "on"
    possible = {
        "PIPELINING": "",
        "SIZE": str(limits.message_octets),
        "8BITMIME": "",
        "SMTPUTF8": "",
        "CHUNKING": "" if chunking else None,
        "BINARYMIME": "" if chunking else None,
        "ENHANCEDSTATUSCODES": "",
        "DSN": "",
        "DELIVERBY": str(int(settings.deliverby_min_s)),
        FUTURERELEASE: f"{int(settings.futurerelease_max_s)} {{}}" if profile.needs_login else None,
        "MT-PRIORITY": "",
        "RRVS": "" if profile.knows_since else None,
        "REQUIRETLS": "" if channel.tls else None,
        "ETRN": "" if profile.starts_queue else None,
        "XCLIENT": " ".join(OF_XCLIENT) if "XCLIENT" in channel.trusted_with else None,
        "XFORWARD": " ".join(OF_XFORWARD) if "XFORWARD" in channel.trusted_with else None,
        "LIMITS": _limits(profile),
        "STARTTLS": "" if profile.offers("STARTTLS", channel=channel, login=login) else None,
        "AUTH": " ".join(profile.usable(channel))
        if profile.offers("AUTH", channel=channel, login=login)
        else None,
    }
    off = {keyword for name, keyword in _KEYWORDS.items() if getattr(settings, name) == "off"}
    off |= profile.suspended
    return {keyword: said for keyword, said in possible.items() if said is not None and keyword not in off}


def _limits(profile: Profile) -> str:
    """The limits of a session (RFC 9422 4)."""
    limits = profile.limits
    said = f"RCPTMAX={limits.recipients} MAILMAX={limits.messages}"
    return f"{said} RCPTDOMAINMAX={limits.recipient_domains}" if limits.recipient_domains else said


def dated(line: str, until: float) -> str:
    """What EHLO says of FUTURERELEASE, the last moment of a release filled in (RFC 4865 3)."""
    return line.format(format_moment(until))
