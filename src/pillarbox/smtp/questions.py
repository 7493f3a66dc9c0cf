"""Read the commands that ask for something and belong to no transaction: VRFY, EXPN, ETRN, HELP, STARTTLS, XCLIENT, XFORWARD.

Each comes to an event for those who know the answer, or to the answer itself. When they may come is in `smtp.states`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import extensions, session
from pillarbox.mail.help import help_lines
from pillarbox.smtp import attributes, grammar
from pillarbox.smtp.events import StartQueue, StatusWanted, TlsWanted, Verify, XClient, XForward

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.smtp.events import Event
    from pillarbox.smtp.profile import Channel, Profile


EVENTS = (StatusWanted, Verify, StartQueue, XClient, XForward)  # the answer to them changes nothing
Reader = Callable[[str, "Profile", "Channel"], "Event | Reply"]


def verify(argument: str, _profile: Profile, _channel: Channel) -> Verify | Reply:
    """VRFY (RFC 5321 4.1.1.6)."""
    if grammar.parse_verify(argument) is not None:
        return Verify(argument, expand=False)
    return session.BAD_ARGUMENT.reply(detail="An address or a name must follow")


def expand(argument: str, _profile: Profile, _channel: Channel) -> Verify:
    """EXPN (RFC 5321 4.1.1.7)."""
    return Verify(argument, expand=True)


def start_tls(argument: str, profile: Profile, channel: Channel) -> TlsWanted | Reply:
    """STARTTLS (RFC 3207 4)."""
    if channel.tls:
        return session.TLS_NOT_NOW.reply()
    if not profile.offers_tls:
        return session.TLS_NOT_OFFERED.reply()
    return session.UNEXPECTED_ARGUMENT.reply() if argument else TlsWanted()


def start_queue(argument: str, profile: Profile, _channel: Channel) -> StartQueue | Reply:
    """ETRN (RFC 1985)."""
    if "ETRN" in profile.suspended:
        return extensions.QUEUE_BUSY.reply(node=argument)
    return grammar.parse_etrn(argument) or session.BAD_ARGUMENT.reply(detail="A domain must follow ETRN")


def help_about(
    topic: str,
    profile: Profile,
    offered: AbstractSet[str],
    general: Callable[[], Reply],
    offers: Callable[[str], bool],
) -> StatusWanted | Reply:
    """HELP; `general` says what can be used now, `offers` whether a verb makes sense here at all (RFC 5321 4.1.1.8)."""
    if not profile.helps:
        return session.NOT_IMPLEMENTED.reply()
    if not topic:
        return general()
    name = topic.upper()
    if name == "STATUS":
        return StatusWanted()
    lines = help_lines(name, (), offered - profile.suspended) if offers(name) else None
    return session.HELP_UNKNOWN.reply() if lines is None else session.HELP.because(*lines)


READERS: dict[str, Reader] = {
    "VRFY": verify,
    "EXPN": expand,
    "ETRN": start_queue,
    "STARTTLS": start_tls,
    "XCLIENT": attributes.xclient,
    "XFORWARD": attributes.xforward,
}
