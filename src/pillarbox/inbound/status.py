"""Tell operators how the server is doing, in answer to HELP STATUS: uptime, sessions, queue, load, room, encryption.

The same in more detail, with history, is what the metrics of the console are for.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import session
from pillarbox.mail.units import Settings, approximate_size, format_duration
from pillarbox.policy.emergency import available_octets, free_octets, load
from pillarbox.policy.lists import Networks
from pillarbox.queue.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sized
    from pathlib import Path

    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client

_COUNTING_S = 10.0
_started = time.monotonic()


class HelpSettings(Settings, frozen=True):
    """The HELP command: `[help]`."""

    enabled: bool = True
    """Answer HELP with 214, or with 502."""
    status_acl: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Clients in these networks may ask for HELP STATUS."""
    admins: tuple[str, ...] = ()
    """Accounts that may ask for HELP STATUS from anywhere."""


class StatusBoard:
    """Answers HELP STATUS for those who may ask."""

    def __init__(self, settings: HelpSettings, connections: Sized, folder: Path) -> None:
        """Count `connections`, and the queue in `folder`. Raises ValueError if a network is not well formed."""
        self._networks = Networks(settings.status_acl)
        self._admins = frozenset(name.lower() for name in settings.admins)
        self._connections = connections
        self._folder = folder

    def permits(self, client: Client) -> bool:
        """Whether a client may ask."""
        return client.login.lower() in self._admins or self._networks.holds(client.address)

    async def answer(self, client: Client, cipher: str) -> Reply:
        """The status for a session that is encrypted by `cipher`, or not if it is ""."""
        if not self.permits(client):
            return session.STATUS_DENIED.reply()
        async with asyncio.timeout(_COUNTING_S):
            counts = await asyncio.to_thread(self._count)
        queue = ", ".join(f"{count} {state}" for state, count in counts.items())
        available = available_octets()
        memory = "unknown" if available is None else approximate_size(available)
        return session.STATUS.because(
            f"Up {format_duration(time.monotonic() - _started)}",
            f"Sessions of this worker: {len(self._connections)}",
            f"Recipients in the queue: {queue}",
            f"Load: {load():.2f} per processor",
            f"Free: disk {approximate_size(free_octets(self._folder))}, memory {memory}",
            f"This session: {cipher or 'TLS' if client.tls else 'not encrypted'}",
        )

    def _count(self) -> dict[str, int]:
        with Ledger(self._folder) as ledger:
            return ledger.count()
