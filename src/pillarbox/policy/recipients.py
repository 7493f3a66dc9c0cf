"""Decide about recipients by what the operator wrote about them: state, own limits, who may write to a list, who is told what.

No look-up here waits; how full a mailbox is has to be read from the disk, and is `policy.quota`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import envelope, mailbox
from pillarbox.policy.users import Disclosure, Mailbox, MailingList, Reveal, State

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.names import Target

_BY_STATE = {
    State.PAUSED: mailbox.PAUSED,
    State.LOCKED: mailbox.LOCKED,
    State.DISABLED: mailbox.DISABLED,
    State.LEFT: mailbox.LEFT,
}


def decide_state(user: Mailbox, *, authenticated: bool) -> Reply | None:
    """Why the state of an account keeps mail from it, if it does."""
    if user.state is not State.MOVED:
        cause = _BY_STATE.get(user.state)
        return None if cause is None else cause.reply()
    told = user.moved_mode is Disclosure.TELL or (
        user.moved_mode is Disclosure.AUTHENTICATED and authenticated
    )
    return mailbox.MOVED.reply(address=user.moved_to) if told else mailbox.LEFT.reply()


def decide_list(found: MailingList, sender: Address | None, *, authenticated: bool) -> Reply | None:
    """Whether a sender may write to a list. Delivery reports, which have no sender, may not unless everybody may."""
    if found.anybody == "*" or (found.anybody == "authenticated" and authenticated):
        return None
    if sender is not None:
        address = str(sender).lower()
        if address in found.senders or "@" + address.rpartition("@")[2] in found.senders:
            return None
    return mailbox.LIST_CLOSED.reply()


def admit(
    targets: tuple[Target, ...],
    octets: int,
    *,
    authenticated: bool,
) -> tuple[Target, ...] | Reply:
    """The targets that take a message of the announced size, or the refusal if there are none.

    Of several, as of a list, those whose account is closed are left out, so that they do not keep mail from the others;
    those that refuse for now stay, and the queue waits for them. Limits of their own count at delivery.
    """
    kept = []
    refusal = None
    for target in targets:
        user = target.mailbox
        opinion = None if user is None else decide_state(user, authenticated=authenticated)
        if len(targets) == 1 and opinion is None and user is not None:
            opinion = _decide_limits(user, octets)
        if opinion is None or (opinion.temporary and len(targets) > 1):
            kept.append(target)
        else:
            refusal = refusal or opinion
    return tuple(kept) if refusal is None or kept else refusal


def _decide_limits(user: Mailbox, octets: int) -> Reply | None:
    if 0 < user.max_message_octets < octets:
        return mailbox.MESSAGE_TOO_BIG.reply(limit=user.max_message_octets)
    return None


def acceptance(entry: Mailbox | MailingList | None, *, authenticated: bool) -> Reply:
    """The positive answer: it names the new address of a forwarded user to those who may know (RFC 5321 3.4)."""
    return revealed(entry, authenticated=authenticated) or envelope.RECIPIENT_OK.reply()


def revealed(entry: Mailbox | MailingList | None, *, authenticated: bool) -> Reply | None:
    """The 251 for a forwarded user, if this client may know."""
    if not isinstance(entry, Mailbox) or not entry.forward_to:
        return None
    told = entry.reveal is Reveal.ALWAYS or (entry.reveal is Reveal.AUTHENTICATED and authenticated)
    return mailbox.WILL_FORWARD.reply(address=entry.forward_to) if told else None
