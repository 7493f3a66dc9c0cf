"""Tell the operator once an hour of the same trouble, however many messages have it.

What is worth an alarm is a column of `queue.decisions`.
"""

from __future__ import annotations

from collections import OrderedDict

_PERIOD_S = 3600.0
_MOST = 1000  # troubles told apart; the oldest is forgotten first


class Alarms:
    """Counts each trouble for an hour from its first time."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def is_due(self, key: str, after: int, now: float) -> bool:
        """Count a trouble once more; whether this is the time to tell: when it happened `after` times in its hour."""
        began, count = self._counts.get(key, (now, 0))
        if now - began >= _PERIOD_S:
            began, count = now, 0
        self._counts[key] = began, count + 1
        self._counts.move_to_end(key)
        if len(self._counts) > _MOST:
            self._counts.popitem(last=False)
        return count + 1 == after
