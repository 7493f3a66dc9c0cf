"""Remember for a while what was learnt about hosts: which want rest, which take no mail, where a message may lie.

It is shared by all that send from this process and bounded; nothing of it survives a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from pillarbox.queue.alarms import Alarms

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pillarbox.mail.reply import Result
    from pillarbox.relay.demand import Target
    from pillarbox.relay.plan import Hop

_MAX_ENTRIES = 10_000
_LONGEST_REST = 5  # times the first one
_FIRST_LOGIN_S = 600.0
_LONGEST_LOGIN_S = 14_400.0

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """A bounded map that forgets each entry when its time is over, and the oldest when it is full."""

    def __init__(self, max_entries: int = _MAX_ENTRIES) -> None:
        """Begin with nothing."""
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._max_entries = max_entries

    def put(self, key: Key, value: Value, until: float) -> None:
        """Remember `value` until that time."""
        self._entries.pop(key, None)
        self._entries[key] = (until, value)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def get(self, key: Key, now: float) -> Value | None:
        """What is remembered, or None."""
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= now:
            del self._entries[key]
            return None
        return found[1]

    def forget(self, key: Key) -> None:
        """It holds no longer."""
        self._entries.pop(key, None)


class _Rest(msgspec.Struct, frozen=True):
    """A host is left alone."""

    why: Result
    length_s: float
    until: float


class Login(msgspec.Struct, frozen=True):
    """What somebody tried to log in with; of the secret only what tells it from another one."""

    relay: str
    user: str
    secret: int


class Refused(msgspec.Struct, frozen=True):
    """A login that failed: with what words, and how long it is not tried again."""

    result: Result
    length_s: float
    until: float


class Hosts:
    """What is known about hosts. Times are those of the event loop."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._rests: Remembered[Hop, _Rest] = Remembered()
        self.without_tls: Remembered[Hop, bool] = Remembered()  # the handshake failed
        self.max_messages: Remembered[Hop, int] = Remembered()  # on one connection, as its 421 said
        self.max_recipients: Remembered[Hop, int] = Remembered()  # in one transaction, before it said 452
        self.no_mail: Remembered[Hop, Result] = Remembered()  # it said 521: it never takes any
        self.logins: Remembered[Login, Refused] = Remembered()  # with these nobody gets in
        self.alarms = Alarms()
        self.in_doubt: Remembered[int, Target] = Remembered()  # message id: the host that may have taken it

    def resting(self, hop: Hop, now: float) -> Result | None:
        """What a host said that is left alone now, with the time left; None if it may be tried."""
        rest = self._rests.get(hop, now)
        return replace(rest.why, wait_s=rest.until - now) if rest is not None and now < rest.until else None

    def rest(self, hop: Hop, why: Result, now: float, first_s: float) -> None:
        """Leave a host alone: `first_s` seconds, and twice as long as before each time it still is no better."""
        last = self._rests.get(hop, now)
        if last is not None and now < last.until:
            return  # others who talk to it have found the same
        length_s = first_s if last is None else min(2 * last.length_s, _LONGEST_REST * first_s)
        until = now + length_s
        # for as long again it is remembered how long the rest was
        self._rests.put(hop, _Rest(why, length_s, until), until + length_s)

    def refused_login(self, login: Login, now: float) -> Result | None:
        """What a relay said to this login a while ago, so that it is not tried again now; with the time left."""
        found = self.logins.get(login, now)
        if found is None or now >= found.until:
            return None
        return replace(found.result, wait_s=found.until - now)

    def refuse_login(self, login: Login, result: Result, now: float) -> Result:
        """A login failed: do not try it for ten minutes, and twice as long each time it fails again."""
        last = self.logins.get(login, now)
        length_s = _FIRST_LOGIN_S if last is None else min(2 * last.length_s, _LONGEST_LOGIN_S)
        until = now + length_s
        self.logins.put(login, Refused(result, length_s, until), until + _LONGEST_LOGIN_S)
        return replace(result, wait_s=length_s)

    def works(self, hop: Hop) -> None:
        """A host took a message, or refused it for the message's own sake."""
        self._rests.forget(hop)

    def revive(self) -> None:
        """Try all hosts and all logins again."""
        self._rests = Remembered()
        self.no_mail = Remembered()
        self.logins = Remembered()
