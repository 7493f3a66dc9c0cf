"""Hand messages to programs: an argument list, the message on standard input, the exit status as the answer.

No shell is ever involved; which program serves an address is `policy.directory`'s business.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import msgspec

from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import legible
from pillarbox.mail.units import Seconds, Settings
from pillarbox.queue.spool import format_id
from pillarbox.relay.final import final_form, here

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Iterator, Mapping

    from pillarbox.mail.reply import Reply, Result
    from pillarbox.queue.spool import Pending, Queued

KEPT_OUTPUT_OCTETS = 4096  # the rest of what a program prints is read and dropped
_LINGER_S = 1.0  # for output that a child of the program still holds open after its end
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PLACEHOLDERS = frozenset({"sender", "recipient", "user", "tag", "domain", "queue_id"})
_REFUSALS = frozenset(
    {65, 66, 68, 76}
)  # sysexits.h: data, input, host name, protocol; nothing that time would heal
_NO_USER, _NO_PERMISSION = 67, 77


class ProgramSettings(Settings, frozen=True):
    """One program that takes mail: `[program.NAME]`."""

    command: list[str]
    """The program's absolute path and its arguments; {sender}, {recipient}, {user}, {tag}, {domain} and {queue_id}
    are filled in and never split."""
    limit_s: Seconds = Seconds(300)
    """How long it may run before it and its children are killed and the message is tried again later."""
    folder: str = "/"
    """The folder that it runs in."""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables to set besides PATH and LANG; nothing else is passed on."""

    def __post_init__(self) -> None:
        """Refuse a command that could not be run safely."""
        if not self.command or not self.command[0].startswith("/") or "{" in self.command[0]:
            raise ValueError("command must begin with the absolute path of a program")
        for argument in self.command:
            unknown = [name for name in _PLACEHOLDER.findall(argument) if name not in _PLACEHOLDERS]
            if unknown:
                names = ", ".join(f"{{{name}}}" for name in sorted(_PLACEHOLDERS))
                raise ValueError(f'command: no placeholder is called "{unknown[0]}"; there are {names}')
            if "\0" in argument:
                raise ValueError("command: an argument has a NUL")


class UnsafeArgumentError(ValueError):
    """What is filled in would be taken for an option of the program, or can't be an argument at all."""


class Pipe:
    """One program. It runs once for each recipient."""

    def __init__(self, settings: ProgramSettings, delimiters: str) -> None:
        """`delimiters` separate user and tag, as in the directory."""
        self._settings = settings
        self._delimiters = delimiters
        self._environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **settings.environment,
        }

    async def deliver(self, queued: Queued, pending: Pending) -> Result:
        """Run the program for one recipient."""
        return here(await self._run(queued, pending))

    async def _run(self, queued: Queued, pending: Pending) -> Reply:
        try:
            command = fill_command(self._settings.command, self._values(queued, pending))
        except UnsafeArgumentError as error:
            return delivery.PROGRAM_UNSAFE.reply(detail=error)
        try:
            with _Output() as output:
                status = await self._execute(command, final_form(queued, pending), output)
        except TimeoutError:
            return delivery.PROGRAM_TIMEOUT.reply(seconds=f"{self._settings.limit_s:g}")
        except OSError as error:
            return delivery.PROGRAM_DEFERRED.reply(ended="it could not be started", detail=error.strerror)
        return judge(status, output.kept)

    async def _execute(self, command: list[str], message: Iterator[bytes], output: _Output) -> int:
        """Run to the end; the exit status. Raises OSError if it can't be run, TimeoutError after killing it."""
        process = await self._start(command, output)
        output.close_inlet()
        try:
            async with asyncio.timeout(self._settings.limit_s):
                await _feed(process, message)
                status = await process.wait()
        finally:
            await _end(process)
        with suppress(TimeoutError):
            await asyncio.wait_for(output.ended.wait(), _LINGER_S)
        return status

    async def _start(self, command: list[str], output: _Output) -> Process:
        """Start it. The program runs before its start is reported: who is cancelled in between still ends it."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output.inlet,
                stderr=output.inlet,
                cwd=self._settings.folder,
                env=self._environment,
                start_new_session=True,
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(OSError):  # it could not be run
                await _end(await starting)
            raise

    def _values(self, queued: Queued, pending: Pending) -> dict[str, str]:
        try:
            address = parse_address(pending.recipient.address)
            local, domain = address.local, address.dns_domain
        except AddressError:  # stored by an operator's verb or another version
            local, _, domain = pending.recipient.address.rpartition("@")
        places = [at for at in (local.find(delimiter, 1) for delimiter in self._delimiters) if at > 0]
        end = min(places, default=len(local))
        return {
            "sender": queued.envelope.sender,
            "recipient": pending.recipient.address,
            "user": local[:end],
            "tag": local[end + 1 :],
            "domain": domain,
            "queue_id": format_id(queued.id),
        }


def fill_command(command: list[str], values: Mapping[str, str]) -> list[str]:
    """Fill in the placeholders; each argument stays one argument. Raises UnsafeArgumentError."""
    return [_fill(argument, values) for argument in command]


def _fill(argument: str, values: Mapping[str, str]) -> str:
    filled = _PLACEHOLDER.sub(lambda found: values[found[1]], argument)
    if filled.startswith("-") and not argument.startswith("-"):
        raise UnsafeArgumentError(f"argument {argument} would begin with a hyphen, as an option does")
    if "\0" in filled:
        raise UnsafeArgumentError(f"argument {argument} would have a NUL")
    return filled


async def _feed(process: Process, message: Iterator[bytes]) -> None:
    """Write the message to standard input; a program that does not want all of it may close it.

    Pieces may come from a file, so they are fetched in a thread.
    """
    stdin = process.stdin
    assert stdin is not None  # asked for
    with suppress(ConnectionError):
        while (piece := await asyncio.to_thread(next, message, None)) is not None:
            if stdin.is_closing():
                break
            stdin.write(piece)
            await stdin.drain()
    stdin.close()


async def _end(process: Process) -> None:
    """Kill the program and its group, unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdin is not None  # asked for
        process.stdin.close()
        await process.wait()


class _Output:
    """The beginning of what a program prints. Whoever still holds the other end after it has ended is ignored."""

    def __init__(self) -> None:
        self.kept = b""
        self.ended = asyncio.Event()
        self._outlet, self.inlet = os.pipe()
        os.set_blocking(self._outlet, False)
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._loop.add_reader(self._outlet, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._outlet)
        os.close(self._outlet)
        self.close_inlet()

    def close_inlet(self) -> None:
        """Leave the writing end to the program alone, so that its end is noticed."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    def _read(self) -> None:
        with suppress(BlockingIOError):
            piece = os.read(self._outlet, 65536)
            self.kept += piece[: KEPT_OUTPUT_OCTETS - len(self.kept)]
            if not piece:
                self._loop.remove_reader(self._outlet)
                self.ended.set()


def judge(status: int, output: bytes) -> Reply:
    """What an exit status means (sysexits.h); a negative one is the signal that ended the program.

    Only what is surely for good refuses the message: a crash, a mistake in the command, a status without meaning
    are the operator's to mend, and the message waits.
    """
    detail = legible(output.strip() or b"no output", 300)
    if status == 0:
        return delivery.DELIVERED.reply(detail="Taken by the program")
    if status == _NO_USER:
        return delivery.PROGRAM_NO_USER.noted(detail=detail)
    if status == _NO_PERMISSION:
        return delivery.PROGRAM_NOT_ALLOWED.noted(detail=detail)
    if status in _REFUSALS:
        return delivery.PROGRAM_REFUSED.noted(exit=status, detail=detail)
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return delivery.PROGRAM_DEFERRED.noted(ended=ended, detail=detail)
