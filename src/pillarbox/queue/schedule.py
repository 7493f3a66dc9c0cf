"""Decide when the next attempt is due, and whose turn it is.

What an attempt brought is `queue.outcome`'s business.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated

import msgspec

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.message import format_date
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.mail.units import AtLeast, Octets, Seconds, Settings
from pillarbox.smtp.replies import CLOSING_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillarbox.mail.route import Route
    from pillarbox.queue.spool import Pending, Queued

_REACHING = frozenset(
    {Stage.DNS, Stage.CONNECT, Stage.GREETING, Stage.HELLO, Stage.STARTTLS, Stage.TLS, Stage.AUTH}
)
_STORAGE_FULL = ".3.1"  # RFC 3463 3.4: mail system full, whichever message it is


class RetrySettings(Settings, frozen=True):
    """How long to wait between the attempts for one recipient, and when to give up (RFC 5321 4.5.4.1)."""

    first_s: Annotated[Seconds, AtLeast(0.001)] = Seconds(300)
    """The wait after the first failure."""
    factor: Annotated[float, AtLeast(1)] = 2.0
    """Each later wait is so many times the one before."""
    max_s: Annotated[Seconds, AtLeast(0.001)] = Seconds(14400)
    """The longest wait."""
    greylist_s: Seconds = Seconds(360)
    """The wait after the first failure where greylisting is seen (RFC 6647)."""
    give_up_s: Seconds = Seconds(432000)
    """The time in the queue after which a message is returned to its sender."""
    delay_notice_s: Seconds = Seconds(14400)
    """The time in the queue after which the sender is told, once, that it takes longer."""


class QueueSettings(Settings, frozen=True):
    """How the queue delivers."""

    retry: RetrySettings = RetrySettings()
    destination_lanes: Annotated[int, AtLeast(1)] = 20
    """Deliveries to one destination at the same time, at most."""
    first_lanes: Annotated[int, AtLeast(1)] = 5
    """So many to a destination that is new; each success allows one more, each failure to reach it, and each 421, halves
    it."""
    lanes: Annotated[int, AtLeast(1)] = 500
    """Deliveries at the same time in all."""
    idle_s: Seconds = Seconds(5)
    """How long a delivery lane, and so its connection, waits for the next message."""
    unreachable_after: Annotated[int, AtLeast(1)] = 3
    """After so many such failures in a row the mail of a destination is put off without trying."""
    unreachable_s: Seconds = Seconds(300)
    """For so long."""
    max_messages: int = 0
    """Messages in the queue above which no more are taken (452); 0 for any number."""
    active_recipients: Annotated[int, AtLeast(1)] = 20_000
    """Recipients in memory, at most; the others wait in the store."""
    active_octets: Octets = Octets(67_108_864)
    """Octets of message bodies in memory, at most; the others are read again from the store."""
    history_s: Seconds = Seconds(2_592_000)
    """How long a finished message can be asked about."""


def wants_rest(result: Result) -> bool:
    """Whether the other side can't be reached, or takes less than it is sent: any other message would fare the same."""
    reply = result.reply
    return reply.temporary and (
        result.stage in _REACHING or reply.code == CLOSING_CODE or reply.status.endswith(_STORAGE_FULL)
    )


def left_alone(host: str, said: Result, rest_s: float, now: float) -> Result:
    """What a message gets whose host, or destination, is not tried for `rest_s` because of what it `said` before."""
    before = "it last said" if said.origin is Origin.PEER else "the last try"
    reply = delivery.LEFT_ALONE.noted(
        host=host, until=format_date(now + rest_s), said=f"{before}: {said.reply}"
    )
    return Result(reply, Stage.LOCAL, Origin.LOCAL, said.host, wait_s=rest_s)


def retry_delay_s(attempts: int, retry: RetrySettings) -> float:
    """The wait before the next attempt, when `attempts` were made and failed."""
    exponent = min(max(attempts - 1, 0), 64)
    return float(min(retry.max_s, retry.first_s * retry.factor**exponent))


class Destination(msgspec.Struct):
    """One route: what is ready for it, and what was learned about it."""

    route: Route
    limit: int  # lanes allowed
    ready: deque[Queued] = msgspec.field(default_factory=deque)
    recipients: int = 0  # in `ready`
    lanes: int = 0
    waits: bool = False  # for a lane, because all are in use
    failures: int = 0  # in a row: it can't be reached, or wants less mail
    put_off_until: float = 0.0
    put_off_with: Result | None = None  # because of this
    known_until: float = 0.0  # what was learned is forgotten then, if there is nothing to do
    barred: bool = False  # by the operator
    distrusted_until: float = 0.0  # it doubts this server: what it says of mailboxes does not count


class Schedule:
    """What is in memory, by destination, and which destination may open a lane."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self.recipients = 0  # in memory: ready, or taken and not yet done
        self.octets = 0  # of their inline bodies
        self.lanes = 0
        self._share = max(settings.active_recipients // 4, 1)
        self._destinations: dict[Route, Destination] = {}
        self._waiting: deque[Destination] = deque()

    @property
    def is_full(self) -> bool:
        """Whether nothing more may come in."""
        return self.recipients >= self.settings.active_recipients

    @property
    def has_room(self) -> bool:
        """Whether more should be claimed from the store."""
        return self.recipients <= self.settings.active_recipients // 2

    def find(self, route: Route) -> Destination:
        """The destination of a route, new if need be."""
        destination = self._destinations.get(route)
        if destination is None:
            limit = min(self.settings.first_lanes, self.settings.destination_lanes)
            destination = self._destinations[route] = Destination(route, limit)
        return destination

    def add(self, queued: Queued) -> Destination:
        """Put a message, all its recipients of one route, at the end of the line of its destination."""
        destination = self.find(queued.pending[0].route)
        content = queued.content
        if content is not None and content.inline is not None:
            if self.octets + content.body_octets > self.settings.active_octets:
                queued.content = None
            else:
                self.octets += content.body_octets
        _join(destination.ready, queued)
        count = len(queued.pending)
        destination.recipients += count
        self.recipients += count
        return destination

    def take(self, destination: Destination) -> Queued | None:
        """The next message for a lane of this destination."""
        if not destination.ready or destination.barred:
            return None
        queued = destination.ready.popleft()
        destination.recipients -= len(queued.pending)
        return queued

    def done(self, recipients: int, octets: int) -> None:
        """So much that was taken has left memory."""
        self.recipients -= recipients
        self.octets -= octets

    def runs_low(self, destination: Destination) -> bool:
        """Whether the store should be asked for more, so that the lanes find work."""
        half = self.settings.active_recipients // 2
        return destination.recipients == self._share // 2 or self.recipients == half

    # Lanes.

    def open_lane(self, destination: Destination) -> bool:
        """Count one more lane for this destination if it may have one."""
        if not destination.ready or destination.barred or destination.lanes >= destination.limit:
            return False
        if self.lanes >= self.settings.lanes:
            if not destination.waits:
                destination.waits = True
                if _priority(destination.ready[0]) > 0:
                    self._waiting.appendleft(destination)
                else:
                    self._waiting.append(destination)
            return False
        destination.lanes += 1
        self.lanes += 1
        return True

    def should_yield(self, destination: Destination) -> bool:
        """Whether a lane has to make way for a destination that has none."""
        return bool(self._waiting) and self.lanes >= self.settings.lanes and not destination.waits

    def close_lane(self, destination: Destination) -> list[Destination]:
        """One lane less; the destinations that may try to open one now, the longest waiting first."""
        destination.lanes -= 1
        self.lanes -= 1
        nexts = []
        if self._waiting:
            first = self._waiting.popleft()
            first.waits = False
            nexts.append(first)
        if destination.ready:
            nexts.append(destination)
        elif not destination.lanes and self._forgettable(destination):
            self._destinations.pop(destination.route, None)
        return nexts

    @staticmethod
    def _forgettable(destination: Destination) -> bool:
        return not (
            destination.barred
            or destination.waits
            or destination.failures
            or destination.put_off_until
            or destination.distrusted_until
        )

    # What is known about destinations.

    def learn(self, destination: Destination, results: Mapping[int, Result], now: float) -> None:
        """Draw conclusions about a destination from one attempt."""
        for result in results.values():
            if not (wants_rest(result) or result.untried):
                destination.failures = 0
                destination.put_off_until = 0.0
                destination.limit = min(destination.limit + 1, self.settings.destination_lanes)
                return
        for result in results.values():
            if result.untried:
                continue
            destination.known_until = now + self.settings.unreachable_s
            destination.failures += 1
            destination.limit = max(destination.limit // 2, 1)
            if destination.failures >= self.settings.unreachable_after:
                self.put_off(destination, result, now + self.settings.unreachable_s)
            return

    def put_off(self, destination: Destination, result: Result, until: float) -> None:
        """Try no messages of a destination for a time, because of this result."""
        if until > destination.put_off_until:
            destination.put_off_until = destination.known_until = until
            destination.put_off_with = result

    def distrust(self, destination: Destination, until: float) -> None:
        """Its hosts doubt this server or its senders; what they say of mailboxes then may be said of us."""
        destination.distrusted_until = until
        destination.known_until = max(destination.known_until, until)

    def forget(self, now: float) -> None:
        """Drop what was learned long ago about destinations without mail: there may be any number of them."""
        self._destinations = {
            route: one
            for route, one in self._destinations.items()
            if one.ready or one.lanes or one.waits or one.barred or now < one.known_until
        }

    def revive(self) -> None:
        """Try all destinations again that were put off."""
        for destination in self._destinations.values():
            destination.put_off_until = 0.0
            destination.failures = 0

    def full(self) -> list[Route]:
        """The routes for which no more should be claimed."""
        found = self._destinations.values()
        return [one.route for one in found if one.barred or one.recipients >= self._share]

    def waiting_since(self, now: float) -> float:
        """Since when the first of those has been waiting that could go if there were a lane; `now` if there is none."""
        heads = (
            one.ready[0].pending[0].due
            for one in self._destinations.values()
            if one.ready and not one.barred and one.put_off_until <= now
        )
        return min(heads, default=now)

    def withdraw(self, wanted: Callable[[Queued], bool]) -> list[Pending]:
        """Take what is ready and wanted out of memory; its recipients."""
        withdrawn: list[Pending] = []
        for destination in self._destinations.values():
            gone = [queued for queued in destination.ready if wanted(queued)]
            if not gone:
                continue
            destination.ready = deque(queued for queued in destination.ready if not wanted(queued))
            for queued in gone:
                destination.recipients -= len(queued.pending)
                self.done(len(queued.pending), inline_octets(queued))
                withdrawn += queued.pending
            if destination.waits and not destination.ready:  # it must not take the turn of one that has work
                destination.waits = False
                self._waiting.remove(destination)
        return withdrawn


def _priority(queued: Queued) -> int:
    return queued.envelope.terms.priority


def _join(line: deque[Queued], queued: Queued) -> None:
    """Take a place behind all that are as urgent or more so; nearly always that is the end (RFC 6710)."""
    priority = _priority(queued)
    place = len(line)
    while place and _priority(line[place - 1]) < priority:
        place -= 1
    line.insert(place, queued)


def inline_octets(queued: Queued) -> int:
    """How much of the byte budget a message takes."""
    content = queued.content
    return content.body_octets if content is not None and content.inline is not None else 0
