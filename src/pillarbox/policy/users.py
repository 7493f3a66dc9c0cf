"""Say what is known of single users and lists of our domains beyond that they exist, and read it from the configuration.

What follows from it for a message is decided by `policy.recipients`, and by `policy.quota` where the disk has to be asked.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Literal

import msgspec

from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.units import Octets, Rate, Seconds, Settings


class State(StrEnum):
    """How it stands with an account."""

    ACTIVE = "active"
    PAUSED = "paused"  # takes no mail for the time being
    LOCKED = "locked"  # being moved or repaired
    DISABLED = "disabled"  # exists, and takes no mail any more
    LEFT = "left"  # nobody reads it any more
    MOVED = "moved"  # its owner has another address


class Reveal(StrEnum):
    """Who is told the address that mail is forwarded to."""

    NEVER = "never"
    AUTHENTICATED = "authenticated"
    ALWAYS = "always"


class Disclosure(StrEnum):
    """Who is told the new address of a user who moved."""

    TELL = "tell"
    AUTHENTICATED = "authenticated"
    HIDE = "hide"


class Overflow(StrEnum):
    """What becomes of a message that does not fit into a mailbox."""

    TEMP = "temp"
    REJECT = "reject"


class QuotaSettings(Settings, frozen=True):
    """How much each mailbox of the domain may hold; for `deliver = "maildir:..."`. Kept as Maildir++ does, in `maildirsize`."""

    size_octets: Octets = Octets(0)
    """What a mailbox may hold; 0 for no limit."""
    messages: int = 0
    """How many messages it may hold; 0 for any number."""
    slack_octets: Octets = Octets(0)
    """How much above `size` is still taken while `grace` lasts."""
    overflow: Overflow = Overflow.TEMP
    """What a sender hears whose message does not fit: `temp` lets it try again while `grace` lasts (452), `reject` does not
    (552)."""
    grace_s: Seconds = Seconds(7 * 86400)
    """How long the owner has, from the first message that went over `size`, to make room."""


class ForwardSettings(Settings, frozen=True):
    """What senders hear about users of the domain whose mail is forwarded."""

    reveal: Reveal = Reveal.NEVER
    """Who is told the new address (251): nobody, clients that logged in, or everybody. The mail is forwarded in any case."""


class MovedSettings(Settings, frozen=True):
    """What senders hear about users of the domain who moved."""

    mode: Disclosure = Disclosure.TELL
    """Who is told the new address (551): everybody, clients that logged in, or nobody (550)."""


class UserSettings(Settings, frozen=True):
    """One user of the domain about whom there is more to say than the name; it need not stand in `users` too."""

    state: State = State.ACTIVE
    """`active`; `paused` and `locked` put mail off (450); `disabled`, `left` and `moved` refuse it (550, 551)."""
    moved_to: str = ""
    """The new address, for `state = "moved"`; see `moved.mode`."""
    forward: list[str] = msgspec.field(default_factory=list)
    """Addresses that mail is sent on to."""
    keep_copy: bool = False
    """Keep forwarded mail in the mailbox too."""
    since: dt.datetime | None = None
    """When this mailbox was given to its present owner, such as 2026-01-31T00:00:00Z."""
    quota_octets: Octets | None = None
    """What the mailbox may hold, instead of `quota.size` of the domain; 0 for no limit."""
    max_message_octets: Octets | None = None
    """The biggest message that it takes, instead of `max_message` of the domain; 0 for any."""
    rate: Rate | None = None
    """How much it gets, instead of `rate` of the domain."""


class ListSettings(Settings, frozen=True):
    """A list: an alias with a say in who may use it."""

    members: list[str]
    """Whom it stands for, written like the values of an alias."""
    senders: list[str] | Literal["*", "members", "authenticated"] = "*"
    """Who may write to it: everybody, its members by their sender address, clients that logged in, or the sender addresses
    listed, "@domain" for all of a domain."""
    show_members: bool = True
    """Let EXPN list the members, where `policy.vrfy` lets it do so at all."""


class Quota(msgspec.Struct, frozen=True):
    """What one mailbox may hold."""

    home: str  # the target of its route, without any tag
    size: int
    messages: int
    slack: int
    overflow: Overflow
    grace_s: float


class Mailbox(msgspec.Struct, frozen=True):
    """What is known of one user."""

    address: str
    state: State = State.ACTIVE
    moved_to: str = ""
    moved_mode: Disclosure = Disclosure.HIDE
    forward_to: str = ""  # the one address elsewhere that gets all the mail, if it may be told
    reveal: Reveal = Reveal.NEVER
    since: float | None = None
    max_message_octets: int = 0
    rate: Rate | None = None
    quota: Quota | None = None


class MailingList(msgspec.Struct, frozen=True):
    """A list with a say in who may use it."""

    address: str
    anybody: str  # "*", "members", "authenticated", or "" if only `senders` may
    senders: frozenset[str]
    show_members: bool


def check_user(user: UserSettings) -> None:
    """Raise ValueError, naming the key, for what does not go together."""
    if user.state is State.MOVED and not user.moved_to:
        raise ValueError('moved_to: is missing; a user with state = "moved" needs it')
    if user.moved_to and user.state is not State.MOVED:
        raise ValueError('moved_to: goes only with state = "moved"')
    if user.moved_to:
        try:
            parse_address(user.moved_to)
        except AddressError as error:
            raise ValueError(f"moved_to: {error}") from error
    if user.forward and user.state is not State.ACTIVE:
        raise ValueError(f'forward: nothing is forwarded while state = "{user.state}"')
    if user.keep_copy and not user.forward:
        raise ValueError("keep_copy: there is no `forward`")


def timestamp(moment: dt.datetime | None) -> float | None:
    """A moment of the configuration; one without an offset is UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def compile_list(settings: ListSettings, address: str, members: frozenset[str]) -> MailingList:
    """Prepare a list; `members` are their complete addresses, folded."""
    senders = settings.senders
    if isinstance(senders, str):
        return MailingList(
            address, senders, members if senders == "members" else frozenset(), settings.show_members
        )
    wrong = next((sender for sender in senders if "@" not in sender), None)
    if wrong is not None:
        raise ValueError(f'senders: "{wrong}" is no address; write one, or "@" and a domain')
    return MailingList(address, "", frozenset(map(str.lower, senders)), settings.show_members)
