"""Check passwords in threads of their own, so that neither a flood of logins nor a slow hash stalls the sessions.

Whose password it is, and what follows from the answer, is the business of `policy.accounts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pillarbox.smtp.scram import HASHES, ScramError, ScramKeys, derive_keys, format_keys, parse_keys

if TYPE_CHECKING:
    from collections.abc import Callable

_THREADS = 2
_NICE = 10  # the threads hash when the sessions have nothing to do
_KEEP_S = 60.0  # a password found right is not hashed again for so long
_MAX_KEPT = 4096
_SALT_OCTETS = 16
_MAX_COSTS = 16  # different ones
_MAX_COUNTED = 1000
# Checked for unknown users, so that they take as long as known ones (RFC 4954 6 wants one answer for both).
NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$cGlsbGFyYm94LW5vYm9keQ$u8YzbSTxHRzXb1dCsTRSxUwbW1jzXPqUJUZUuj9j7VE"


class TooManyWaiting(Exception):
    """So many passwords wait to be checked that this one was not taken."""


class Passwords:
    """A bounded pool that checks passwords, with a short memory for those found right."""

    def __init__(self, max_waiting: int) -> None:
        """At most `max_waiting` wait at once."""
        self._max_waiting = max_waiting
        self._nobody = NOBODY
        self._pool = ThreadPoolExecutor(_THREADS, "login", initializer=_be_nice)
        self._waiting = 0
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()  # when each is to be forgotten
        self._costs: dict[str, int] = {}  # how often hashes of each cost were checked

    async def matches(self, hashed: str, password: str) -> bool:
        """Whether a password belongs to a hash, or to keys for SCRAM; "" is the hash of none. Raises TooManyWaiting."""
        mark = hmac.digest(self._key, f"{hashed}\0{password}".encode(), "sha256")
        now = time.monotonic()
        if hashed and self._right.get(mark, 0.0) > now:
            return True
        self._learn(hashed)
        right = await self._in_pool(self._verify, hashed or self._nobody, password) and bool(hashed)
        if right:
            self._right[mark] = now + _KEEP_S
            self._right.move_to_end(mark)
            if len(self._right) > _MAX_KEPT:
                self._right.popitem(last=False)
        return right

    async def matches_nobody(self, mark: bytes, password: str) -> bool:
        """Do the work for a name that nobody has: what a hash of those that are kept costs, for one name always the same."""
        total = sum(self._costs.values())
        at = int.from_bytes(mark[:4]) % total if total else 0
        kind = next((kind for kind, number in self._costs.items() if (at := at - number) < 0), "")
        await self._in_pool(self._verify, _hash_of_nobody(kind) if kind else self._nobody, password)
        return False

    def _learn(self, hashed: str) -> None:
        """Remember what a hash costs to check."""
        kind = _cost_of(hashed)
        if not kind or (kind not in self._costs and len(self._costs) >= _MAX_COSTS):
            return
        self._costs[kind] = min(self._costs.get(kind, 0) + 1, _MAX_COUNTED)

    async def _in_pool(self, check: Callable[[str, str], bool], hashed: str, password: str) -> bool:
        if self._waiting >= self._max_waiting:
            raise TooManyWaiting
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, check, hashed, password)
        finally:
            self._waiting -= 1

    @staticmethod
    def _verify(hashed: str, password: str) -> bool:
        try:
            if hashed.startswith("SCRAM"):
                mechanism, keys = parse_keys(hashed)
                return derive_keys(mechanism, password, keys.salt, keys.iterations) == keys
        except ScramError:
            return False
        return _fits(hashed, password)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _cost_of(hashed: str) -> str:
    """The part of a hash that says how much work it is."""
    if hashed.startswith("SCRAM"):
        return hashed.partition(":")[0]
    return hashed.rsplit("$", 2)[0] if hashed.startswith("$argon2") else ""


def _hash_of_nobody(kind: str) -> str:
    """A hash of a given cost that no password fits."""
    if kind.startswith("SCRAM"):
        mechanism, _, iterations = kind.partition("$")
        return format_keys(mechanism, keys_of_nobody(b"", mechanism, "", int(iterations)))
    return f"{kind}${NOBODY.split('$', 4)[4]}"


def _be_nice() -> None:
    """On Linux a thread has a niceness of its own, and those that argon2 starts take it over."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def hash_password(password: str) -> str:
    """The argon2id hash to keep."""
    from argon2 import PasswordHasher  # noqa: PLC0415 - not before somebody has a password

    return PasswordHasher().hash(password)


def _fits(hashed: str, password: str) -> bool:
    """Whether an argon2 hash is that of a password."""
    from argon2 import PasswordHasher  # noqa: PLC0415 - as above
    from argon2.exceptions import Argon2Error, InvalidHashError  # noqa: PLC0415 - as above

    try:
        return PasswordHasher().verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False


def scram_keys(mechanism: str, password: str) -> ScramKeys:
    """New keys for a password. Raises ScramError for one that SCRAM can't take."""
    return derive_keys(mechanism, password, secrets.token_bytes(_SALT_OCTETS))


def keys_of_nobody(key: bytes, mechanism: str, name: str, iterations: int) -> ScramKeys:
    """Keys that no password fits, always the same for a name: an unknown user gets a challenge like any other."""
    kind = HASHES[mechanism]

    def made(purpose: str) -> bytes:
        return hmac.digest(key, f"{purpose}\0{mechanism}\0{name}".encode(), kind)

    return ScramKeys(made("salt")[:_SALT_OCTETS], iterations, made("stored"), made("server"))


def digest_app_password(secret: str) -> str:
    """What is kept of an app password: it is long and random, so no slow hash is needed."""
    plain = secret.replace("-", "").replace(" ", "").lower()
    return hashlib.sha256(plain.encode()).hexdigest()


def new_app_password() -> str:
    """Twenty letters and digits, in groups that can be typed: nobody can guess a hundred bits."""
    letters = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(20))
    return "-".join(letters[start : start + 4] for start in range(0, 20, 4))
