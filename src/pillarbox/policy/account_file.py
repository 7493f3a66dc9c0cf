"""The accounts in a file of the operator's, read anew when it changes.

What such a file has to look like is the business of `config`, who is let in that of `policy.accounts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.policy.accounts import ConfigAccounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pillarbox.policy.account import Account
    from pillarbox.policy.accounts import AccountSettings
    from pillarbox.policy.known_names import KnownNames


class FileAccounts:
    """One file. A change that can't be used is told, and what was read before stays in use."""

    makes_keys = False
    keyless = 0.0

    def __init__(
        self, file: Path, read: Callable[[Path], Mapping[str, AccountSettings]], known: KnownNames
    ) -> None:
        """Read it. `known` learns the names. Raises OSError, or ValueError that says what is wrong, and where."""
        self.title = str(file)
        self._file = file
        self._read = read
        self._known = known
        self._stamp = self._look()
        self._take(read(file))

    def _look(self) -> tuple[int, ...]:
        found = self._file.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _take(self, accounts: Mapping[str, AccountSettings]) -> None:
        self._accounts = ConfigAccounts(dict(accounts))
        self._known.put(self.title, accounts)

    def changed(self) -> bool:
        """Whether it is not the file that was read last."""
        try:
            return self._look() != self._stamp
        except OSError:
            return bool(self._stamp)

    def refresh(self) -> None:
        """Read it again. It waits for the disk."""
        try:
            self._stamp = self._look()
            self._take(self._read(self._file))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._stamp = ()
            observe.DIRECTORY_TROUBLE.note(file=self.title, problem=str(error))

    # ------------------------------------------------------------------ as a directory of accounts

    @property
    def keyed(self) -> frozenset[str]:
        """The mechanisms for which all accounts have keys."""
        return self._accounts.keyed

    async def find(self, name: str) -> Account | None:
        return await self._accounts.find(name)

    async def verify(self, account: Account | None, password: str) -> None:
        """Leave it to others."""

    async def logged_in(self, account: Account, password: str, app_password: str) -> None:
        """Nothing to learn: the file is the operator's."""

    async def close(self) -> None:
        """Nothing is open."""
