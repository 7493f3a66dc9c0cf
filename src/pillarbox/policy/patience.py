"""Let sessions wait on purpose, a bounded number of them at once.

Who has to wait, and how long, is the business of the checks that ask for it.
"""

from __future__ import annotations

import asyncio


class Patience:
    """Room for sessions that wait."""

    def __init__(self, most: int) -> None:
        """Let at most so many wait at once."""
        self._most = most
        self.waiting = 0

    async def wait(self, seconds: float) -> bool:
        """Wait, and say whether there was room to."""
        if self.waiting >= self._most:
            return False
        self.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.waiting -= 1
        return True
