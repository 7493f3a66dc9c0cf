"""Make the reports that other domains ask for, once a day, and send them: by mail through the queue, or by HTTPS.

What is counted is kept in `policy.report_store`; how reports look is the business of `mailauth`. Nothing here fails
loudly: a report that can't be sent is logged, tried again for some days, and given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

import apsw
import msgspec

from pillarbox import observe
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.envelope import Envelope, Notify, Recipient
from pillarbox.mailauth import aggregate, destinations, dmarc, tls_report
from pillarbox.mailauth.aggregate import DmarcRow
from pillarbox.mailauth.dns import follow
from pillarbox.mailauth.names import a_labels
from pillarbox.mailauth.report_mail import Outgoing, build
from pillarbox.policy.report_store import Kept, Reports
from pillarbox.policy.reporting import DAY_S
from pillarbox.queue.spool import SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pillarbox.inbound.report_office import Outside
    from pillarbox.mailauth.destinations import Destinations
    from pillarbox.mailauth.dns import Plan
    from pillarbox.mailauth.tls_report import TlsRow
    from pillarbox.policy.report_store import Period, ReportStore
    from pillarbox.policy.reporting import ReportSettings

_LOOK_S = 60.0  # between looks whether something is due
_RETRY_S = 3600.0
_LIMIT_S = 60.0  # for the look-ups of one report
_MAX_OCTETS = 8 << 20  # of a packed report; beyond that the rows that were seen least are left out


class Reporter:
    """Reports what is due, one domain after the other. Several workers may do so: each takes what no other has."""

    def __init__(
        self, settings: ReportSettings, store: ReportStore, outside: Outside, *, hostname: str
    ) -> None:
        """`hostname` names us where the settings do not."""
        self._store = store
        self._outside = outside
        self._sender = settings.sender or f"postmaster@{hostname}"
        self._submitter = a_labels(self._sender.rpartition("@")[2]) or hostname
        self._organization = settings.organization or hostname
        self._contact = settings.contact
        self._except = frozenset(map(a_labels, settings.except_domains))

    async def run(self, ended: asyncio.Event) -> None:
        """Look again and again whether something is due, until it is to end; a report that was begun is finished."""
        while not ended.is_set():
            try:
                while not ended.is_set() and await self.report_next():
                    pass
            except Exception as error:  # noqa: BLE001 - one bad report must not end all others
                observe.report_incident(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await ended.wait()

    async def report_next(self) -> bool:
        """Report the next day and domain that is due; whether there was one."""
        try:
            period = await self._store.ask(lambda reports: reports.take_due(_RETRY_S))
            if period is None:
                return False
            await self._report(period)
        except (apsw.Error, OSError, SpoolError) as error:
            observe.REPORT_NOT_SENT.note(kind="any", domain="", problem=str(error))
            return False
        return True

    async def _report(self, period: Period) -> None:
        """Send what is to be sent of one day and domain. What can't be sent now is due again in a while."""
        done = True
        if period.domain not in self._except:
            make = self._dmarc_reports if period.kind == "dmarc" else self._tls_reports
            for report, plan, total, failed in make(period):
                if await self._store.ask(_knows(report, self._organization)):
                    continue
                async with asyncio.timeout(_LIMIT_S):
                    found = await follow(plan, self._outside.lookup)
                for problem in found.problems:
                    observe.REPORT_NOT_SENT.note(kind=period.kind, domain=period.domain, problem=problem)
                if not found.to:
                    done = done and not found.failed
                    continue
                to = await self._send(report, found.to)
                if to:
                    kept = self._kept(report, to, total, failed)
                    await self._store.ask(partial(Reports.keep, report=kept))
                done = done and bool(to)
        if done:
            await self._store.ask(partial(Reports.finish, period=period))

    def _dmarc_reports(self, period: Period) -> Iterator[tuple[Outgoing, Plan[Destinations], int, int]]:
        """One report for each policy that was seen on that day (RFC 9990 3.3)."""
        groups: dict[tuple[str, str], list[tuple[DmarcRow, int]]] = {}
        for row, number in period.counts:
            if isinstance(row, DmarcRow):
                groups.setdefault((row.record, row.method), []).append((row, number))
        for (text, method), rows in groups.items():
            record = dmarc.parse_record(text)
            if record is None or not record.reports_to:
                continue
            rows.sort(key=lambda counted: -counted[1])
            report = aggregate.AggregateReport(
                self._organization,
                self._sender,
                f"{self._unique(period, text + method)}@{self._submitter}",
                period.begins,
                period.begins + DAY_S - 1,
                aggregate.published(period.domain, record, method),
                tuple(rows),
                self._contact,
                generator="Pillarbox",
            )
            outgoing = self._outgoing(period, text + method, aggregate.format_report(report))
            while len(outgoing.packed()) > _MAX_OCTETS and len(report.rows) > 1:
                report = msgspec.structs.replace(report, rows=report.rows[: len(report.rows) // 2])
                outgoing = outgoing._replace(document=aggregate.format_report(report))
            plan = destinations.of_dmarc(record, period.domain, self._outside.organization)
            yield outgoing, plan, report.total, report.failed

    def _tls_reports(self, period: Period) -> Iterator[tuple[Outgoing, Plan[Destinations], int, int]]:
        rows: list[tuple[TlsRow, int]] = [
            (row, number) for row, number in period.counts if not isinstance(row, DmarcRow)
        ]
        report = tls_report.TlsReport(
            self._organization,
            self._contact or self._sender,
            f"{self._unique(period, '')}@{self._submitter}",
            period.begins,
            period.begins + DAY_S - 1,
            tls_report.gather(rows),
        )
        outgoing = self._outgoing(period, "", tls_report.format_report(report))
        yield outgoing, destinations.of_tls(period.domain), report.total, report.failed

    def _unique(self, period: Period, text: str) -> str:
        """Letters and digits for this report alone, the same whenever it is made."""
        said = f"{period.kind} {self._submitter} {self._organization} {period.domain} {period.day} {text}"
        return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def _outgoing(self, period: Period, text: str, document: bytes) -> Outgoing:
        return Outgoing(
            "dmarc" if period.kind == "dmarc" else "tls",
            period.domain,
            self._submitter,
            period.begins,
            period.begins + DAY_S - 1,
            self._unique(period, text),
            document,
        )

    async def _send(self, report: Outgoing, to: Sequence[str]) -> str:
        """Send to all who want it; to whom, in words. What fails is logged."""
        packed = await asyncio.to_thread(report.packed)
        addresses = [address for address in to if _is_mailbox(address)]
        reached = []
        for url in to:
            if not url.lower().startswith("https://"):
                continue
            problem = await self._outside.post(url, packed)
            if problem:
                observe.REPORT_NOT_SENT.note(
                    kind=report.kind, domain=report.domain, problem=f"{url}: {problem}"
                )
            else:
                reached.append(url)
        if addresses:
            octets = build(
                report,
                packed,
                sender=self._sender,
                to=addresses,
                now=time.time(),
                boundary=f"=_{secrets.token_hex(12)}",
            )
            recipients = tuple(Recipient(address, Notify.NEVER) for address in addresses)
            queue_id = await self._outside.send(Envelope(self._sender, recipients), octets)
            reached += [f"{address} ({queue_id})" for address in addresses if queue_id]
        if reached:
            observe.REPORT_SENT.note(kind=report.kind, domain=report.domain, to=", ".join(reached))
        return ", ".join(reached)

    def _kept(self, report: Outgoing, to: str, total: int, failed: int) -> Kept:
        return Kept(
            0,
            "out",
            report.kind,
            report.domain,
            self._organization,
            report.report_id,
            report.begins,
            report.ends,
            time.time(),
            total,
            failed,
            to,
            report.packed(),
        )


def _knows(report: Outgoing, organization: str) -> Callable[[Reports], bool]:
    """Whether a report was sent already."""
    return lambda reports: reports.knows("out", report.kind, organization, report.domain, report.report_id)


def _is_mailbox(address: str) -> bool:
    try:
        return bool(parse_address(address).domain)
    except AddressError:
        return False
