"""Who may write which messages: a slot (the low six bits of a message id) belongs to one worker at a time.

A worker proves that it lives by a file lock, which the kernel drops when it dies, and by renewing its lease; each change
of hands raises the slot's fence, so that whoever lost a slot can't write any more. When it writes is `queue.writer`'s.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from typing import TYPE_CHECKING

from pillarbox.queue.spool import SLOTS

if TYPE_CHECKING:
    from pathlib import Path

    import apsw

_FOLDER = "workers"
LEASE_S = 30.0
RENEW_S = 10.0


class Leases:
    """The slots that one worker holds. `fences` maps each to its fencing number."""

    def __init__(self, root: Path) -> None:
        """Make this worker known below `root` under a fresh name. Raises OSError."""
        self.worker = secrets.token_hex(6)
        self.fences: dict[int, int] = {}
        self._folder = root / _FOLDER
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._seen: dict[int, tuple[tuple[str, float], float]] = {}
        self._renewed_at = time.monotonic()
        early = self._folder / f".{self.worker}"
        self._lock = os.open(early, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        early.rename(self._folder / self.worker)  # visible only once it is locked

    def _lives(self, worker: str) -> bool:
        return _is_locked(self._folder / worker)

    def acquire(self, connection: apsw.Connection) -> int:
        """Take one slot, rather one that was somebody's than a new one. Inside a transaction. Raises RuntimeError."""
        rows = _rows(connection)
        for slot, (worker, _renewed_at) in rows.items():
            if not self._lives(worker):
                return self._take(connection, slot)
        for slot in range(SLOTS):
            if slot not in rows:
                return self._take(connection, slot)
        msg = f"all {SLOTS} slots of the store are in use"
        raise RuntimeError(msg)

    def vacant(self, connection: apsw.Connection) -> list[int]:
        """The slots that were somebody's and are nobody's now. Inside a transaction."""
        rows = _rows(connection).items()
        return [slot for slot, (worker, _) in rows if slot not in self.fences and not self._lives(worker)]

    def adopt(self, connection: apsw.Connection) -> list[int]:
        """Take all slots with open mail whose worker died or stands still. Inside a transaction."""
        taken = []
        self._forgive()
        now = time.monotonic()
        for slot, lease in _rows(connection).items():
            if slot in self.fences:
                continue
            if self._seen.get(slot, (None,))[0] != lease:
                self._seen[slot] = (lease, now)
            stale = now - self._seen[slot][1] > LEASE_S
            if (stale or not self._lives(lease[0])) and _has_mail(connection, slot):
                taken.append(self._take(connection, slot))
        return taken

    def _take(self, connection: apsw.Connection, slot: int) -> int:
        fence = connection.execute(
            "INSERT INTO lease VALUES (?, ?, ?, 1) ON CONFLICT (slot) DO UPDATE SET"
            " worker = excluded.worker, renewed_at = excluded.renewed_at, fence = fence + 1 RETURNING fence",
            (slot, self.worker, time.time()),
        ).get
        connection.execute("UPDATE recipient SET claimed = 0 WHERE slot = ? AND claimed = 1", (slot,))
        self.fences[slot] = int(fence)
        return slot

    def renew(self, connection: apsw.Connection) -> None:
        """Say that this worker lives. Inside a transaction."""
        connection.execute("UPDATE lease SET renewed_at = ? WHERE worker = ?", (time.time(), self.worker))

    def renewed(self) -> None:
        """The transaction that renewed the leases is written."""
        self._forgive()
        self._renewed_at = time.monotonic()

    def _forgive(self) -> None:
        """If this worker could not write for a while, others could not either, most likely: their silence counts from now."""
        if time.monotonic() - self._renewed_at > 2 * RENEW_S:
            self._seen.clear()

    def lost(self, connection: apsw.Connection) -> set[int]:
        """The slots that others have taken from this worker since; they are forgotten here. Inside a transaction."""
        fences = dict(connection.execute("SELECT slot, fence FROM lease WHERE worker = ?", (self.worker,)))
        if fences == self.fences:
            return set()
        gone = {slot for slot, fence in self.fences.items() if fences.get(slot) != fence}
        for slot in gone:
            del self.fences[slot]
        return gone

    def forget(self, connection: apsw.Connection) -> None:
        """Give all slots back. Inside a transaction."""
        connection.execute("UPDATE lease SET worker = '', renewed_at = 0 WHERE worker = ?", (self.worker,))
        connection.executemany(
            "UPDATE recipient SET claimed = 0 WHERE slot = ? AND claimed = 1",
            [(slot,) for slot in self.fences],
        )
        self.fences.clear()

    def close(self) -> None:
        """Stop being known as a living worker."""
        with contextlib.suppress(OSError):
            (self._folder / self.worker).unlink(missing_ok=True)
        os.close(self._lock)


def living(root: Path) -> frozenset[str]:
    """The names of all workers of the store in `root` that live; what dead ones left there is cleared away."""
    files = [file for file in (root / _FOLDER).iterdir() if not file.name.startswith(".")]
    return frozenset(file.name for file in files if _is_locked(file))


def _is_locked(file: Path) -> bool:
    """Whether a worker lives, by its file, which is removed if it does not."""
    try:
        lock = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink(missing_ok=True)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _rows(connection: apsw.Connection) -> dict[int, tuple[str, float]]:
    rows = connection.execute("SELECT slot, worker, renewed_at FROM lease ORDER BY slot")
    return {slot: (worker, renewed_at) for slot, worker, renewed_at in rows}


def _has_mail(connection: apsw.Connection, slot: int) -> bool:
    sql = (
        "SELECT EXISTS (SELECT 1 FROM recipient WHERE slot = ?1 AND state = 0 AND claimed = 0)"
        " OR EXISTS (SELECT 1 FROM recipient WHERE slot = ?1 AND claimed = 1)"
    )
    return bool(connection.execute(sql, (slot,)).get)
