"""Turn clients away in the greeting while this machine is short of disk, memory or processor time.

A nearly full disk is also told at MAIL, by `inbound.accept`; here nobody gets so far.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import policy
from pillarbox.mail.units import Octets, Settings
from pillarbox.policy.hooks import Action

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client

_LOOK_S = 1.0  # the machine is looked at no more often than this
_AVAILABLE = re.compile(r"^MemAvailable:\s+([0-9]+) kB", re.MULTILINE)


class EmergencySettings(Settings, frozen=True):
    """When to turn all clients away in the greeting (421): `[emergency]`."""

    min_disk_octets: Octets | None = None
    """Less free space than this on the disk of the queue."""
    min_memory_octets: Octets | None = None
    """Less available memory than this on the machine."""
    max_load: float | None = None
    """A load average of the last minute over this, per processor."""

    action: Action = Action.REJECT
    """What to do then; "warn" only notes whom it would have been done to."""

    @property
    def watches(self) -> bool:
        """Whether anything is looked at."""
        watched = (self.min_disk_octets, self.min_memory_octets, self.max_load)
        return watched != (None, None, None) and self.action is not Action.OFF


class Emergency:
    """Look at the machine, at most once in a second."""

    def __init__(self, settings: EmergencySettings, hostname: str, folder: Path) -> None:
        """Watch the disk on which `folder` lies."""
        self.action = settings.action
        self._settings = settings
        self._hostname = hostname
        self._folder = folder
        self._look_again = 0.0
        self._refusal: Reply | None = None

    async def decide_connect(self, _client: Client) -> Reply | None:
        """Put everybody off while there is an emergency."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _LOOK_S
            self._refusal = self._look()
        return self._refusal

    def _look(self) -> Reply | None:
        settings = self._settings
        if settings.min_disk_octets is not None and free_octets(self._folder) < settings.min_disk_octets:
            return policy.NO_RESOURCES.reply(hostname=self._hostname, what="disk space")
        if settings.min_memory_octets is not None:
            available = available_octets()
            if available is not None and available < settings.min_memory_octets:
                return policy.NO_RESOURCES.reply(hostname=self._hostname, what="memory")
        if settings.max_load is not None and load() > settings.max_load:
            return policy.CONGESTED.reply(hostname=self._hostname)
        return None


def free_octets(folder: Path) -> int:
    """The free space where a folder lies. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def available_octets() -> int | None:
    """The memory that programs can still get; None where the system does not tell."""
    try:
        found = _AVAILABLE.search(Path("/proc/meminfo").read_text("ascii"))
    except OSError:
        return None
    return int(found[1]) << 10 if found is not None else None


def load() -> float:
    """The load average of the last minute, per processor."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)
