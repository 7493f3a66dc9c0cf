"""The tables of the SQLite store, and how a connection to them is opened.

What is written into them when is the business of `queue.sqlite`; what operators read and change of `queue.ledger`.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "pillarbox.db"
BODIES = "bodies"  # the folder beside it, of bodies that are files
OLDEST_LIBRARY = (3, 51, 3)  # older ones can corrupt the database when two connections reset the log at once
BUSY_MS = 10_000
_PAUSE_S = 0.01
_TURN_S = 0.0005  # a sync takes about one millisecond
WRITER_CACHE_KIB = 16_384
READER_CACHE_KIB = 8_192
CHECKPOINT_PAGES = 4_000
# Some more, as the last transaction before a checkpoint may be large.
LOG_OCTETS = 32 + (CHECKPOINT_PAGES + 50) * (24 + 4096)
_LOG_PIECE = bytes(262_144)  # takes half a millisecond, in which nobody else can write
_LOG_SHARE = 10  # the log is made long beforehand if that many times its length is free

# `claimed` is set while a recipient is in the memory of the worker that holds its slot: such rows are in neither of the
# indexes of what waits, so a message that is delivered at once never enters them.
_TABLES = """
CREATE TABLE message (
  id INTEGER PRIMARY KEY, envelope BLOB NOT NULL, prefix BLOB NOT NULL, trace BLOB NOT NULL,
  received_at REAL NOT NULL, octets INTEGER NOT NULL) STRICT;

CREATE TABLE body (
  message INTEGER PRIMARY KEY, content BLOB  -- NULL: in a file
  ) STRICT;

CREATE TABLE recipient (
  message INTEGER NOT NULL, number INTEGER NOT NULL, slot INTEGER NOT NULL, state INTEGER NOT NULL,
  claimed INTEGER NOT NULL, due REAL NOT NULL, destination TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, delay_notified INTEGER NOT NULL DEFAULT 0,
  bounce INTEGER NOT NULL DEFAULT 0, result BLOB,
  PRIMARY KEY (message, number)) STRICT, WITHOUT ROWID;
CREATE INDEX waiting_due ON recipient (slot, due) WHERE state = 0 AND claimed = 0;
CREATE INDEX waiting_destination ON recipient (slot, destination, due) WHERE state = 0 AND claimed = 0;
CREATE INDEX claimed_slot ON recipient (slot) WHERE claimed = 1;
CREATE INDEX held ON recipient (message) WHERE state = 1;
CREATE INDEX damaged ON recipient (message) WHERE state = 5;

CREATE TABLE event (
  id INTEGER PRIMARY KEY, message INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
  number INTEGER, result BLOB, detail BLOB) STRICT;
CREATE INDEX event_message ON event (message);

CREATE TABLE lease (
  slot INTEGER PRIMARY KEY, worker TEXT NOT NULL, renewed_at REAL NOT NULL, fence INTEGER NOT NULL) STRICT;

CREATE TABLE verb (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, verb TEXT NOT NULL, message INTEGER,
  destination TEXT NOT NULL DEFAULT '') STRICT;

CREATE TABLE suspended (destination TEXT PRIMARY KEY, since REAL NOT NULL) STRICT, WITHOUT ROWID;
"""
_SUPPRESSION = """
CREATE TABLE suppressed (
  entry TEXT PRIMARY KEY, since REAL NOT NULL, until REAL NOT NULL, cause TEXT NOT NULL,
  message INTEGER, result BLOB, note TEXT NOT NULL DEFAULT '') STRICT, WITHOUT ROWID;

CREATE TABLE strike (
  entry TEXT NOT NULL, at REAL NOT NULL, returned INTEGER NOT NULL,  -- by a bounce, behind a success
  PRIMARY KEY (entry, at)) STRICT, WITHOUT ROWID;
"""
# Names by which bounces may call a message that was sent, as numbers.
_NAMES = """
CREATE TABLE name (message INTEGER NOT NULL, name INTEGER NOT NULL, PRIMARY KEY (message, name)) STRICT, WITHOUT ROWID;
CREATE INDEX name_message ON name (name);
"""
# Another turn than the usual one: the lower `rank`, the sooner; and a `deadline` at which something is to be done even if
# the destination can't be tried.
_TERMS = """
ALTER TABLE recipient ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recipient ADD COLUMN deadline REAL;
DROP INDEX waiting_due;
DROP INDEX waiting_destination;
CREATE INDEX waiting_due ON recipient (slot, rank, due) WHERE state = 0 AND claimed = 0;
CREATE INDEX waiting_destination ON recipient (slot, destination, rank, due) WHERE state = 0 AND claimed = 0;
CREATE INDEX waiting_deadline ON recipient (slot, deadline)
  WHERE deadline IS NOT NULL AND state = 0 AND claimed = 0;
"""
# The tables are the same, but records have text where older releases know octets alone.
_PLAIN_TEXT = ""
# What each version of the tables added to the one before; an older store is brought up to date when it is opened.
_VERSIONS = (_TABLES, _SUPPRESSION, _NAMES, _TERMS, _PLAIN_TEXT)
VERSION = len(_VERSIONS)  # kept in PRAGMA user_version
# What the store cannot do without, read at each start so that damage there is noticed before mail is taken.
_PROBES = ("SELECT count(*) FROM lease", "SELECT max(id) FROM message", "SELECT max(id) FROM event")


class StoreError(Exception):
    """The store cannot be opened at all; the text says why and what to do."""


def check_library(version: str) -> None:
    """Refuse an SQLite library that is known to lose data. Raises StoreError."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_LIBRARY:
        wanted = ".".join(map(str, OLDEST_LIBRARY))
        msg = f"SQLite {version} can corrupt the mail store; {wanted} or newer is needed (upgrade apsw)"
        raise StoreError(msg)


def connect(file: Path, *, cache_kib: int = READER_CACHE_KIB) -> apsw.Connection:
    """Open the database, make the tables that it lacks. Raises StoreError or apsw.Error."""
    check_library(apsw.sqlite_lib_version())
    try:
        return _connect(file, cache_kib)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        advice = f"bring a copy back, or save what can be read with: sqlite3 {file} .recover"
        raise StoreError(f"the mail store {file} is damaged ({error}); {advice}") from error


def _connect(file: Path, cache_kib: int) -> apsw.Connection:
    connection = apsw.Connection(str(file))
    connection.set_busy_handler(_wait_for_turn)
    _use_log(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    connection.execute("PRAGMA temp_store = MEMORY")
    if _version(connection) < VERSION:
        with transaction(connection):
            if not _version(connection):
                _check_new(file)
            for missing in _VERSIONS[_version(connection) :]:  # nothing if somebody else was faster
                connection.execute(missing)
            connection.execute(f"PRAGMA user_version = {max(VERSION, _version(connection))}")
    if (found := _version(connection)) != VERSION:
        connection.close()
        msg = (
            f"{file} has tables of version {found}; this release knows up to {VERSION}; use the newer release"
        )
        raise StoreError(msg)
    for probe in _PROBES:
        connection.execute(probe)
    return connection


def _check_new(file: Path) -> None:
    """Refuse to make tables where there are bodies: without their rows these would be swept away. Raises StoreError."""
    bodies = file.parent / BODIES
    if any(bodies.glob("*/*")):
        msg = (
            f"the database of the mail store, {file}, is missing or empty, but {bodies} is not; bring it back,"
            f" or move {bodies} away to begin with an empty queue"
        )
        raise StoreError(msg)


def _wait_for_turn(tries: int) -> bool:
    """Whether to try again for the write lock, after a short pause.

    SQLite's own waits grow to a tenth of a second; the lock of another worker is free again after one sync.
    """
    time.sleep(_TURN_S)
    return tries * _TURN_S * 1000 < BUSY_MS


def _use_log(connection: apsw.Connection) -> None:
    """Turn write-ahead logging on, which lasts. SQLite does not wait by itself while another connection does the same."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def lengthen_log(connection: apsw.Connection, file: Path) -> bool:
    """Make the log a piece longer, by zeros; whether it is still shorter than it will be before it begins anew.

    To sync what was written over takes half the time of a sync that makes a file longer. Behind the end of the log there
    are only zeros, which no reader takes for a part of it, and while we hold the write lock nobody writes there.
    Raises apsw.Error or OSError.
    """
    log = os.open(f"{file}-wal", os.O_WRONLY | os.O_CLOEXEC)
    try:
        disk = os.fstatvfs(log)
        if disk.f_bavail * disk.f_frsize < LOG_OCTETS * _LOG_SHARE:
            return False
        connection.execute("BEGIN IMMEDIATE")
        try:
            end = os.fstat(log).st_size
            missing = LOG_OCTETS - end
            if missing > 0:
                os.pwrite(log, _LOG_PIECE[:missing], end)
                os.fdatasync(log)
        finally:
            connection.execute("ROLLBACK")
        return missing > len(_LOG_PIECE)
    finally:
        os.close(log)


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Write durably all or nothing. Raises apsw.Error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: apsw.Connection) -> int:
    value = connection.execute("PRAGMA user_version").get
    return value if isinstance(value, int) else 0
