"""Keep what a worker needs for reports, and make it only where reports are counted, sent or read.

Each part does its own work: `policy.report_store` keeps, `inbound.counted` counts, `inbound.reporting` sends.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pillarbox.policy.reporting import due_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.inbound.counted import Counting
    from pillarbox.mail.envelope import Envelope
    from pillarbox.mailauth.dmarc import Organization
    from pillarbox.mailauth.dns import Lookup
    from pillarbox.mailauth.tls_report import TlsRow
    from pillarbox.policy.report_store import ReportStore
    from pillarbox.policy.reporting import ReportSettings


Send: TypeAlias = "Callable[[Envelope, bytes], Awaitable[str]]"
"""Hand a mail to the queue; its queue id, "" if nobody of its recipients is known. May raise SpoolError."""
Post: TypeAlias = "Callable[[str, bytes], Awaitable[str]]"
"""Post a TLS report to a web service; "" if it was taken, else why not."""


async def _post(url: str, octets: bytes) -> str:
    from pillarbox.net.report_post import post_report  # noqa: PLC0415 - as below

    return await post_report(url, octets)


class Outside(NamedTuple):
    """How reports reach others."""

    lookup: Lookup
    send: Send
    organization: Organization | None = None  # takes the place of DMARC's tree walk
    post: Post = _post


class ReportOffice:
    """The reports of one worker. Nothing is imported or opened before it is needed: most servers have no reports."""

    def __init__(self, settings: ReportSettings, folder: Path, *, hostname: str) -> None:
        """`folder` is that of the queue."""
        self._settings = settings
        self._folder = Path(folder)
        self._hostname = hostname
        self._store: ReportStore | None = None
        self._renewed = asyncio.Event()

    def renew(self, settings: ReportSettings) -> None:
        """From now on report by these settings; a report that is being sent is finished by the former ones."""
        self._settings = settings
        self._renewed.set()

    def store(self) -> ReportStore:
        """Where reports and what they are made of are kept."""
        if self._store is None:
            from pillarbox.policy.report_store import ReportStore  # noqa: PLC0415 - as above

            self._store = ReportStore(self._folder, due_at=due_at(self._hostname))
        return self._store

    def session_counting(self, settings: ReportSettings) -> Callable[[TlsRow], None] | None:
        """What counts sessions with TLS, if they are reported by these settings."""
        return self.store().count if settings.tls else None

    def counting(self, settings: ReportSettings, *, suffixes: bool) -> Counting | None:
        """What counts received messages, if they are reported by these. `suffixes` is how DMARC finds records."""
        if not settings.dmarc:
            return None
        from pillarbox.inbound.counted import Counting  # noqa: PLC0415 - as above

        return Counting(self.store().count, suffixes=suffixes)

    async def run(self, find_outside: Callable[[], Outside]) -> None:
        """Send what is due, for ever; nothing while no reports are sent. `find_outside` is asked again after a renewal."""
        while True:
            renewed = self._renewed = asyncio.Event()
            if self._settings.sends:
                from pillarbox.inbound.reporting import Reporter  # noqa: PLC0415 - as above

                reporter = Reporter(self._settings, self.store(), find_outside(), hostname=self._hostname)
                await reporter.run(renewed)
            else:
                await renewed.wait()

    async def close(self) -> None:
        """Write what is held."""
        if self._store is not None:
            await self._store.close()
