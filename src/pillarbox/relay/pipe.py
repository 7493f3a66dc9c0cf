"""Hand messages to programs: an argument list, the message on standard input, the exit status as the answer.

No shell is ever involved; which program serves an address is `policy.directory`'s business.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import delivery
from pillarbox.mail.reply import printable
from pillarbox.mail.units import Seconds, Settings
from pillarbox.queue.spool import format_id
from pillarbox.relay.final import content_of, final_form, here

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping

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
    """An address would be taken for an option of the program."""


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
            return delivery.MAILBOX_UNSAFE.reply(detail=error)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._settings.folder,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            return delivery.PROGRAM_DEFERRED.reply(exit="none", detail=f"not started: {error.strerror}")
        try:
            async with asyncio.timeout(self._settings.limit_s):
                output = await _converse(process, queued, pending)
        except TimeoutError:
            return delivery.PROGRAM_TIMEOUT.reply(seconds=f"{self._settings.limit_s:g}")
        finally:
            await _end(process)
        assert process.returncode is not None  # it has ended
        return judge(process.returncode, output)

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
        raise UnsafeArgumentError("it begins with a hyphen")
    if "\0" in filled:
        raise UnsafeArgumentError("it has a NUL")
    return filled


async def _converse(process: Process, queued: Queued, pending: Pending) -> bytes:
    """Feed the message, collect the beginning of the output, wait for the end."""
    reading = asyncio.ensure_future(_read(process))
    try:
        await _feed(process, queued, pending)
        await process.wait()
        await asyncio.wait({reading}, timeout=_LINGER_S)
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    return reading.result() if not reading.cancelled() else b""


async def _feed(process: Process, queued: Queued, pending: Pending) -> None:
    """Write the message to standard input; a program that does not want all of it may close it."""
    stdin = process.stdin
    assert stdin is not None  # asked for
    pieces = final_form(queued, pending)
    in_memory = content_of(queued).path is None
    with suppress(ConnectionError):
        while True:
            piece = next(pieces, None) if in_memory else await asyncio.to_thread(next, pieces, None)
            if piece is None:
                break
            stdin.write(piece)
            await stdin.drain()
    stdin.close()


async def _read(process: Process) -> bytes:
    stdout = process.stdout
    assert stdout is not None  # asked for
    kept = b""
    while piece := await stdout.read(65536):
        kept += piece[: KEPT_OUTPUT_OCTETS - len(kept)]
    return kept


async def _end(process: Process) -> None:
    """Kill the program and its group, unless it has ended, and close our side."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - else a child keeps our pipes open


def judge(status: int, output: bytes) -> Reply:
    """What an exit status means (sysexits.h); a negative one is the signal that ended the program.

    Only what is surely for good refuses the message: a crash, a mistake in the command, a status without meaning
    are the operator's to mend, and the message waits.
    """
    detail = printable(output.strip() or b"no output", 300)
    if status == 0:
        return delivery.DELIVERED.reply(detail="Taken by the program")
    if status == _NO_USER:
        return delivery.PROGRAM_NO_USER.reply(detail=detail)
    if status == _NO_PERMISSION:
        return delivery.PROGRAM_NOT_ALLOWED.reply(detail=detail)
    if status in _REFUSALS:
        return delivery.PROGRAM_REFUSED.reply(exit=status, detail=detail)
    return delivery.PROGRAM_DEFERRED.reply(exit=f"signal {-status}" if status < 0 else status, detail=detail)
