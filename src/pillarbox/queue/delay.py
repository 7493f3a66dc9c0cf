"""Estimate how long mail waits for its turn, from what was seen of late.

Whose turn it is is `queue.schedule`'s business.
"""

from __future__ import annotations

_HALF_LIFE_S = 60.0  # an old wait counts half as much after so long


class Delay:
    """The waits of messages that had their turn, the latest counting most."""

    __slots__ = ("_at", "_wait_s")

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._wait_s = 0.0
        self._at = 0.0

    def note(self, wait_s: float, now: float) -> None:
        """A message had its turn so long after it was due."""
        # Nearly always there is no wait, and none is remembered.
        if wait_s >= self._wait_s or now - self._at >= 1.0:
            self._wait_s = max(wait_s, self._faded(now))
            self._at = now

    def estimate(self, now: float, waiting_since: float) -> float:
        """How long a message would wait now, when another one has been waiting since then."""
        return max(self._faded(now), now - waiting_since, 0.0)

    def _faded(self, now: float) -> float:
        return float(self._wait_s * 0.5 ** (max(now - self._at, 0.0) / _HALF_LIFE_S))
