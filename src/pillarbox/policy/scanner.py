"""Refuse messages in which a scanner finds a virus, and count how much another one takes them for spam.

How one talks to scanners is `net.scanners`' business; what a sum of scores leads to is in `policy.spam`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from pillarbox import observe
from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.hooks import Action, Incoming, Score

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply

FindVirus: TypeAlias = Callable[[Incoming], Awaitable[str]]  # its name, "" for none; raises ScannerError
GiveScore: TypeAlias = Callable[[Incoming], Awaitable[Score]]  # raises ScannerError


class ScannerSettings(Settings, frozen=True):
    """Programs that look into messages: `[scanner]`."""

    clamd: str = ""
    """Where ClamAV's daemon listens: "host:port" or "unix:/path"; "" asks none."""
    rspamd: str = ""
    """The address of Rspamd's worker, such as "http://127.0.0.1:11333"; "" asks none. Its score is added to those of hooks."""
    limit_s: Seconds = Seconds(20)
    """How long one message may be scanned."""
    fail: Literal["closed", "open"] = "closed"
    """What to do when a scanner is down: put the mail off (451), or go on without it."""
    virus_action: Action = Action.REJECT
    """What to do with a message in which a virus was found (554)."""


class ScannerError(Exception):
    """A scanner gives no verdict; the text says why."""


class VirusScanner:
    """Have each message scanned for viruses, whoever sends it."""

    def __init__(self, settings: ScannerSettings, find: FindVirus) -> None:
        """Ask by `find`."""
        self.action = settings.virus_action
        self._fails_closed = settings.fail == "closed"
        self._find = find

    async def decide_message(self, message: Incoming) -> Reply | None:
        """Refuse a message with a virus."""
        try:
            name = await self._find(message)
        except ScannerError as error:
            return trouble(error, message, closed=self._fails_closed)
        return policy.VIRUS_FOUND.reply(name=name) if name else None


class SpamScanner:
    """Have the messages of strangers looked at for spam."""

    def __init__(self, settings: ScannerSettings, score: GiveScore) -> None:
        """Ask by `score`."""
        self._fails_closed = settings.fail == "closed"
        self._score = score

    async def decide_message(self, message: Incoming) -> Reply | Score | None:
        """Say how much a message looks like spam."""
        if not message.client.stranger:
            return None
        try:
            return await self._score(message)
        except ScannerError as error:
            return trouble(error, message, closed=self._fails_closed)


def trouble(error: ScannerError, message: Incoming, *, closed: bool) -> Reply | None:
    """What to do without a verdict."""
    observe.SCANNER_FAILED.note(session=message.client.session, problem=str(error))
    return policy.SCANNER_DOWN.reply() if closed else None
