"""The accounts that `pillarbox user` keeps: an SQLite file in the data folder, read anew at each login.

Who is let in is decided by `policy.accounts`; the words of the commands are the business of `cli.user`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from pillarbox import observe
from pillarbox.policy.account import Account, SourceDown
from pillarbox.policy.passwords import digest_app_password, hash_password, new_app_password, scram_keys
from pillarbox.smtp.scram import HASHES, ScramError, format_keys, parse_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FILE = "accounts.db"
_VERSION = 3
_BUSY_MS = 2000
_SHARE_S = 60.0  # how long the share of accounts without keys is remembered
_USED_S = 60.0  # the last use of an app password is noted no more often
_TABLES = """
CREATE TABLE account (
  name TEXT PRIMARY KEY, password TEXT NOT NULL, cram_md5 TEXT NOT NULL DEFAULT '', senders TEXT NOT NULL DEFAULT '',
  enabled INTEGER NOT NULL DEFAULT 1, created REAL NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE scram (
  name TEXT NOT NULL REFERENCES account ON DELETE CASCADE, mechanism TEXT NOT NULL, keys TEXT NOT NULL,
  PRIMARY KEY (name, mechanism)) STRICT, WITHOUT ROWID;

CREATE TABLE app_password (
  name TEXT NOT NULL REFERENCES account ON DELETE CASCADE, label TEXT NOT NULL, digest TEXT NOT NULL,
  created REAL NOT NULL, used REAL, PRIMARY KEY (name, label)) STRICT, WITHOUT ROWID;

CREATE TABLE nobody (key BLOB NOT NULL) STRICT;
"""
# What has changed since version 1. `names` counts the changes of what gets mail, so that servers know when to read anew.
_TABLES_OF_NAMES = """
CREATE TABLE domain (
  name TEXT PRIMARY KEY, deliver TEXT NOT NULL, every_name INTEGER NOT NULL DEFAULT 0, catch_all TEXT,
  created REAL NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE alias (
  domain TEXT NOT NULL REFERENCES domain ON DELETE CASCADE, name TEXT NOT NULL, goes_to TEXT NOT NULL,
  PRIMARY KEY (domain, name)) STRICT, WITHOUT ROWID;

CREATE TABLE names (version INTEGER NOT NULL) STRICT;
INSERT INTO names VALUES (1);
CREATE TRIGGER account_added AFTER INSERT ON account BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER account_removed AFTER DELETE ON account BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER domain_added AFTER INSERT ON domain BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER domain_changed AFTER UPDATE ON domain BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER domain_removed AFTER DELETE ON domain BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER alias_added AFTER INSERT ON alias BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER alias_changed AFTER UPDATE ON alias BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER alias_removed AFTER DELETE ON alias BEGIN UPDATE names SET version = version + 1; END;
"""
_TABLES_OF_POLICIES = """
CREATE TABLE mta_sts (
  domain TEXT PRIMARY KEY REFERENCES domain ON DELETE CASCADE, mode TEXT NOT NULL, mx TEXT NOT NULL,
  max_age REAL NOT NULL) STRICT, WITHOUT ROWID;

CREATE TRIGGER policy_added AFTER INSERT ON mta_sts BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER policy_changed AFTER UPDATE ON mta_sts BEGIN UPDATE names SET version = version + 1; END;
CREATE TRIGGER policy_removed AFTER DELETE ON mta_sts BEGIN UPDATE names SET version = version + 1; END;
"""


class AccountError(Exception):
    """What was asked for can't be done; the text says why."""


class Listed(msgspec.Struct, frozen=True):
    """What may be shown of an account."""

    name: str
    enabled: bool
    senders: tuple[str, ...]
    mechanisms: tuple[str, ...]  # those it has keys for
    app_passwords: int
    created: float


class AppPassword(msgspec.Struct, frozen=True):
    """What may be shown of an app password."""

    label: str
    created: float
    used: float | None


def _make(file: Path) -> None:
    """Make the file if it is not there; one that root makes is for whoever has the folder, the server."""
    opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.geteuid() == 0 and not os.fstat(opened).st_size:
            owner = file.parent.stat()
            os.fchown(opened, owner.st_uid, owner.st_gid)
    finally:
        os.close(opened)


class StoreFile:
    """The file itself, for one thread at a time: its tables, and writing all or nothing. Raises apsw.Error and AccountError."""

    def __init__(self, file: Path) -> None:
        """Open the file, or make it; nobody else may read it."""
        _make(file)
        self._db = apsw.Connection(str(file))
        self._db.set_busy_timeout(_BUSY_MS)
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._db.pragma("user_version") < _VERSION:
            with self.writing():
                self._make_tables()
        if (found := self._db.pragma("user_version")) != _VERSION:
            self._db.close()
            raise AccountError(f"{file} has tables of version {found}; use the release that made them")

    def _make_tables(self) -> None:
        found = self._db.pragma("user_version")  # somebody may have been faster
        if found == 0:
            self._db.execute(_TABLES)
            self._db.execute("INSERT INTO nobody VALUES (?)", (secrets.token_bytes(32),))
        if found < 2:
            self._db.execute(_TABLES_OF_NAMES)
        if found < _VERSION:
            self._db.execute(_TABLES_OF_POLICIES)
            self._db.pragma("user_version", _VERSION)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is done inside is done as a whole or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let it go."""
        self._db.close()


class AccountStore(StoreFile):
    """The accounts in it."""

    @property
    def key(self) -> bytes:
        """What the challenges of users that don't exist are made from."""
        found: bytes = self._db.execute("SELECT key FROM nobody").get
        return found

    # ------------------------------------------------------------------ looking

    def find(self, name: str) -> Account | None:
        """One account with all its secrets."""
        row: Any = self._db.execute(
            "SELECT password, cram_md5, senders, enabled FROM account WHERE name = ?", (name,)
        ).fetchone()
        if row is None:
            return None
        password, cram_md5, senders, enabled = row
        keys: Any = self._db.execute("SELECT keys FROM scram WHERE name = ?", (name,))
        apps: Any = self._db.execute("SELECT digest, label FROM app_password WHERE name = ?", (name,))
        return Account(
            name,
            password,
            dict(parse_keys(text) for (text,) in keys),
            cram_md5,
            tuple(senders.split()),
            bool(enabled),
            dict(apps),
        )

    def keyless(self) -> float:
        """The share of accounts without keys for SCRAM."""
        counted: Any = self._db.execute(
            "SELECT count(*), count(*) FILTER (WHERE NOT EXISTS (SELECT 1 FROM scram WHERE scram.name = account.name)) "
            "FROM account"
        ).fetchone()
        all_of_them, without = counted
        return without / all_of_them if all_of_them else 0.0

    def listed(self) -> list[Listed]:
        """All accounts by name, without their secrets."""
        rows = self._db.execute(
            "SELECT name, enabled, senders, created, "
            "(SELECT group_concat(mechanism, ' ') FROM scram WHERE scram.name = account.name), "
            "(SELECT count(*) FROM app_password WHERE app_password.name = account.name) FROM account ORDER BY name"
        )
        return [
            Listed(name, bool(enabled), tuple(senders.split()), tuple((keys or "").split()), apps, created)
            for name, enabled, senders, created, keys, apps in rows
        ]

    def app_passwords(self, name: str) -> list[AppPassword]:
        """Those of one account."""
        self._must_exist(name)
        rows = self._db.execute(
            "SELECT label, created, used FROM app_password WHERE name = ? ORDER BY label", (name,)
        )
        return [AppPassword(*row) for row in rows]

    def _must_exist(self, name: str) -> None:
        if self._db.execute("SELECT 1 FROM account WHERE name = ?", (name,)).fetchone() is None:
            raise AccountError(f"there is no account {name}")

    # ------------------------------------------------------------------ changing

    def add(self, account: Account) -> None:
        """A new account, its secrets ready made."""
        self.add_all([account], replace=False)

    def add_all(self, accounts: Sequence[Account], *, replace: bool) -> None:
        """New accounts, all or none; with `replace` they take the place of those there are."""
        with self.writing():
            for account in accounts:
                if (
                    not replace
                    and self._db.execute("SELECT 1 FROM account WHERE name = ?", (account.name,)).fetchone()
                ):
                    raise AccountError(f"there is an account {account.name} already")
                self._put(account)

    def _put(self, account: Account) -> None:
        self._db.execute(
            "INSERT INTO account (name, password, cram_md5, senders, enabled, created) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET password = excluded.password, cram_md5 = excluded.cram_md5, "
            "senders = excluded.senders, enabled = excluded.enabled",
            (
                account.name,
                account.password,
                account.cram_md5,
                " ".join(account.senders),
                account.enabled,
                time.time(),
            ),
        )
        self._set_keys(account)

    def _set_keys(self, account: Account) -> None:
        self._db.execute("DELETE FROM scram WHERE name = ?", (account.name,))
        for mechanism, keys in account.keys.items():
            self._db.execute(
                "INSERT INTO scram VALUES (?, ?, ?)", (account.name, mechanism, format_keys(mechanism, keys))
            )

    def set_password(self, account: Account) -> None:
        """Take the secrets of `account` over; the rest stays."""
        with self.writing():
            self._must_exist(account.name)
            self._db.execute(
                "UPDATE account SET password = ?, cram_md5 = ? WHERE name = ?",
                (account.password, account.cram_md5, account.name),
            )
            self._set_keys(account)

    def learn(self, account: Account) -> None:
        """Keep keys that were made from a password found right, unless it was changed meanwhile."""
        with self.writing():
            known = self._db.execute(
                "SELECT password FROM account WHERE name = ?", (account.name,)
            ).fetchone()
            if known == (account.password,):
                self._set_keys(account)

    def enable(self, name: str, *, enabled: bool) -> None:
        """Open or close an account."""
        with self.writing():
            self._must_exist(name)
            self._db.execute("UPDATE account SET enabled = ? WHERE name = ?", (enabled, name))

    def remove(self, name: str) -> None:
        """Forget an account and its app passwords."""
        with self.writing():
            self._must_exist(name)
            self._db.execute("DELETE FROM account WHERE name = ?", (name,))

    def add_app_password(self, name: str, label: str) -> str:
        """A new app password; it is shown once and never again."""
        secret = new_app_password()
        with self.writing():
            self._must_exist(name)
            if label in {one.label for one in self.app_passwords(name)}:
                raise AccountError(f"{name} has an app password {label} already")
            self._db.execute(
                "INSERT INTO app_password VALUES (?, ?, ?, ?, NULL)",
                (name, label, digest_app_password(secret), time.time()),
            )
        return secret

    def remove_app_password(self, name: str, label: str) -> None:
        """Take an app password back."""
        with self.writing():
            self._must_exist(name)
            self._db.execute("DELETE FROM app_password WHERE name = ? AND label = ?", (name, label))
            if not self._db.changes():
                raise AccountError(f"{name} has no app password {label}")

    def used(self, name: str, label: str, now: float) -> None:
        """An app password was used."""
        self._db.execute(
            "UPDATE app_password SET used = ? WHERE name = ? AND label = ? AND coalesce(used, 0) < ?",
            (now, name, label, now - _USED_S),
        )


def with_password(account: Account, password: str, mechanisms: Sequence[str]) -> Account:
    """The account with all that is kept of a password, for the mechanisms that are wanted. It takes a moment."""
    keys = {name: scram_keys(name, password) for name in HASHES if name in _bases(mechanisms)}
    return Account(
        account.name,
        hash_password(password),
        keys,
        password if "CRAM-MD5" in mechanisms else "",
        account.senders,
        account.enabled,
    )


def _bases(mechanisms: Sequence[str]) -> set[str]:
    return {name.removesuffix("-PLUS") for name in mechanisms}


class StoredAccounts:
    """The file as a directory of accounts. It is opened at the first login, and again after trouble."""

    title = FILE
    makes_keys = True

    def __init__(self, file: Path, mechanisms: Sequence[str]) -> None:
        """`mechanisms` are those of the settings: keys are made for them at the next login that shows the password."""
        self._file = file
        self._wanted = _bases(mechanisms) & set(HASHES)
        self.keyed = frozenset(self._wanted | (_bases(mechanisms) & {"CRAM-MD5"}))
        self.keyless = 0.0
        self._counted = 0.0
        self._store: AccountStore | None = None
        self._thread = ThreadPoolExecutor(1, "accounts")

    def key(self) -> bytes:
        """What the challenges of unknown users are made from; none if the file can't be read now."""
        try:
            return self._opened().key
        except (apsw.Error, OSError, AccountError) as error:
            observe.ACCOUNTS_DOWN.note(problem=str(error))
            return b""

    async def find(self, name: str) -> Account | None:
        """Look an account up. Raises SourceDown."""
        found: Account | None = await self._in_thread(self._find, name)
        return found

    def _find(self, name: str) -> Account | None:
        if not self._file.exists():
            return None  # `pillarbox user` makes it
        store = self._opened()
        now = time.monotonic()
        if now >= self._counted:
            self._counted = now + _SHARE_S
            self.keyless = store.keyless()
        return store.find(name)

    async def verify(self, account: Account | None, password: str) -> None:
        """Leave it to others."""

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """Note the use of an app password; make keys that are wanted and not there yet."""
        if app_password:
            await self._in_thread(self._used, account.name, app_password)
        elif self._wanted - set(account.keys):
            await self._in_thread(self._learn, account, password)

    def _used(self, name: str, label: str) -> None:
        self._opened().used(name, label, time.time())

    def _learn(self, account: Account, password: str) -> None:
        try:
            made = {name: scram_keys(name, password) for name in self._wanted - set(account.keys)}
        except ScramError:
            return
        known = Account(account.name, account.password, {**account.keys, **made})
        self._opened().learn(known)
        self._counted = 0.0

    def _opened(self) -> AccountStore:
        if self._store is None:
            self._store = AccountStore(self._file)
        return self._store

    async def _in_thread(self, work: Callable[..., Any], *arguments: object) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except (apsw.Error, OSError, AccountError, ValueError) as error:
            self._store = None
            raise SourceDown(f"{self._file}: {error}") from error

    async def close(self) -> None:
        """Let the thread go, and the file with it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._store = None
