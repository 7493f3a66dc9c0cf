"""Let connections that ask for much go on one after the other, so that all others are served in between.

How much is much is for the connection to say.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Those that wait for their turn, in the order in which they came. One goes on in each turn of the loop.

    However many there are, whoever asks for little waits for one of them at most.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wait(self) -> asyncio.Future[None]:
        """Stand in line; the future is done when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        return turn

    def _next(self) -> None:
        turn = self._waiting.popleft()
        if not turn.done():
            turn.set_result(None)
        if self._waiting:  # the loop looks for what else has come before it comes back here
            asyncio.get_running_loop().call_soon(self._next)
