"""Slow down those who guess passwords: each failed login makes the next of that network or account wait longer.

All workers count together, and a restart forgets nothing. An account that logged in from a network before is not held
up there by the failures of others. Checking the password is the business of `policy.accounts`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import apsw

from pillarbox.policy.account import SourceDown
from pillarbox.policy.lists import neighbourhood
from pillarbox.policy.patience import Patience
from pillarbox.policy.shared_file import FileFullError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.policy.memory import Memory, Notes

T = TypeVar("T")

_FORGIVE_S = 60.0  # after so long without a failure one is forgotten
_FREE_OF_NETWORK = 20  # failures without consequences: others share the network
_FREE_OF_ACCOUNT = 5
_MAX_DOUBLINGS = 20
_KNOWN_S = 30 * 86_400.0  # how long it is remembered that an account logged in from a network
_MAX_WAITING = 1000  # logins that are held up at once, in each worker


class Guard:
    """What is known of failed logins. A note's mark is when the last failure under its key will be forgotten.

    A login counts as a failure from the moment that it is looked at, until it turns out to be none: so many guesses at
    the same time wait as long as one after the other.
    """

    def __init__(self, memory: Memory, max_delay_s: float) -> None:
        """Count in `memory`; let no login wait longer than that."""
        self._memory = memory
        self._max_delay_s = max_delay_s
        self._patience = Patience(_MAX_WAITING)

    async def admit(self, address: str, name: str) -> bool:
        """Wait as long as earlier failures ask for; False if that is too long. Raises SourceDown."""
        delay_s = await self._ask(lambda notes: self._begin(notes, address, name))
        if delay_s is None:
            return False
        if not delay_s or await self._patience.wait(delay_s):
            return True
        await self.forgive(address, name)
        return False

    def _begin(self, notes: Notes, address: str, name: str) -> float | None:
        delay_s = 0.0
        if notes.get(_known(address, name)) is None:
            keys = _keys(address, name).items()
            delay_s = max(_delay_s(_failures(notes, key), free) for key, free in keys)
        if delay_s > self._max_delay_s:
            return None
        _count(notes, address, name, _FORGIVE_S)
        return delay_s

    async def failed(self, address: str, name: str, *, admitted: bool) -> None:
        """A login failed; `admitted` tells whether it was counted already. Raises SourceDown."""

        def note(notes: Notes) -> None:
            if not admitted:
                _count(notes, address, name, _FORGIVE_S)
            notes.put(_known(address, name), notes.now, 0, 0.0)  # it is known no more

        await self._ask(note)

    async def forgive(self, address: str, name: str) -> None:
        """A login that was admitted could not be looked at after all. Raises SourceDown."""
        await self._ask(lambda notes: _count(notes, address, name, -_FORGIVE_S))

    async def succeeded(self, address: str, name: str, *, admitted: bool) -> None:
        """A login was right: its account is no stranger in that network. Raises SourceDown."""

        def note(notes: Notes) -> None:
            if admitted:
                _count(notes, address, name, -_FORGIVE_S)
            notes.put(_known(address, name), notes.now, 0, _KNOWN_S)

        await self._ask(note)

    async def _ask(self, work: Callable[[Notes], T]) -> T:
        try:
            return await self._memory.ask(work)
        except (FileFullError, apsw.Error, OSError) as error:
            raise SourceDown(f"failed logins cannot be counted: {error}") from error


def _keys(address: str, name: str) -> dict[str, int]:
    """Under what a login is counted, and how many failures have no consequences; a token need not name its account."""
    keys = {f"login network {neighbourhood(address)}": _FREE_OF_NETWORK}
    return keys | {f"login account {name}": _FREE_OF_ACCOUNT} if name else keys


def _known(address: str, name: str) -> str:
    return f"login known {neighbourhood(address)} {name}"


def _failures(notes: Notes, key: str) -> int:
    found = notes.get(key)
    return math.ceil((found.mark - notes.now) / _FORGIVE_S) if found is not None else 0


def _count(notes: Notes, address: str, name: str, seconds: float) -> None:
    for key in _keys(address, name):
        found = notes.get(key)
        mark = max(found.mark if found is not None else 0.0, notes.now) + seconds
        notes.put(key, mark, 0, mark - notes.now)


def _delay_s(failures: int, free: int) -> float:
    return 0.0 if failures < free else 2.0 ** min(failures - free, _MAX_DOUBLINGS)
