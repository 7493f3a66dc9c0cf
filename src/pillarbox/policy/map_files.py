"""Read the mailboxes and aliases of a domain that stand in files of their own, and notice when these change or break.

A file that can't be used is never taken for an empty one: names are neither known nor unknown until it can be read again.
"""

from __future__ import annotations

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox import observe
from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.catalogue import mailbox

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Cause, Reply
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client


class DirectoryTroubleError(Exception):
    """Whether a name exists cannot be told now; `cause` says why."""

    def __init__(self, cause: Cause) -> None:
        """Take the cause of the reply that is due."""
        super().__init__(cause.text)
        self.cause = cause

    @property
    def reply(self) -> Reply:
        """What the client hears."""
        return self.cause.reply()


class MapFile:
    """One file: a name a line, or with `aliases` a name, a colon, and what it stands for, separated by commas.

    Empty lines and those that begin with # are passed over.
    """

    def __init__(self, path: str, domain: str, *, aliases: bool) -> None:
        """Nothing is read yet."""
        self._path = Path(path)
        self._domain = domain
        self._aliases = aliases
        self._stamp: tuple[int, ...] = ()
        self._names: dict[str, tuple[str, ...]] = {}
        self._trouble: Cause | None = None

    @property
    def mailboxes(self) -> tuple[str, ...]:
        """The names of the mailboxes in it, as it was read last; there are none in a file of aliases."""
        return () if self._aliases else tuple(self._names)

    def find(self, name: str) -> tuple[str, ...] | None:
        """What a name stands for, () for a mailbox, None if it is not there. Raises DirectoryTroubleError."""
        if self._trouble is not None:
            raise DirectoryTroubleError(self._trouble)
        return self._names.get(name)

    def refresh(self) -> None:
        """Read the file again if it is not the same as before. It waits for the disk."""
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            self._names = self._parse(self._path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            self._stamp = ()
            if self._trouble is None:
                observe.DIRECTORY_TROUBLE.note(file=str(self._path), problem=str(error))
            self._trouble = mailbox.MAP_BROKEN if self._aliases else mailbox.DIRECTORY_DOWN
            return
        self._stamp, self._trouble = stamp, None

    def check(self) -> None:
        """Read the file once, and keep nothing. Raises OSError or ValueError."""
        self._parse(self._path.read_text("utf-8"))

    def _parse(self, text: str) -> dict[str, tuple[str, ...]]:
        """Raises ValueError that names the line."""
        names: dict[str, tuple[str, ...]] = {}
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()  # noqa: PLW2901 - the line without the blanks around it
            if not line or line.startswith("#"):
                continue
            try:
                name, values = self._entry(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            names[name] = values
        return names

    def _entry(self, line: str) -> tuple[str, tuple[str, ...]]:
        name, colon, rest = line.partition(":") if self._aliases else (line, "", "")
        values = tuple(value.strip() for value in rest.split(",")) if colon else ()
        if self._aliases and not all(values or ("",)):
            raise ValueError("write a name, a colon, and what it stands for")
        for one in (name.strip(), *values):
            try:
                parse_address(one if "@" in one and one != name.strip() else f"{one}@{self._domain}")
            except AddressError as error:
                raise ValueError(f'"{one}": {error}') from error
        return unicodedata.normalize("NFC", name.strip().casefold()), values


class FreshFiles:
    """A check for the hooks that refuses nobody: it has the files of a domain read again before names are looked up."""

    def __init__(self, directory: Directory) -> None:
        """The files are those of `directory`."""
        self._directory = directory
        self._threads = ThreadPoolExecutor(1, "map-files")  # one, so that a change is read once

    async def decide_client(self, _client: Client, _sender: Address | None, recipient: Address) -> None:
        """Have no opinion."""
        files = self._directory.files_of(recipient)
        if files:
            await asyncio.get_running_loop().run_in_executor(self._threads, _refresh, files)


def _refresh(files: tuple[MapFile, ...]) -> None:
    for file in files:
        file.refresh()
