"""Read the commands that ask this server something and belong to no transaction: VRFY, EXPN, ETRN, HELP.

Each comes to an event for those who know the answer, or to the answer itself. When they may come is in `smtp.states`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import extensions, session
from pillarbox.mail.help import help_lines
from pillarbox.smtp import grammar
from pillarbox.smtp.events import StartQueue, StatusWanted, Verify

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.smtp.profile import Profile


def verify(argument: str, *, expand: bool) -> Verify | Reply:
    """VRFY, or EXPN (RFC 5321 4.1.1.6)."""
    if expand or grammar.parse_verify(argument) is not None:
        return Verify(argument, expand)
    return session.BAD_ARGUMENT.reply(detail="An address or a name must follow")


def knows_etrn(profile: Profile) -> bool:
    """Whether there is an ETRN at all."""
    return profile.starts_queue and profile.extensions.etrn != "off"


def start_queue(argument: str, profile: Profile) -> StartQueue | Reply:
    """ETRN (RFC 1985)."""
    if not knows_etrn(profile):
        return session.NOT_IMPLEMENTED.reply()
    if "ETRN" in profile.suspended:
        return extensions.QUEUE_BUSY.reply(node=argument)
    return grammar.parse_etrn(argument) or session.BAD_ARGUMENT.reply(detail="A domain must follow ETRN")


def help_about(
    topic: str, profile: Profile, offered: AbstractSet[str], general: Callable[[], Reply]
) -> StatusWanted | Reply:
    """HELP; `general` says what can be used now (RFC 5321 4.1.1.8)."""
    if not profile.helps:
        return session.NOT_IMPLEMENTED.reply()
    if not topic:
        return general()
    if topic.upper() == "STATUS":
        return StatusWanted()
    lines = help_lines(topic, (), offered - profile.suspended)
    return session.HELP_UNKNOWN.reply() if lines is None else session.HELP.because(*lines)
