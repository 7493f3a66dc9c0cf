"""Notice clients that try which recipients exist: slow them down, then refuse them for a while.

A network of strangers is counted by all workers together, and whoever is refused learns no more about any recipient.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import envelope, policy
from pillarbox.mail.units import Rate, Seconds, Settings
from pillarbox.policy.hooks import Action
from pillarbox.policy.lists import neighbourhood
from pillarbox.policy.patience import Patience
from pillarbox.policy.shared_file import FileFullError

if TYPE_CHECKING:
    import asyncio

    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Reply
    from pillarbox.policy.hooks import Client
    from pillarbox.policy.memory import Memory, Notes


_ACTING = (Action.REJECT, Action.DEFER)  # nobody waits for a check that is on trial or only tags


class HarvestSettings(Settings, frozen=True):
    """Strangers who name recipients that do not exist: `[harvest]`."""

    action: Action = Action.OFF
    """What to do with all mail of a network, a /24 of IPv4 or a /64 of IPv6, that named too many of them (550)."""
    limit: Rate = Rate(30, 3600.0)
    """How many of them are too many."""
    block_s: Seconds = Seconds(3600)
    """For how long such a network is refused."""
    slow_after: int = 5
    """After so many of them each further recipient is answered later: by `delay` at first, then by twice as long, and so on.
    Not while `action` is "tag" or "warn"."""
    delay_s: Seconds = Seconds(1)
    """How much longer each answer takes; 0 for no longer."""
    max_delay_s: Seconds = Seconds(10)
    """The longest that an answer is kept back."""
    max_waiting: int = 1000
    """Sessions that are kept waiting at once, in each worker; further ones are answered at once."""


class Harvest:
    """Counts unknown recipients. A note's mark is when the last of them will be forgotten."""

    def __init__(self, settings: HarvestSettings, memory: Memory) -> None:
        """Count in `memory`."""
        self.action = settings.action
        self._settings = settings
        self._each_s = settings.limit.period_s / settings.limit.count  # how long one is remembered
        self._memory = memory
        self._patience = Patience(settings.max_waiting)

    def note(self, client: Client, refusal: Reply) -> None:
        """Learn that a client was refused; it need not wait until that is written down."""
        if refusal.cause is envelope.RECIPIENT_UNKNOWN and client.stranger:
            with contextlib.suppress(FileFullError):
                self._memory.ask(lambda notes: self._count(notes, client)).add_done_callback(_settle)

    def _count(self, notes: Notes, client: Client) -> None:
        network = neighbourhood(client.address)
        found = notes.get(f"harvest {network}")
        forgotten_at = max(found.mark if found is not None else 0.0, notes.now) + self._each_s
        notes.put(f"harvest {network}", forgotten_at, 0, forgotten_at - notes.now)
        if self._number(forgotten_at, notes.now) > self._settings.limit.count:
            notes.put(f"harvester {network}", notes.now + self._settings.block_s, 0, self._settings.block_s)

    def _number(self, forgotten_at: float, now: float) -> int:
        return math.ceil((forgotten_at - now) / self._each_s - 1e-6)

    async def decide_client(self, client: Client, _sender: Address | None, _to: Address) -> Reply | None:
        """Refuse a network that named too many, and let one wait that is on the way there."""
        if not client.stranger:
            return None
        network = neighbourhood(client.address)
        blocked_s, number = await self._memory.ask(lambda notes: self._look(notes, network))
        if blocked_s:
            return policy.HARVESTER.reply(network=network, seconds=math.ceil(blocked_s))
        over = number - self._settings.slow_after
        if over > 0 and self._settings.delay_s and self.action in _ACTING:
            await self._patience.wait(min(over * self._settings.delay_s, self._settings.max_delay_s))
        return None

    def _look(self, notes: Notes, network: str) -> tuple[float, int]:
        blocked, found = notes.get(f"harvester {network}"), notes.get(f"harvest {network}")
        return (
            blocked.mark - notes.now if blocked is not None else 0.0,
            self._number(found.mark, notes.now) if found is not None else 0,
        )


def _settle(done: asyncio.Future[None]) -> None:
    """A count that is lost is no harm."""
    if not done.cancelled():
        done.exception()
