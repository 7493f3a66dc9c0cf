"""Accounts and mailboxes in somebody's PostgreSQL database, by queries of the operator's.

Who is let in is decided by `policy.accounts`. The extra `postgres` brings the library that this needs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg

from pillarbox.policy.account import Account, SourceDown
from pillarbox.smtp.scram import parse_keys

if TYPE_CHECKING:
    from pillarbox.policy.accounts import SqlSettings

_LIMIT_S = 5.0
_MAX_CONNECTIONS = 4


class SqlAccounts:
    """One database. It is connected to at the first login."""

    title = "sql"
    makes_keys = False

    def __init__(self, settings: SqlSettings) -> None:
        """Nothing is opened yet."""
        self._settings = settings
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self.keyed = frozenset({"SCRAM-SHA-256"} if "scram" in settings.query.lower() else ())
        self.keyless = 0.0

    async def find(self, name: str) -> Account | None:
        """Ask the database. Raises SourceDown."""
        row = await self._fetch(self._settings.query, name)
        try:
            return None if row is None else _account(name, row)
        except ValueError as error:
            raise SourceDown(f"sql: {error!r}") from error

    async def mailbox(self, address: str) -> tuple[str, ...] | None:
        """What an address stands for, () for a mailbox, None if it is unknown. Raises SourceDown."""
        row = await self._fetch(self._settings.mailbox_query, address)
        return None if row is None else _words(row.get("forward"))

    async def _fetch(self, query: str, about: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                row = await (await self._opened()).fetchrow(query, about)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
            raise SourceDown(f"sql: {error!r}") from error
        return None if row is None else dict(row)

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._settings.url, min_size=0, max_size=_MAX_CONNECTIONS, command_timeout=_LIMIT_S
                )
            return self._pool

    async def verify(self, account: Account | None, password: str) -> None:
        """Leave it to others."""

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """Nothing to learn: the database is not ours to write."""

    async def close(self) -> None:
        """Give the connections back."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()


def _words(column: Any) -> tuple[str, ...]:
    """A text with spaces between, or an array."""
    return tuple(column.split() if isinstance(column, str) else column or ())


def _account(name: str, row: dict[str, Any]) -> Account:
    """An account from the columns that the query gives. Raises ValueError."""
    return Account(
        name,
        row.get("password") or "",
        dict([parse_keys(row["scram"])]) if row.get("scram") else {},
        senders=tuple(map(str.lower, _words(row.get("senders")))),
        enabled=bool(row.get("enabled", True)),
    )
