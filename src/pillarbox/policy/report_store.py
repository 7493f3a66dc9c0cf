"""Keep what reports are made of, and the reports that came: counts by day and domain, shared by all workers.

The last second of counts may be lost. What a row or a report says is the business of `mailauth`; when reports are made
and sent that of `inbound.reporting`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import apsw
import msgspec

from pillarbox.mailauth.aggregate import AggregateReport, DmarcRow
from pillarbox.mailauth.failure_report import FailureReport
from pillarbox.mailauth.tls_report import TlsRow
from pillarbox.policy.reporting import DAY_S
from pillarbox.policy.shared_file import FileFullError, SharedFile, open_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillarbox.mailauth.report_mail import Report

Row: TypeAlias = DmarcRow | TlsRow

FILE = "reports.db"
_KINDS: dict[type, str] = {DmarcRow: "dmarc", TlsRow: "tls"}
_TYPES: dict[str, type[Row]] = {"dmarc": DmarcRow, "tls": TlsRow}
_WRITE_S = 1.0  # counts are written so often
_MAX_HELD = 5000  # different rows of this worker that wait to be written; further ones are not counted
MAX_ROWS_OF_REPORT = 10_000  # different rows of one domain and day; a flood of names must not fill the disk
_MAX_ROWS = 1_000_000  # of all; the oldest days go first
_MAX_REPORTS = 100_000
_CLEAN_S = 300.0
_CLEANED_AT_ONCE = 5000
_KEEP_COUNTS_S = 4 * DAY_S  # a report that could not be sent for so long is given up
_TABLES = """
CREATE TABLE IF NOT EXISTS period (kind TEXT NOT NULL, day INTEGER NOT NULL, domain TEXT NOT NULL, rows INTEGER NOT NULL,
  due_at REAL NOT NULL, PRIMARY KEY (kind, day, domain)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS period_due ON period (due_at);
CREATE TABLE IF NOT EXISTS counted (kind TEXT NOT NULL, day INTEGER NOT NULL, domain TEXT NOT NULL, digest BLOB NOT NULL,
  row TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (kind, day, domain, digest)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS report (id INTEGER PRIMARY KEY, direction TEXT NOT NULL, kind TEXT NOT NULL, domain TEXT NOT NULL,
  organization TEXT NOT NULL, name TEXT NOT NULL, begins INTEGER NOT NULL, ends INTEGER NOT NULL, at REAL NOT NULL,
  total INTEGER NOT NULL, failed INTEGER NOT NULL, note TEXT NOT NULL, content BLOB NOT NULL,
  UNIQUE (direction, kind, organization, domain, name)) STRICT;
CREATE INDEX IF NOT EXISTS report_at ON report (at);
"""


class Period(NamedTuple):
    """One day of one domain that is to be reported, and what was counted."""

    kind: str  # dmarc, tls
    day: int  # since 1970, in UTC
    domain: str
    counts: tuple[tuple[Row, int], ...] = ()

    @property
    def begins(self) -> int:
        """Unix time of its first second."""
        return self.day * DAY_S


class Kept(NamedTuple):
    """One report that came in or went out; `content` is what `mailauth` made of it, as JSON."""

    id: int
    direction: str  # in, out
    kind: str  # dmarc, tls, failure; unreadable
    domain: str  # whom it is about
    organization: str  # who made it
    name: str  # its id there
    begins: int
    ends: int
    at: float  # when it came or went
    total: int  # messages or sessions
    failed: int
    note: str  # from where it came, to whom it went, or what is wrong with it
    content: bytes = b""


class Reports:
    """What is kept, inside one transaction; `now` is the time of all of it."""

    def __init__(self, connection: apsw.Connection, now: float) -> None:
        """Read and write through a connection on which a transaction is open."""
        self._connection = connection
        self.now = now

    def add_counts(self, counts: Mapping[tuple[int, Row], int], due_at: Callable[[int, str], float]) -> None:
        """Add to what was counted; `due_at` tells when a day's report about a domain is to be made."""
        execute = self._connection.execute
        for (day, row), number in counts.items():
            kind, text = _KINDS[type(row)], msgspec.json.encode(row)
            key = (kind, day, row.domain, hashlib.blake2b(text, digest_size=16).digest())
            execute(
                "UPDATE counted SET number = number + ? WHERE kind = ? AND day = ? AND domain = ? AND digest = ?",
                (number, *key),
            )
            if self._connection.changes():
                continue
            execute(
                "INSERT INTO period VALUES (?, ?, ?, 1, ?) ON CONFLICT (kind, day, domain) DO UPDATE SET rows = rows + 1"
                " WHERE rows < ?",
                (*key[:3], due_at(day, row.domain), MAX_ROWS_OF_REPORT),
            )
            if self._connection.changes():
                execute("INSERT INTO counted VALUES (?, ?, ?, ?, ?, ?)", (*key, text.decode(), number))

    def take_due(self, retry_s: float) -> Period | None:
        """The next day and domain to report, for this worker alone: it is due again only in `retry_s`."""
        found = self._connection.execute(
            "SELECT kind, day, domain FROM period WHERE due_at <= ? ORDER BY due_at LIMIT 1", (self.now,)
        ).fetchone()
        if found is None:
            return None
        self._connection.execute(
            "UPDATE period SET due_at = ? WHERE kind = ? AND day = ? AND domain = ?",
            (self.now + retry_s, *found),
        )
        rows = self._connection.execute(
            "SELECT row, number FROM counted WHERE kind = ? AND day = ? AND domain = ?", found
        )
        decode = msgspec.json.Decoder(_TYPES[found[0]]).decode
        kind, day, domain = found
        return Period(kind, day, domain, tuple((decode(row), number) for row, number in rows))

    def finish(self, period: Period) -> None:
        """Forget a period that was reported, or will never be."""
        key = (period.kind, period.day, period.domain)
        self._connection.execute("DELETE FROM counted WHERE kind = ? AND day = ? AND domain = ?", key)
        self._connection.execute("DELETE FROM period WHERE kind = ? AND day = ? AND domain = ?", key)

    def keep(self, report: Kept) -> bool:
        """Keep a report; its `id` does not count. Whether it is new: the same one may come twice."""
        self._connection.execute(
            "INSERT OR IGNORE INTO report (direction, kind, domain, organization, name, begins, ends, at, total, failed,"
            " note, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            report[1:],
        )
        return bool(self._connection.changes())

    def knows(self, direction: str, kind: str, organization: str, domain: str, name: str) -> bool:
        """Whether a report is kept already."""
        found = self._connection.execute(
            "SELECT 1 FROM report WHERE direction = ? AND kind = ? AND organization = ? AND domain = ? AND name = ?",
            (direction, kind, organization, domain, name),
        )
        return found.fetchone() is not None

    def listed(
        self, *, kind: str = "", domain: str = "", direction: str = "", limit: int = 1000
    ) -> list[Kept]:
        """The reports without their content, the newest first."""
        rows = self._connection.execute(
            "SELECT id, direction, kind, domain, organization, name, begins, ends, at, total, failed, note FROM report"
            " WHERE (?1 = '' OR kind = ?1) AND (?2 = '' OR domain = ?2) AND (?3 = '' OR direction = ?3)"
            " ORDER BY at DESC, id DESC LIMIT ?4",
            (kind, domain, direction, limit),
        )
        return [Kept(*row) for row in rows]

    def get(self, number: int) -> Kept | None:
        """One report with its content."""
        row = self._connection.execute("SELECT * FROM report WHERE id = ?", (number,)).fetchone()
        return None if row is None else Kept(*row)

    def clean(self) -> float:
        """Give up what could not be reported for days, and what is too much; a little at a time."""
        oldest = int((self.now - _KEEP_COUNTS_S) // DAY_S)
        rows = self._connection.execute("SELECT count(*) FROM counted").get
        periods = list(
            self._connection.execute(
                "SELECT kind, day, domain, rows FROM period WHERE day < ? ORDER BY day LIMIT ?",
                (oldest if rows <= _MAX_ROWS else 1 << 40, _CLEANED_AT_ONCE),
            )
        )
        gone = 0
        for kind, day, domain, number in periods:
            if day >= oldest and gone >= rows - _MAX_ROWS:
                break
            self.finish(Period(kind, day, domain))
            gone += number
        self._connection.execute(
            "DELETE FROM report WHERE id IN (SELECT id FROM report ORDER BY at DESC LIMIT ? OFFSET ?)",
            (_CLEANED_AT_ONCE, _MAX_REPORTS),
        )
        return 1.0 if gone else _CLEAN_S


class ReportStore(SharedFile[Reports]):
    """The shared counts and reports. Counting waits for nothing: rows are gathered and written once a second."""

    def __init__(
        self, folder: Path, *, due_at: Callable[[int, str], float], clock: Callable[[], float] = time.time
    ) -> None:
        """Keep all in a file in `folder`."""
        super().__init__(Path(folder) / FILE, _TABLES, Reports, clock=clock)
        self._due_at = due_at
        self._now = clock
        self._held: dict[tuple[int, Row], int] = {}
        self._writing: asyncio.TimerHandle | None = None

    def count(self, row: Row) -> None:
        """Count one message or session. Never fails: what can't be written is not counted."""
        key = (int(self._now() // DAY_S), row)
        held = self._held
        number = held.get(key, 0)
        if not number and len(held) >= _MAX_HELD:
            return
        held[key] = number + 1
        if self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(_WRITE_S, self._write)

    def _write(self) -> asyncio.Future[None] | None:
        self._writing = None
        held, self._held = self._held, {}
        if not held:
            return None
        try:
            written = self.ask(lambda reports: reports.add_counts(held, self._due_at))
        except FileFullError:
            return None
        written.add_done_callback(_forgive)
        return written

    async def flush(self) -> None:
        """Write what is held."""
        if self._writing is not None:
            self._writing.cancel()
        written = self._write()
        if written is not None:
            await asyncio.wait([written])

    async def close(self) -> None:
        """Write what is held, and close the file."""
        await self.flush()
        await super().close()


def _forgive(written: asyncio.Future[None]) -> None:
    """What could not be written is lost; mail does not wait for statistics."""
    if not written.cancelled():
        written.exception()


def open_reports(folder: Path, *, now: float) -> Reports:
    """The file for a command. Raises apsw.Error or OSError."""
    file = Path(folder) / FILE
    if not file.exists():  # whoever runs the command, it belongs to the user that the service runs as
        owner = file.parent.stat()
        made = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchown(made, owner.st_uid, owner.st_gid)
        os.close(made)
    return Reports(open_shared(file, _TABLES), now)


def received(report: Report, *, at: float, note: str) -> Kept:
    """A report of others as it is kept."""
    content = msgspec.json.encode(report)
    if isinstance(report, FailureReport):
        name = report.message_id or hashlib.blake2b(content, digest_size=12).hexdigest()
        day = int(report.arrived_at if report.arrived_at is not None else at)
        return Kept(
            0,
            "in",
            "failure",
            report.domain,
            report.agent,
            name,
            day,
            day,
            at,
            report.incidents,
            report.incidents,
            note,
            content,
        )
    kind, domain = (
        ("dmarc", report.policy.domain) if isinstance(report, AggregateReport) else ("tls", report.domain)
    )
    return Kept(
        0,
        "in",
        kind,
        domain,
        report.organization,
        report.report_id or f"{report.begins}-{report.ends}",
        report.begins,
        report.ends,
        at,
        report.total,
        report.failed,
        note,
        content,
    )
