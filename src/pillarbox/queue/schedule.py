"""Decide when the next attempt is due, and whose turn it is.

What an attempt brought is `queue.outcome`'s business.
"""

from __future__ import annotations

from pillarbox.mail.units import Seconds, Settings


class RetrySettings(Settings, frozen=True):
    """How long to wait between the attempts for one recipient, and when to give up (RFC 5321 4.5.4.1)."""

    first_s: Seconds = Seconds(300)  # after the first failure
    factor: float = 2.0  # each later wait is so many times the one before
    max_s: Seconds = Seconds(14400)  # but no longer than this
    greylist_s: Seconds = Seconds(360)  # after the first failure, where greylisting is seen (RFC 6647)
    give_up_s: Seconds = Seconds(432000)  # after the message was received
    delay_notice_s: Seconds = Seconds(14400)  # the sender is told once that it takes longer


def retry_delay_s(attempts: int, retry: RetrySettings) -> float:
    """The wait before the next attempt, when `attempts` were made and failed."""
    exponent = min(max(attempts - 1, 0), 64)
    return float(min(retry.max_s, retry.first_s * retry.factor**exponent))
