"""What is known of an account, and what a directory of accounts has to be able to do.

Each kind of directory is a module beside this one; who is let in is decided by `policy.accounts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from pillarbox.smtp.scram import ScramKeys


class SourceDown(Exception):
    """A directory can't be asked just now; the text says why, for the log."""


class Account(msgspec.Struct, frozen=True):
    """One account, as its directory knows it. Its secrets are not shown."""

    name: str
    password: str = ""  # an argon2 hash; "" if it can't log in with a password
    keys: Mapping[str, ScramKeys] = msgspec.field(default_factory=dict)  # by mechanism
    cram_md5: str = ""  # the password itself, where CRAM-MD5 is wanted
    senders: tuple[str, ...] = ()
    enabled: bool = True
    app_passwords: Mapping[str, str] = msgspec.field(default_factory=dict)  # name by digest
    reference: str = ""  # how its directory calls it, if not by its name

    def __repr__(self) -> str:
        return f"Account({self.name!r})"


class Source(Protocol):
    """A directory of accounts. Names are in lower case. All may raise SourceDown."""

    title: str  # for the log

    @property
    def keyed(self) -> frozenset[str]:
        """The mechanisms for which the accounts have keys, or may get them."""

    @property
    def keyless(self) -> float:
        """The share of accounts that have no keys yet, between 0 and 1."""

    @property
    def makes_keys(self) -> bool:
        """Whether somebody will make keys for the accounts that have none, so that these may be told to wait for it."""

    async def find(self, name: str) -> Account | None:
        """Look an account up."""

    async def verify(self, account: Account | None, password: str) -> bool | None:
        """Whether it is the account's password, or None if the directory leaves that to us.

        Without an account it does the same work for nobody.
        """

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """A password was right; `app_password` names the one that was used, if it was one."""

    async def close(self) -> None:
        """Let go what was opened."""


def owns(senders: tuple[str, ...], sender: str) -> bool:
    """Whether one of these is the sender address; `@domain` stands for the whole domain."""
    address = sender.lower()
    return address in senders or "@" + address.rpartition("@")[2] in senders
