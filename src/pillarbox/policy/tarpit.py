"""Answer strangers who make mistakes more slowly with each one: it costs them time, and this server next to nothing.

What a mistake is, is known to the session; when there are too many of them it ends (`limits.errors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pillarbox import observe
from pillarbox.mail.units import Seconds, Settings
from pillarbox.policy.patience import Patience

if TYPE_CHECKING:
    from pillarbox.policy.hooks import Client

_WARNING = "answers to many mistakes, which [tarpit] would have kept back"


class TarpitSettings(Settings, frozen=True):
    """Slower answers for strangers who are refused again and again: `[tarpit]`."""

    delay_s: Seconds = Seconds(0)
    """How much longer the answer to each further mistake takes than that to the one before; 0 for no tarpit."""
    action: Literal["delay", "warn"] = "delay"
    """Whether the answers are kept back, or only noted that they would be."""
    free: int = 3
    """Mistakes of one session that have no consequences: refused recipients, senders and commands alike."""
    max_delay_s: Seconds = Seconds(20)
    """The longest that an answer is kept back, or those to one group of commands together."""
    max_waiting: int = 1000
    """Sessions that are kept waiting at once, in each worker; further ones are answered at once."""


class Tarpit:
    """How long answers are kept back."""

    def __init__(self, settings: TarpitSettings) -> None:
        """Keep back as much as the settings say."""
        self._settings = settings
        self._patience = Patience(settings.max_waiting)

    def delay_s(self, client: Client, before: int, mistakes: int, warned: list[str]) -> float:
        """How long to keep the answers back that brought a session from `before` to so many mistakes.

        On trial it is noted and added to `warned`, and nobody waits.
        """
        delay_s = self.length_s(before, mistakes) if client.stranger else 0.0
        if not delay_s or self._settings.action == "delay":
            return delay_s
        observe.TARPIT_WARNED.note(session=client.session, client=client.address, seconds=round(delay_s, 1))
        if _WARNING not in warned:
            warned.append(_WARNING)
        return 0.0

    def length_s(self, before: int, mistakes: int) -> float:
        """How long the answers take by the settings alone."""
        settings = self._settings
        first, last = max(before - settings.free, 0), mistakes - settings.free
        if last <= first:
            return 0.0
        steps = (
            last * (last + 1) - first * (first + 1)
        ) / 2  # each mistake adds one step more than the one before
        return min(steps * settings.delay_s, settings.max_delay_s)

    async def hold(self, seconds: float) -> None:
        """Wait, if there is room to."""
        await self._patience.wait(seconds)
