"""Check logins against the accounts of the configuration, without stalling the loop or telling who exists.

Which mailboxes exist is `policy.directory`'s, what a login may do `policy.rules`' business.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from pillarbox.mail.catalogue import auth
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Settings

_THREADS = 2
_MAX_WAITING = 64
# Checked for unknown users, so that they take as long as known ones (RFC 4954 6 wants one answer for both).
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$cGlsbGFyYm94LW5vYm9keQ$u8YzbSTxHRzXb1dCsTRSxUwbW1jzXPqUJUZUuj9j7VE"


class AccountSettings(Settings, frozen=True):
    """One account that may log in: `[account.NAME]`."""

    password: str
    """The argon2 hash of the password; `pillarbox user hash` makes it."""
    senders: tuple[str, ...] = ()
    """The sender addresses that it may use, "@domain" for all of a domain; none: any address."""


class Accounts:
    """The accounts of one server."""

    def __init__(self, accounts: dict[str, AccountSettings]) -> None:
        """Take the accounts by name; names are compared without regard to case."""
        self._accounts = {name.lower(): account for name, account in accounts.items()}
        self._hasher = PasswordHasher()
        self._pool = ThreadPoolExecutor(_THREADS, "login")
        self._waiting = 0

    def __bool__(self) -> bool:
        """Whether anybody can log in at all."""
        return bool(self._accounts)

    async def login(self, user: str, password: str, authorize_as: str = "") -> str | Reply:
        """The account's name, or the refusal. At most `_MAX_WAITING` logins wait; the next is put off (454)."""
        if self._waiting >= _MAX_WAITING:
            return auth.BACKEND_DOWN.reply()
        name = user.lower()
        account = self._accounts.get(name)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            secret = account.password if account is not None else _NOBODY
            right = await loop.run_in_executor(self._pool, self._matches, secret, password)
        finally:
            self._waiting -= 1
        if account is None or not right or authorize_as.lower() not in ("", name):
            return auth.BAD_CREDENTIALS.reply()
        return name

    def _matches(self, secret: str, password: str) -> bool:
        try:
            return self._hasher.verify(secret, password)
        except (Argon2Error, InvalidHashError):
            return False

    def may_send_as(self, name: str, sender: str) -> bool:
        """Whether an account may use a reverse-path; `@domain` among its senders stands for the whole domain."""
        account = self._accounts.get(name)
        if account is None:
            return False
        senders, address = account.senders, sender.lower()
        return not senders or address in senders or "@" + address.rpartition("@")[2] in senders

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def hash_password(password: str) -> str:
    """The argon2id hash to put into the configuration."""
    return PasswordHasher().hash(password)
