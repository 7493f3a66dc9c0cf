"""Keep MTA-STS policies in a file that all workers share, until they run out.

Which of them are fetched when is the business of `relay.sts`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pillarbox.policy.shared_file import SharedFile

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

FILE = "mta-sts.db"
_MAX_ROWS = 20_000  # those that run out soonest go first
_CLEAN_S = 600.0
_TABLES = """
CREATE TABLE IF NOT EXISTS policy (domain TEXT PRIMARY KEY, id TEXT NOT NULL, content BLOB NOT NULL, fetched REAL NOT NULL,
  expires REAL NOT NULL, used REAL NOT NULL, refresh REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS policy_expires ON policy (expires);
CREATE INDEX IF NOT EXISTS policy_refresh ON policy (refresh);
"""


class Kept(NamedTuple):
    """One policy as it was fetched, and its times."""

    domain: str
    id: str
    content: bytes
    fetched: float
    expires: float


class StsRows:
    """The policies, inside one transaction; `now` is the time of all of it."""

    def __init__(self, connection: apsw.Connection, now: float) -> None:
        """Read and write through a connection on which a transaction is open."""
        self._connection = connection
        self.now = now

    def get(self, domain: str) -> Kept | None:
        """The policy of a domain that has not run out."""
        row = self._connection.execute(
            "SELECT domain, id, content, fetched, expires FROM policy WHERE domain = ? AND expires > ?",
            (domain, self.now),
        ).fetchone()
        return None if row is None else Kept(*row)

    def put(self, kept: Kept, refresh: float) -> None:
        """Keep a policy in place of the one before; it wants to be fetched again at `refresh`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO policy VALUES (?, ?, ?, ?, ?, ?, ?)", (*kept, self.now, refresh)
        )

    def use(self, domain: str) -> None:
        """Remember that mail was sent to the domain."""
        self._connection.execute("UPDATE policy SET used = ? WHERE domain = ?", (self.now, domain))

    def remove(self, domain: str) -> None:
        """Forget a policy."""
        self._connection.execute("DELETE FROM policy WHERE domain = ?", (domain,))

    def take_stale(self, *, used_since: float, again: float, most: int) -> list[str]:
        """Domains whose policy is to be fetched anew, for this worker alone: they come again at `again`."""
        found = [
            domain
            for (domain,) in self._connection.execute(
                "SELECT domain FROM policy WHERE refresh <= ? AND expires > ? AND used >= ? ORDER BY refresh LIMIT ?",
                (self.now, self.now, used_since, most),
            )
        ]
        self._connection.executemany(
            "UPDATE policy SET refresh = ? WHERE domain = ?", [(again, domain) for domain in found]
        )
        return found

    def clean(self) -> float:
        """Forget what has run out, and what is too much."""
        self._connection.execute("DELETE FROM policy WHERE expires <= ?", (self.now,))
        self._connection.execute(
            "DELETE FROM policy WHERE domain IN (SELECT domain FROM policy ORDER BY expires DESC LIMIT -1 OFFSET ?)",
            (_MAX_ROWS,),
        )
        return _CLEAN_S


class StsStore(SharedFile[StsRows]):
    """The shared file of policies."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Keep it in `folder`; nothing is opened before the first question."""
        super().__init__(Path(folder) / FILE, _TABLES, StsRows, clock=clock)
