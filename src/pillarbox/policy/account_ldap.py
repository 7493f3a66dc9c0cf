"""Accounts and mailboxes in somebody's LDAP directory, which checks the passwords itself.

Asking the server is the business of `net.ldap`, who is let in that of `policy.accounts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pillarbox.policy.account import Account

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillarbox.policy.accounts import LdapSettings

_MAX_ENTRIES = 20  # for one address


class Found(Protocol):
    """An entry."""

    @property
    def dn(self) -> str:
        """Its name."""

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """What was asked for, by names in lower case."""


class Ldap(Protocol):
    """A server. Both raise SourceDown."""

    async def find(
        self, wanted: str, address: str, attributes: Sequence[str], *, most: int
    ) -> Sequence[Found]:
        """The entries that a filter finds for an address."""

    async def verify(self, dn: str, password: str) -> bool:
        """Whether it is the entry's password."""

    async def close(self) -> None:
        """Let go what was opened."""


class LdapAccounts:
    """One server, as the settings say what to find there."""

    title = "ldap"
    keyed: frozenset[str] = frozenset()  # it never shows what SCRAM needs
    keyless = 0.0
    makes_keys = False

    def __init__(self, settings: LdapSettings, server: Ldap) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._server = server
        self._nobody = f"cn=pillarbox-nobody,{settings.base}"  # asked about where there is no account

    async def find(self, name: str) -> Account | None:
        """Ask the server; of several entries nobody can say which one is meant. Raises SourceDown."""
        senders = self._settings.senders_attribute
        entries = await self._server.find(
            self._settings.account_filter, name, [senders] if senders else [], most=2
        )
        if len(entries) != 1:
            return None
        found = entries[0]
        addresses = found.attributes.get(senders.lower(), ()) if senders else ()
        if senders and not addresses:
            addresses = (name,)  # who has no address in the directory has none but that of the login
        return Account(name, senders=tuple(map(str.lower, addresses)), reference=found.dn)

    async def verify(self, account: Account | None, password: str) -> bool:
        """Let the server check it; about nobody it is asked as well. Raises SourceDown."""
        return await self._server.verify(account.reference if account else self._nobody, password)

    async def mailbox(self, address: str) -> tuple[str, ...] | None:
        """What an address stands for, () for a mailbox, None if it is unknown. Raises SourceDown."""
        forward = self._settings.forward_attribute
        found = await self._server.find(
            self._settings.mailbox_filter, address, [forward] if forward else [], most=_MAX_ENTRIES
        )
        values = [entry.attributes.get(forward.lower(), ()) for entry in found]
        if not all(values):
            return ()  # one of them is a mailbox
        return tuple(dict.fromkeys(value for those in values for value in those)) if values else None

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """Nothing to learn: the directory is not ours to write."""

    async def close(self) -> None:
        """Hang up."""
        await self._server.close()
