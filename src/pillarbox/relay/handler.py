"""Hand messages to a Python function in this process, named by a route `python:module:function`.

Hooks that decide whether mail is accepted are `policy.hooks`' business.
"""

from __future__ import annotations

import asyncio
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from pillarbox import observe
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import Reply
from pillarbox.queue.spool import Content, format_id
from pillarbox.relay.final import content_of, here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from pillarbox.mail.reply import Result
    from pillarbox.queue.spool import Pending, Queued


class Delivery(msgspec.Struct, frozen=True):
    """One message for one recipient, as a handler gets it. `sender` is "" for the null reverse-path.

    Nothing is added in front: `sender` and `recipient` are what Return-Path and Delivered-To would say.
    """

    queue_id: str
    sender: str
    recipient: str
    received_at: float  # Unix time, seconds
    octets: int
    attempts: int  # earlier ones; after one that failed late, a handler may see a message twice
    content: Content

    def read(self) -> bytes:
        """The whole message, CRLF line ends. Reads a file if the message is large: better in a thread."""
        return b"".join(self.content.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The message in pieces, CRLF line ends."""
        return self.content.chunks()


class Handler:
    """One function: `async def handle(message: Delivery) -> Reply | None`, or a plain one, which runs in a thread.

    None means delivered; a reply of 4xx or 5xx puts the message off or refuses it.
    """

    def __init__(self, target: str, threads: Executor, limit_s: float) -> None:
        self._target = target
        self._threads = threads
        self._limit_s = limit_s
        self._function: Callable[[Delivery], Any] | None = None

    async def deliver(self, queued: Queued, pending: Pending) -> Result:
        """Call the function for one recipient."""
        letter = Delivery(
            format_id(queued.id),
            queued.envelope.sender,
            pending.recipient.address,
            queued.received_at,
            content_of(queued).octets,
            pending.attempts,
            content_of(queued),
        )
        try:
            reply = await self._call(letter)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a handler is foreign code; sys.exit included
            incident = observe.report_incident(
                error, message=letter.queue_id, recipient=letter.recipient, handler=self._target
            )
            return here(delivery.HANDLER_FAILED.reply(incident=incident))
        return here(delivery.DELIVERED.reply(detail=f"Taken by {self._target}") if reply is None else reply)

    async def _call(self, letter: Delivery) -> Reply | None:
        """The function's answer. Raises whatever it raises, and TimeoutError.

        A coroutine that takes too long is cancelled; a plain function can't be and goes on in its thread.
        """
        loop = asyncio.get_running_loop()
        if self._function is None:
            self._function = await loop.run_in_executor(self._threads, find_function, self._target)
        if inspect.iscoroutinefunction(self._function):
            running = asyncio.ensure_future(_shielded(self._function, letter))
        else:
            running = asyncio.ensure_future(loop.run_in_executor(self._threads, self._function, letter))
        try:
            done, _ = await asyncio.wait({running}, timeout=self._limit_s)
        finally:
            running.cancel()
        if not done:
            raise TimeoutError(f"{self._target} took more than {self._limit_s:g} s")
        if running.cancelled():
            raise RuntimeError(f"{self._target} cancelled itself")
        reply = running.result()
        if isinstance(reply, BaseException):
            raise reply
        if reply is not None and (not isinstance(reply, Reply) or reply.intermediate):
            raise TypeError(f"{self._target} returned {type(reply).__name__}, not None or a final Reply")
        return reply


async def _shielded(function: Callable[[Delivery], Any], letter: Delivery) -> object:
    """Call a coroutine function; SystemExit is returned, because a task that raises it would stop the loop."""
    try:
        return await function(letter)
    except SystemExit as error:
        return error


def find_function(target: str) -> Callable[[Delivery], Any]:
    """Import what `module:function` names. Raises ImportError, AttributeError, TypeError, or what the module raises."""
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    if not callable(function):
        raise TypeError(f"{target} can't be called")
    return function  # type: ignore[no-any-return]
