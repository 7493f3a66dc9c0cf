"""Keep what is known of one message on its way to the hosts of a route: who still waits, and what was said so far.

Which hosts there are and what is done with them is `relay.transaction`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from pillarbox.mail.catalogue import delivery
from pillarbox.mail.message import scan_head, tls_is_optional
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.queue.decisions import Step, find

if TYPE_CHECKING:
    from pillarbox.queue.spool import Content, Pending, Queued
    from pillarbox.relay.plan import Hop


class Attempt:
    """One message on its way to the hosts of one route: who still waits, and what was said so far."""

    def __init__(self, queued: Queued, content: Content) -> None:
        self.queued = queued
        self.content = content
        self.todo: list[Pending] = list(queued.pending)  # for the host that is talked to
        self.later: list[Pending] = []  # for the next one
        self.results: dict[int, Result] = {}  # what is settled
        self._failures: dict[int, Result] = {}  # what stands if nothing better comes
        self._said: dict[int, dict[str, Result]] = {}  # by host, the last it said
        self.troubled = False  # not everything went well at once
        self.ipv4_only = False
        self.singly = False  # each recipient has a transaction of its own
        self.verp = False  # the sender's address names the recipient
        self.too_small = 0  # a limit of size that was not enough
        self.strict = queued.envelope.terms.require_tls  # it must not travel without TLS (RFC 8689)
        self.lax = False  # what the domain demands of TLS is not heeded
        self.unproven = False  # some host was of no use because of that
        self.tried: set[Hop] = set()
        self.hops: set[Hop | None] = set()  # that could be tried; None is one that is not known
        self.notes: dict[int, str] = {}  # what the trace tells of the sender of a recipient's copy

    @property
    def open(self) -> bool:
        return bool(self.todo or self.later)

    def next_host(self) -> None:
        """All that still wait are for the next host."""
        self.todo, self.later = self.later + self.todo, []

    def concede(self) -> bool:
        """Ask less of the hosts than before, if that is allowed; all of them may be tried again then.

        A report is better sent without the promise of REQUIRETLS than lost, and somebody who writes "TLS-Required: No" wants
        to be read although the host's TLS is broken (RFC 8689 5, 4.2.2). Raises OSError if the message can't be read.
        """
        terms = self.queued.envelope.terms
        if self.strict and not self.queued.envelope.sender:
            self.strict = False
        elif self.unproven and not self.lax and not terms.require_tls and self._tls_is_optional():
            self.lax = True
        else:
            return False
        self.next_host()
        self.tried.clear()
        return True

    def _tls_is_optional(self) -> bool:
        return tls_is_optional(scan_head(self.content.head()))

    def note_failure(self, pending: Pending, result: Result) -> None:
        """Remember a failure; one that may pass is not replaced by one that is final."""
        self.troubled = True
        self._said.setdefault(pending.number, {})[result.host] = result
        before = self._failures.get(pending.number)
        if before is None or _hope(result) >= _hope(before):
            self._failures[pending.number] = result

    def fail(self, result: Result) -> None:
        """This host is of no use to anybody who waits."""
        for pending in self.todo + self.later:
            self.note_failure(pending, result)

    def finish(self, destination: str) -> dict[int, Result]:
        """No more is done; each result tells what the other hosts said."""
        reply = delivery.CONNECTION_LOST.reply(host=destination, detail="anything")
        lost = Result(reply, Stage.LOCAL, Origin.LOCAL)
        for pending in self.todo + self.later:
            self.results[pending.number] = self._failures.get(pending.number, lost)
        for number, said in self._said.items():
            result = self.results[number]
            others = tuple(one for host, one in said.items() if host != result.host)
            if others:
                self.results[number] = replace(result, others=others)
        return self.results


def _hope(result: Result) -> int:
    """How good the chances of another attempt are: 3 by the reply itself, 1 for some attempts, 0 if there are none.

    A host that is left alone says less than one that was asked.
    """
    if result.reply.temporary:
        return 2 if result.untried else 3
    row = find(result.stage, result.reply, host=result.host)
    return 1 if row.step is Step.RETRY or row.patience else 0
