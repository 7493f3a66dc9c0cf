"""Tell which refusals speak against an address as such, and which addresses are not tried any more.

The rules only: the rows lie in `queue.suppressed`, and sending mail back is `queue.manager`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from pillarbox.diagnose.causes import Category, Suppress
from pillarbox.diagnose.classify import Certainty, Verdict
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Result, Stage
from pillarbox.mail.route import Transport
from pillarbox.mail.units import Seconds, Settings
from pillarbox.queue.records import pack_result

DISTRUST_S = 3600.0  # what a host says of mailboxes does not count for so long after it doubted the sender
_BY_OTHERS = frozenset({Transport.MX, Transport.SMTP})  # only there another server's list of mailboxes is met
_SURE = frozenset({Certainty.PATTERN, Certainty.STATUS})
_NO_MAIL = "host.no_mail"
_DOUBTS = frozenset({Category.REPUTATION, Category.AUTHENTICITY})


BY_OPERATOR = "operator"  # the cause of an entry that an operator made


class SuppressionSettings(Settings, frozen=True):
    """The suppression list: addresses that other servers have said do not exist, and that are not tried again.

    Mail to them is returned to its sender at once. Only what is said about the mailbox itself brings an address here,
    never a refusal of the sender, its address, its reputation or its content.
    """

    enabled: bool = True
    """Keep the list, and follow it."""
    address_s: Seconds = Seconds(31_536_000)
    """How long an address that does not exist, or is closed, stays on the list."""
    repeats: int = 3
    """So many refusals of another kind, such as a full mailbox, bring an address here as well,"""
    repeats_within_s: Seconds = Seconds(2_592_000)
    """if they come within this time;"""
    repeated_s: Seconds = Seconds(7_776_000)
    """and it stays for so long."""
    domain_s: Seconds = Seconds(86_400)
    """How long a domain whose hosts take no mail at all stays here, unless DNS says how long that holds."""


class LessonKind(StrEnum):
    """What is learnt about an address or a domain."""

    SUPPRESS = "suppress"  # not tried any more
    STRIKE = "strike"  # not tried any more if it happens again and again
    CLEAR = "clear"  # it takes mail: what was held against it is forgotten


class Lesson(msgspec.Struct, frozen=True):
    """What one outcome says about an address or a domain, stored together with the outcome."""

    kind: LessonKind
    entry: str  # as `entry_of` writes it
    at: float
    until: float = 0.0  # when the entry expires
    cause: str = ""
    message: int | None = None  # where it was learnt
    number: int | None = None  # of the recipient there
    result: bytes | None = None  # as `queue.records` packs it: the lesson may go to another process
    note: str = ""  # an operator's words
    repeats: int = 0  # of a strike: so many since `counted_from` become an entry
    counted_from: float = 0.0
    returned: bool = (
        False  # by a bounce: the host had taken the message, so that it takes another proves nothing
    )


class Suppressed(msgspec.Struct, frozen=True):
    """One entry of the list."""

    entry: str  # an address, or "@" and a domain
    since: float
    until: float
    cause: str  # an id of the list of causes; "operator" if somebody put it there
    message: int | None = None
    result: Result | None = None  # the reply that did it
    note: str = ""


def entry_of(address: str) -> str:
    """How the list spells an address, or "@" and a domain: in lower case, the domain in A-labels.

    Raises AddressError.
    """
    if address.startswith("@"):
        return f"@{parse_address(f'postmaster{address}').dns_domain}"
    parsed = parse_address(address)
    return f"{parsed.local.lower()}@{parsed.dns_domain}"


def domain_of(entry: str) -> str:
    """The entry of the domain that an entry belongs to."""
    return f"@{entry.rpartition('@')[2]}"


def evidence(result: Result, diagnosis: Verdict | None) -> Suppress:
    """What a final refusal says against the address itself; `diagnosis` is None if no peer spoke.

    Only a permanent reply to one recipient counts, known by its words or by a status that the registry defines: a code
    alone says nothing, and what is said to several at once may concern any of them.
    """
    reply = result.reply
    if reply.cause is delivery.NULL_MX:
        return Suppress.DOMAIN
    if diagnosis is None or not reply.permanent or result.shared:
        return Suppress.NEVER
    if result.stage is Stage.GREETING:  # of the last host: it fails only when no other was of more use
        return Suppress.DOMAIN if diagnosis.cause.id == _NO_MAIL else Suppress.NEVER
    if result.stage not in (Stage.RCPT, Stage.BODY) or not is_sure(diagnosis):
        return Suppress.NEVER
    return diagnosis.suppress


def is_sure(diagnosis: Verdict) -> bool:
    """Whether words or a status of a known meaning stand behind it."""
    return diagnosis.certainty in _SURE


def is_met_by_others(transport: Transport) -> bool:
    """Whether mail that takes this way meets another server's mailboxes: only such mail is kept from the list."""
    return transport in _BY_OTHERS


def doubts_sender(diagnosis: Verdict | None) -> bool:
    """Whether a host refuses this server or its senders: what it says of mailboxes is worth nothing for a while."""
    return diagnosis is not None and diagnosis.cause.category in _DOUBTS


class Watch:
    """Which addresses the list may say something about: a quick look that is sometimes wrong, and then costs a question.

    It keeps a number for each entry, not its text, and is exact as long as no two texts have the same number.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._numbers: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def add(self, entries: Iterable[str]) -> None:
        """The list has something about these now."""
        self._numbers.update(map(hash, entries))

    def drop(self, entries: Iterable[str]) -> None:
        """The list has nothing about these any more."""
        self._numbers.difference_update(map(hash, entries))

    def may_know(self, address: str) -> bool:
        """Whether there may be something about an address or its domain."""
        if not self._numbers:
            return False
        try:
            entry = entry_of(address)
        except AddressError:
            return False
        return hash(entry) in self._numbers or hash(domain_of(entry)) in self._numbers


def lesson(  # noqa: PLR0913 - the facts of one outcome
    settings: SuppressionSettings,
    result: Result,
    diagnosis: Verdict | None,
    *,
    address: str,
    message: int,
    number: int,
    now: float,
) -> Lesson | None:
    """What a final refusal teaches, if anything."""
    weight = evidence(result, diagnosis)
    if weight is Suppress.NEVER:
        return None
    try:
        entry = entry_of(address)
    except AddressError:
        return None
    kind, until = LessonKind.SUPPRESS, now + settings.address_s
    if weight is Suppress.DOMAIN:
        entry, until = domain_of(entry), now + (result.wait_s or settings.domain_s)
    elif weight is Suppress.REPEATED:
        kind, until = LessonKind.STRIKE, now + settings.repeated_s
    return Lesson(
        kind,
        entry,
        now,
        until,
        cause=diagnosis.cause.id if diagnosis is not None else result.reply.cause_id,
        message=message,
        number=number,
        result=pack_result(result),
        repeats=settings.repeats,
        counted_from=now - settings.repeats_within_s,
    )
