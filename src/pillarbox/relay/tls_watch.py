"""Watch how sessions with mail exchangers are protected: count it for TLS reports, and remember the best of each domain.

What is counted is kept by `policy.report_store`, what is remembered by `relay.tls_levels`; both are shared by all workers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, TypeAlias

import apsw

from pillarbox import observe
from pillarbox.mail.catalogue import transport
from pillarbox.mail.reply import Origin, Result, Stage
from pillarbox.policy.shared_file import FileFullError
from pillarbox.queue.alarms import Alarms
from pillarbox.relay.demand import Source
from pillarbox.relay.tls_levels import WORDS, Level, remember

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.mailauth.tls_report import TlsRow
    from pillarbox.policy.memory import Memory
    from pillarbox.relay.demand import Demand
    from pillarbox.relay.handshake import TlsOutcome
    from pillarbox.relay.plan import Hop
    from pillarbox.relay.session import Session

Downgrade: TypeAlias = Literal["alarm", "defer", "off"]

_RENEW_S = 86400.0
_MAX_KNOWN = 10_000  # domains in memory


class TlsWatch:
    """Hears of each session with a mail exchanger."""

    def __init__(
        self,
        memory: Memory | None = None,
        count: Callable[[TlsRow], None] | None = None,
        *,
        downgrade: Downgrade = "alarm",
        alarms: Alarms | None = None,
    ) -> None:
        """Without `memory` nothing is remembered; without `count` nothing is counted for reports."""
        self._memory = memory if downgrade != "off" else None
        self._count = count
        self._defers = downgrade == "defer"
        self._alarms = alarms or Alarms()
        self._known: OrderedDict[str, tuple[Level, float]] = OrderedDict()  # and when it was written

    # --- for reports

    def note(self, hop: Hop, demand: Demand, outcome: TlsOutcome, *, sending_ip: str = "") -> None:
        """Something came of the wish to protect a session."""
        observe.TLS_SESSION.note(
            host=hop.name,
            domain=demand.domain,
            policy=demand.source.value,
            result=outcome.kind or "success",
            detail=outcome.detail or demand.evidence,
        )
        if self._count is None:
            return
        kind, detail = outcome.kind, outcome.detail
        if not kind and demand.sts.policy is None:  # there may be a policy that could not be had
            kind, detail = demand.sts.kind, demand.sts.failed
        self._count(_row(demand, kind, detail, hop.host, hop.address, sending_ip))

    def note_unusable(self, host: str, demand: Demand, kind: str, detail: str) -> None:
        """A host was not even connected to, because of its TLSA records or of a policy."""
        observe.TLS_SESSION.note(
            host=host, domain=demand.domain, policy=demand.source.value, result=kind, detail=detail
        )
        if self._count is not None:
            self._count(_row(demand, kind, detail, host))

    # --- the best of each domain

    async def compare(self, session: Session) -> Result | None:
        """Tell the operator if a domain was better before, and say so if the session must not be used then."""
        if self._memory is None:
            return None
        domain = session.demand.domain
        level = Level.PROVEN if session.verified else Level.ENCRYPTED if session.encrypted else Level.CLEAR
        now = asyncio.get_running_loop().time()
        known = self._known.get(domain)
        # A worse one is told of by the file: the operator may have had it forget what was.
        if known is None or now - known[1] >= _RENEW_S or level != known[0]:
            best = await self._keep(self._memory, domain, level)
            self._known[domain] = best, now
            self._known.move_to_end(domain)
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        else:
            best = known[0]
        if level >= best:
            return None
        detail = f"{WORDS[level]}, before {WORDS[best]}"
        host = session.hop.name
        observe.TLS_DOWNGRADED.note(host=host, domain=domain, detail=detail)
        if self._alarms.is_due(f"downgrade {domain}", 1, now):
            problem = f"{host} takes mail for {domain} {detail}"
            observe.ALARM.note(problem=problem, cause=transport.DOWNGRADED.id)
        if not self._defers:
            return None
        reply = transport.DOWNGRADED.reply(host=host, domain=domain, detail=detail)
        return Result(reply, Stage.TLS, Origin.LOCAL, host, tls=session.evidence)

    @staticmethod
    async def _keep(memory: Memory, domain: str, level: Level) -> Level:
        """Remember a level if it is as good as what is known; the best one."""
        try:
            return await memory.ask(lambda notes: remember(notes, domain, level))
        except (apsw.Error, OSError, FileFullError):
            return level  # without memory nothing was better


def _row(
    demand: Demand, kind: str, detail: str, host: str, address: str = "", sending_ip: str = ""
) -> TlsRow:
    """A session as reports count it (RFC 8460 4.2); `kind` is "" if all was as it should be."""
    from pillarbox.mailauth.tls_report import TlsFailure, TlsRow  # noqa: PLC0415 - only who sends reports needs it

    failure = None
    if kind:
        failure = TlsFailure(kind, sending_ip=sending_ip, mx=host, receiving_ip=address, details=detail)
    if demand.source is Source.DANE:
        return TlsRow(demand.domain, "tlsa", tuple(map(str, demand.tlsa)), failure=failure)
    policy = demand.sts.policy
    if policy is not None:
        lines = tuple(str(policy).splitlines())
        return TlsRow(demand.domain, "sts", lines, policy.mx, failure)
    return TlsRow(demand.domain, "sts" if demand.sts.kind else "no-policy-found", failure=failure)
