"""Accounts in somebody's PostgreSQL database, by a query of the operator's.

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

    def __init__(self, settings: SqlSettings) -> None:
        """Nothing is opened yet."""
        self._settings = settings
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self.keyed = frozenset({"SCRAM-SHA-256"} if "scram" in settings.query.lower() else ())
        self.keyless = 0.0

    async def find(self, name: str) -> Account | None:
        """Ask the database. Raises SourceDown."""
        try:
            async with asyncio.timeout(_LIMIT_S):
                row = await (await self._opened()).fetchrow(self._settings.query, name)
            return None if row is None else _account(name, dict(row))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
            raise SourceDown(f"sql: {error!r}") from error

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._settings.url, min_size=0, max_size=_MAX_CONNECTIONS, command_timeout=_LIMIT_S
                )
            return self._pool

    async def verify(self, account: Account, password: str) -> None:
        """Leave it to others."""

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """Nothing to learn: the database is not ours to write."""

    async def close(self) -> None:
        """Give the connections back."""
        if self._pool is not None:
            self._pool.terminate()


def _account(name: str, row: dict[str, Any]) -> Account:
    """An account from the columns that the query gives. Raises ValueError."""
    senders = row.get("senders") or ()
    return Account(
        name,
        row.get("password") or "",
        dict([parse_keys(row["scram"])]) if row.get("scram") else {},
        senders=tuple(senders.lower().split() if isinstance(senders, str) else map(str.lower, senders)),
        enabled=bool(row.get("enabled", True)),
    )
