"""What an operator can do: choose messages, hold, release, retry, bounce or remove them, and ask what happened to one.

It works through the store alone, so it does not matter whether the server runs; how results are shown is the business
of `cli` and `console`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from pillarbox.diagnose.meaning import Explanation, look_up
from pillarbox.mail.address import AddressError
from pillarbox.mail.route import MAILDIR_ROOT_END, Transport, parse_route
from pillarbox.mail.spelling import some
from pillarbox.queue.ledger import Ledger, ListedMessage, ListedRecipient
from pillarbox.queue.schema import StoreError
from pillarbox.queue.spool import Happening, State, parse_id
from pillarbox.queue.suppression import BY_OPERATOR, Lesson, LessonKind, Suppressed, domain_of, entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_SHOWN_DESTINATIONS = 10
OPEN_STATES = frozenset({State.QUEUED, State.HELD, State.DAMAGED})  # the last one waits for an operator


class ControlError(Exception):
    """What was asked for can't be done; the message says why and what to do."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which recipients of which messages are meant: all that fit every condition that is set."""

    ids: tuple[str, ...] = ()
    destination: str = ""  # as listed, "mx:example.org", or only its target, "example.org"
    sender: str = ""  # the address, or "@domain"; "<>" for reports
    recipient: str = ""  # the address, or "@domain"
    older_than_s: float = 0.0
    states: frozenset[State] = frozenset()  # one of them; if there are none, any

    @property
    def is_everything(self) -> bool:
        """Whether no condition is set."""
        return self == Selection()

    def matches(self, message: ListedMessage, now: float) -> bool:
        """Whether a message has recipients that are meant; the ids are not looked at."""
        if self.older_than_s and now - message.received_at < self.older_than_s:
            return False
        if self.sender and (
            message.envelope is None or not _is_address(message.envelope.sender, self.sender)
        ):
            return False
        return bool(self.recipients_of(message))

    def recipients_of(self, message: ListedMessage) -> list[ListedRecipient]:
        """Those recipients of a message that are meant."""
        return [recipient for recipient in message.recipients if self._matches_recipient(recipient)]

    def _matches_recipient(self, recipient: ListedRecipient) -> bool:
        if self.states and recipient.state not in self.states:
            return False
        if not self.states and not self.ids and recipient.state not in OPEN_STATES:
            return False
        if self.destination and spelt(self.destination) not in _names(spelt(recipient.destination)):
            return False
        return not self.recipient or _is_address(recipient.address, self.recipient)


class Done(msgspec.Struct, frozen=True):
    """What a verb did: how many recipients it changed, and of how many messages."""

    messages: int
    recipients: int
    others: int  # open recipients of these messages that were not meant: for them all is as it was
    held_again: int  # of those that were released: their route is to be held


class Step(msgspec.Struct, frozen=True):
    """One line of a message's timeline; `recipient` is "" when it concerns all of them."""

    at: float
    kind: str
    recipient: str
    detail: dict[str, object]
    explanation: Explanation | None  # of a reply that was no success


class Timeline(msgspec.Struct, frozen=True):
    """All that is known of one message."""

    message: ListedMessage
    steps: tuple[Step, ...]


def open_store(data: Path) -> Ledger:
    """Open the store in the data folder. Raises ControlError."""
    try:
        return Ledger(data)
    except FileNotFoundError as error:
        raise ControlError(
            f"there is no mail store in {data}; name its folder with --data or --config"
        ) from error
    except PermissionError as error:
        raise ControlError(
            f"the mail store in {data} may not be opened; run this as the server's user"
        ) from error
    except StoreError as error:
        raise ControlError(str(error)) from error


def find(ledger: Ledger, queue_id: str) -> ListedMessage:
    """The message with this id. Raises ControlError."""
    try:
        message = ledger.show(parse_id(queue_id))
    except ValueError as error:
        raise ControlError(f"{error}; `pillarbox queue list` shows the ids") from error
    if message is None:
        raise ControlError(
            f"no message {queue_id.upper()} is known; finished ones are forgotten after a while"
        )
    return message


def select(
    ledger: Ledger, selection: Selection, *, now: float, limit: int = sys.maxsize
) -> list[ListedMessage]:
    """The messages that are meant, at most `limit`. Raises ControlError for an id that is unknown."""
    if selection.ids:
        named = [find(ledger, queue_id) for queue_id in dict.fromkeys(selection.ids)]
        return [message for message in named if selection.matches(message, now)][:limit]
    return ledger.list_messages(
        limit, states=selection.states, wanted=lambda message: selection.matches(message, now)
    )


def apply(
    ledger: Ledger,
    verb: str,
    selection: Selection,
    messages: Sequence[ListedMessage],
    *,
    now: float,
    progress: Callable[[int], None] = lambda _done: None,
) -> Done:
    """Do the verb with those recipients of the messages that are meant; `progress` learns how many messages are done."""
    touched = recipients = others = held_again = 0
    for number, message in enumerate(messages, 1):
        meant = selection.recipients_of(message)
        numbers = [one.number for one in meant]
        changed = ledger.apply_verb(verb, message=message.id, recipients=numbers, now=now)
        if changed:
            touched += 1
            recipients += changed
            others += sum(
                one.state in OPEN_STATES and one.number not in numbers for one in message.recipients
            )
        if changed and verb == "release":
            held_again += sum(one.state is State.HELD and _is_to_hold(one.destination) for one in meant)
        progress(number)
    return Done(touched, recipients, others, held_again)


def _is_to_hold(destination: str) -> bool:
    # What is in the store need not be readable as a route.
    return destination.partition(":")[0] == Transport.HOLD


def apply_to_destination(ledger: Ledger, verb: str, destination: str, *, now: float) -> bool:
    """Suspend or resume a destination; whether that changed anything. Raises ControlError."""
    try:
        parse_route(destination)
        known = [*destinations(ledger), *ledger.suspended()]
        destination = next((one for one in known if spelt(one) == spelt(destination)), destination)
        return bool(ledger.apply_verb(verb, destination=destination, now=now))
    except ValueError as error:
        advice = 'write it as `pillarbox queue show` does, such as "mx:example.org"'
        known = [spelt(one) for one in destinations(ledger)]
        there = f"; there is mail for {some(known, _SHOWN_DESTINATIONS)}" if known else ""
        raise ControlError(f"{destination!r} is no destination; {advice}{there}") from error


def spelt(destination: str) -> str:
    """A destination as people write it: the store also keeps where the mailbox begins in the folder of a Maildir."""
    return destination.replace(MAILDIR_ROOT_END, "/")


def destinations(ledger: Ledger) -> list[str]:
    """The destinations that mail waits for or is held for, those with the most of it first."""
    return list(dict.fromkeys(depth.destination for depth in ledger.depth()))


def trace(ledger: Ledger, queue_id: str) -> Timeline:
    """What happened to a message, each refusal explained. Raises ControlError."""
    message = find(ledger, queue_id)
    names = {recipient.number: recipient.address for recipient in message.recipients}
    steps = tuple(_step(happening, names) for happening in ledger.history(message.id))
    return Timeline(message, steps)


def suppressions(ledger: Ledger, *, now: float, domain: str = "") -> list[Suppressed]:
    """The suppression list, or that part of it that is about one domain. Raises ControlError."""
    wanted = _entry(f"@{domain.removeprefix('@')}") if domain else ""
    return [one for one in ledger.suppressions(now) if not wanted or domain_of(one.entry) == wanted]


def suppression(ledger: Ledger, address: str, *, now: float) -> list[Suppressed]:
    """What keeps mail from an address, or from "@" and a domain: entries for it and for its domain. Raises ControlError."""
    entry = _entry(address)
    return ledger.find_suppressions(list(dict.fromkeys([entry, domain_of(entry)])), now)


def suppress(ledger: Ledger, address: str, *, now: float, for_s: float, note: str = "") -> str:
    """Put an address, or "@" and a domain, on the suppression list; how it is spelt there. Raises ControlError."""
    entry = _entry(address)
    ledger.teach(Lesson(LessonKind.SUPPRESS, entry, now, now + for_s, BY_OPERATOR, note=note))
    return entry


def lift_suppression(ledger: Ledger, address: str, *, now: float) -> bool:
    """Take an address, or "@" and a domain, off the suppression list; whether it was on it. Raises ControlError."""
    return ledger.teach(Lesson(LessonKind.CLEAR, _entry(address), now))


def _entry(address: str) -> str:
    try:
        return entry_of(address)
    except AddressError as error:
        advice = 'write "user@example.org", or "@example.org" for the whole domain'
        raise ControlError(f"{address!r} is no address: {error}; {advice}") from error


def _step(happening: Happening, names: dict[int, str]) -> Step:
    reply = str(happening.detail.get("reply", ""))
    cause = str(happening.detail.get("cause", ""))
    explanation = None
    if reply[:1] in ("4", "5"):
        explanation = look_up(cause if cause not in ("", "peer") else reply)
    recipient = names.get(happening.number, "") if happening.number is not None else ""
    return Step(happening.at, happening.kind, recipient, happening.detail, explanation)


def _is_address(address: str, wanted: str) -> bool:
    """Whether an address is the one wanted, or of the domain wanted; case makes no difference."""
    address, wanted = address.lower(), wanted.lower()
    if wanted == "<>":
        return not address
    return address.endswith(wanted) if wanted.startswith("@") else address == wanted


def _names(destination: str) -> tuple[str, str]:
    return destination, destination.partition(":")[2]
