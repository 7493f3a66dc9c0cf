"""The domains that `pillarbox domain` keeps, beside the accounts that are their mailboxes: the same SQLite file.

What a name in such a domain stands for is found by `policy.names`, as for domains of the configuration; when a server
looks at the file is the business of `service`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import apsw
import msgspec

from pillarbox import observe
from pillarbox.mail.address import parse_address
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Seconds
from pillarbox.policy.account_store import AccountError, StoreFile
from pillarbox.policy.directory import Directory
from pillarbox.policy.domains import DomainSettings, StsSettings, dns_name, fold
from pillarbox.policy.known_names import KnownNames
from pillarbox.policy.names import DirectorySettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Ways that need nothing of the configuration, so that what is kept here can't name what is not there.
_WAYS = ("maildir", "lmtp", "smtp", "hold", "discard")


class StoredDomain(msgspec.Struct, frozen=True):
    """One domain, as it is kept."""

    name: str
    deliver: str
    every_name: bool = False
    catch_all: str | None = None
    aliases: dict[str, list[str]] = {}
    mta_sts: StsSettings = StsSettings()

    @property
    def ascii_name(self) -> str:
        """In A-labels."""
        return dns_name(self.name)

    @property
    def settings(self) -> DomainSettings:
        """What the directory makes a domain of."""
        return DomainSettings(
            deliver=self.deliver,
            users="*" if self.every_name else [],
            users_from=() if self.every_name else ("accounts",),
            aliases=dict(self.aliases),
            catch_all=self.catch_all,
            mta_sts=self.mta_sts,
        )


class Snapshot(msgspec.Struct):
    """What a file holds at one moment."""

    version: int
    accounts: list[str]
    domains: dict[str, DomainSettings]


class DomainStore(StoreFile):
    """The domains in the file."""

    def version(self) -> int:
        """It grows with each change of a domain, an alias, or the names of the accounts."""
        found: int = self._db.execute("SELECT version FROM names").get
        return found

    def snapshot(self, version: int) -> Snapshot | None:
        """What gets mail, or None if it is still that of `version`."""
        with self._db:  # all of it is of one moment
            now = self.version()
            domains = {one.name: one.settings for one in self.domains()}
            names = self.account_names() if now != version else []
        return Snapshot(now, names, domains) if now != version else None

    def account_names(self) -> list[str]:
        """The names of all accounts."""
        return [name for (name,) in self._db.execute("SELECT name FROM account")]

    def domains(self) -> list[StoredDomain]:
        """All domains by name."""
        aliases: dict[str, dict[str, list[str]]] = {}
        for domain, name, goes_to in self._db.execute(
            "SELECT domain, name, goes_to FROM alias ORDER BY domain, name"
        ):
            aliases.setdefault(domain, {})[name] = goes_to.split()
        policies = {
            domain: StsSettings(mode=mode, mx=tuple(mx.split()), max_age_s=Seconds(max_age_s))
            for domain, mode, mx, max_age_s in self._db.execute(
                "SELECT domain, mode, mx, max_age FROM mta_sts"
            )
        }
        rows = self._db.execute("SELECT name, deliver, every_name, catch_all FROM domain ORDER BY name")
        return [
            StoredDomain(
                name,
                deliver,
                bool(every_name),
                catch_all,
                aliases.get(name, {}),
                policies.get(name, StsSettings()),
            )
            for name, deliver, every_name, catch_all in rows
        ]

    def put(self, domain: StoredDomain, *, replace: bool) -> None:
        """Keep a domain; its aliases stay if it is there already. Raises AccountError if it can't work."""
        with self.writing():
            if not replace and self._has(domain.name):
                raise AccountError(f"there is a domain {domain.name} already")
            self._db.execute(
                "INSERT INTO domain VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET deliver = excluded.deliver, "
                "every_name = excluded.every_name, catch_all = excluded.catch_all",
                (domain.name, domain.deliver, domain.every_name, domain.catch_all, time.time()),
            )
            self._check()

    def remove(self, name: str) -> None:
        """Forget a domain and its aliases; the accounts stay."""
        with self.writing():
            self._must_have(name)
            self._db.execute("DELETE FROM domain WHERE name = ?", (name,))
            self._check()

    def put_policy(self, domain: str, policy: StsSettings) -> None:
        """Keep the MTA-STS policy of a domain, or forget it if it is off."""
        with self.writing():
            self._must_have(domain)
            self._db.execute("DELETE FROM mta_sts WHERE domain = ?", (domain,))
            if policy.mode != "off":
                self._db.execute(
                    "INSERT INTO mta_sts VALUES (?, ?, ?, ?)",
                    (domain, policy.mode, " ".join(policy.mx), float(policy.max_age_s)),
                )

    def put_alias(self, domain: str, name: str, goes_to: Sequence[str]) -> None:
        """Let a name stand for others, in place of what it stood for. Raises AccountError if it leads nowhere."""
        with self.writing():
            self._must_have(domain)
            self._db.execute(
                "INSERT INTO alias VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET goes_to = excluded.goes_to",
                (domain, fold(name), " ".join(goes_to)),
            )
            directory = self._check()
            found = directory.resolve(parse_address(f"{name}@{domain}"))
            if isinstance(found, Reply):
                raise AccountError(f"{name}@{domain} would lead to nobody: {found.lines[0]}")

    def remove_alias(self, domain: str, name: str) -> None:
        """Forget an alias."""
        with self.writing():
            self._must_have(domain)
            self._db.execute("DELETE FROM alias WHERE domain = ? AND name = ?", (domain, fold(name)))
            if not self._db.changes():
                raise AccountError(f"there is no alias {name}@{domain}")
            self._check()

    def _has(self, name: str) -> bool:
        return self._db.execute("SELECT 1 FROM domain WHERE name = ?", (name,)).fetchone() is not None

    def _must_have(self, name: str) -> None:
        if not self._has(name):
            raise AccountError(f"there is no domain {name}")

    def _check(self) -> Directory:
        """Take nothing that could not work: all domains together, as a server would read them."""
        found = self.domains()
        for domain in found:
            way = domain.deliver.partition(":")[0]
            if way not in _WAYS:
                raise AccountError(
                    f'{domain.name}: "{way}:" needs more than a name; write the domain in the configuration'
                )
        try:
            return Directory(
                DirectorySettings(domains={one.name: one.settings for one in found}),
                known=KnownNames({"accounts": self.account_names()}),
            )
        except ValueError as error:
            raise AccountError(str(error)) from error


class StoredNames:
    """What `pillarbox user` and `pillarbox domain` keep, for the directory of one server."""

    def __init__(self, file: Path, directory: Directory) -> None:
        """Nothing is read yet; the file need not be there."""
        self._file = file
        self._directory = directory
        self._stamp: tuple[int, ...] = ()
        self._version = 0
        self._broken = False

    def changed(self) -> bool:
        """Whether somebody wrote to the file since it was read. It costs a look at the file's inode."""
        try:
            found = self._file.stat()
        except OSError:
            return bool(self._stamp)
        return (found.st_ino, found.st_mtime_ns, found.st_size) != self._stamp

    def read(self) -> Snapshot | None:
        """What is in the file, or None if that is what is known already. It waits for the disk."""
        try:
            found = self._file.stat()
            store = DomainStore(self._file)
            try:
                snapshot = store.snapshot(self._version)
            finally:
                store.close()
        except (OSError, apsw.Error, AccountError) as error:  # what is known stays in use
            self._version = -1  # whatever comes in its place is read
            if isinstance(error, FileNotFoundError) and not self._stamp:
                return None  # it was never there
            if not self._broken:
                observe.DIRECTORY_TROUBLE.note(file=str(self._file), problem=str(error))
            self._broken = True
            return None
        self._stamp, self._broken = (found.st_ino, found.st_mtime_ns, found.st_size), False
        return snapshot

    def take(self, snapshot: Snapshot | None) -> None:
        """Let the directory know."""
        if snapshot is None:
            return
        self._version = snapshot.version
        self._directory.known.put(str(self._file), snapshot.accounts)
        for name, problem in self._directory.take_stored(snapshot.domains):
            observe.DIRECTORY_TROUBLE.note(file=str(self._file), problem=f"{name}: {problem}")
