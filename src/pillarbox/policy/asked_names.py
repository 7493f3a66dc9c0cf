"""Remember for a short while what directories on other hosts said about addresses, so that deciding never waits.

They are asked before a decision is made: looking a name up finds the answer here, or says what has to be asked first. How a
directory is asked is told by whoever makes this.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pillarbox import observe
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import mailbox
from pillarbox.policy.account import SourceDown
from pillarbox.policy.map_files import DirectoryTroubleError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Cause
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client

    Ask: TypeAlias = Callable[[str], Awaitable[tuple[str, ...] | None]]

_GOOD_S = 60.0
_UNKNOWN_S = 15.0  # a mailbox that was just made gets mail soon
_DOWN_S = 2.0  # a directory that does not answer is left alone for so long
_MAX_KNOWN = 10_000
_MAX_AT_ONCE = 16  # questions about one recipient, such as a list


class Need(Enum):
    """How good an answer has to be."""

    FRESH = auto()  # so fresh that it may be believed for some time
    KNOWN = auto()  # one that was fresh when a decision began
    GUESS = auto()  # whatever is known; a name that nobody was asked about is taken for a mailbox


class NotAskedError(DirectoryTroubleError):
    """A name has to be asked about first."""

    def __init__(self, *questions: tuple[AskedNames, str]) -> None:
        """Take who has to be asked, and about which address."""
        super().__init__(mailbox.DIRECTORY_DOWN)
        self.questions = questions

    async def ask(self) -> None:
        """Have all of it asked."""
        turns = asyncio.Semaphore(_MAX_AT_ONCE)

        async def ask(names: AskedNames, address: str) -> None:
            async with turns:
                await names.ask(address)

        await asyncio.gather(*(ask(*question) for question in self.questions))


class _Answer(NamedTuple):
    values: tuple[str, ...] | None  # of an alias; () for a mailbox, None for an unknown name
    until: float
    trouble: Cause | None = None


class AskedNames:
    """What one directory said. The least recently used is forgotten when there is too much of it."""

    def __init__(self, title: str, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        """`ask` gives what an address stands for, as in `find`; it may raise SourceDown or ValueError."""
        self._title = title
        self._ask = ask
        self._clock = clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Future[None]] = {}
        self._down_until = 0.0

    def find(self, address: str, need: Need) -> tuple[str, ...] | None:
        """What an address stands for: () for a mailbox, None if it is unknown. Raises DirectoryTroubleError."""
        answer = self._answers.get(address)
        if need is Need.GUESS:
            return None if answer is None else answer.values
        if answer is None or (need is Need.FRESH and answer.until < self._clock()):
            raise NotAskedError((self, address))
        if answer.trouble is not None:
            raise DirectoryTroubleError(answer.trouble)
        return answer.values

    async def ask(self, address: str) -> None:
        """Ask, and remember the answer; several who want to know the same ask once."""
        asked = self._asking.get(address)
        if asked is not None:
            await asyncio.shield(asked)
            return
        asked = self._asking[address] = asyncio.get_running_loop().create_future()
        try:
            self._remember(address, await self._answer(address))
        finally:
            del self._asking[address]
            asked.set_result(None)

    async def _answer(self, address: str) -> _Answer:
        now = self._clock()
        if now < self._down_until:
            return _Answer(None, now, mailbox.DIRECTORY_DOWN)
        try:
            values = await self._ask(address)
            for value in values or ():
                parse_address(value if "@" in value else f"{value}@{address.rpartition('@')[2]}")
        except SourceDown as error:
            observe.DIRECTORY_TROUBLE.note(file=self._title, problem=str(error))
            self._down_until = self._clock() + _DOWN_S
            return _Answer(None, self._down_until, mailbox.DIRECTORY_DOWN)
        except (AddressError, ValueError) as error:
            observe.DIRECTORY_TROUBLE.note(file=self._title, problem=f"{address}: {error}")
            return _Answer(None, now + _DOWN_S, mailbox.MAP_BROKEN)
        return _Answer(values, now + (_UNKNOWN_S if values is None else _GOOD_S))

    def _remember(self, address: str, answer: _Answer) -> None:
        self._answers[address] = answer
        self._answers.move_to_end(address)
        if len(self._answers) > _MAX_KNOWN:
            self._answers.popitem(last=False)


class AskFirst:
    """A check for the hooks that refuses nobody: it has directories on other hosts asked before names are looked up."""

    def __init__(self, directory: Directory) -> None:
        """Which are asked is known to `directory`."""
        self._directory = directory

    async def decide_client(self, _client: Client, _sender: Address | None, recipient: Address) -> None:
        """Have no opinion."""
        await self._directory.ask(recipient)
