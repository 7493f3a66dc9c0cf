"""Bodies on their way into the store: small ones in memory, large ones in a file of their own.

Rows are `queue.sqlite`'s business. The loop thread only writes into the page cache here; syncing is done by `keep`,
which runs in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING, NamedTuple

from pillarbox.mail.catalogue import content
from pillarbox.queue.schema import BODIES
from pillarbox.queue.spool import SLOTS, SpoolError, format_id, parse_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INLINE_OCTETS = 65_536  # larger bodies get a file
_MAX_PIECES = 64  # of a body in memory: what comes octet by octet must not cost an object for each


class Trouble(NamedTuple):
    """What went wrong in a write, in plain values: it may have been another process's."""

    problem: str
    incident: str = ""  # its id; without one, there is no space left
    unwritten: bool = False  # for certain: a sync that fails leaves it open

    def error(self) -> SpoolError:
        """The same as an error, with what the peer may be told."""
        if not self.incident:
            return SpoolError(content.DISK_FULL.reply(), self.problem)
        return SpoolError(content.WRITE_FAILED.reply(incident=self.incident), self.problem)


def describe(error: BaseException) -> Trouble:
    """What a failed write is called: a full disk, or an incident."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or type(error).__name__ == "FullError":
        return Trouble(str(error))
    incident = secrets.token_hex(4)
    return Trouble(f"incident {incident}: {error!r}", incident)


def trouble(error: BaseException) -> SpoolError:
    """A failed write as the contract has it."""
    return describe(error).error()


class FileDraft:
    """A body on its way in (the contract's `Draft`): kept in memory up to `INLINE_OCTETS`, then in a file."""

    __slots__ = ("_fd", "_folder", "_name", "_pieces", "file", "octets")

    def __init__(self, folder: Path, name: str) -> None:
        """Begin an empty body that may grow into the file `name` in `folder`, which does not exist yet."""
        self.octets = 0
        self.file: Path | None = None  # where the body lies, unless it is in memory
        self._pieces: list[bytes] = []
        self._folder = folder
        self._name = name  # joined only when there is a file: most bodies never need one
        self._fd = -1

    @property
    def _path(self) -> Path:
        return self._folder / self._name

    def write(self, piece: bytes) -> None:
        """Append. Raises SpoolError when the disk is full or broken; the draft is then void."""
        self.octets += len(piece)
        if self._fd < 0 and self.octets <= INLINE_OCTETS:
            self._pieces.append(bytes(piece))
            if len(self._pieces) > _MAX_PIECES:
                self._pieces = [b"".join(self._pieces)]
            return
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self.file = self._path
                self._pieces.append(bytes(piece))
                piece = b"".join(self._pieces)
                self._pieces.clear()
            _write_all(self._fd, piece)
        except OSError as error:
            self.discard()
            raise trouble(error) from error

    def overwrite(self, at: int, octets: bytes) -> None:
        """Put other octets in place of as many that were written. Raises SpoolError; the draft is then void."""
        if self._fd < 0:
            body = bytearray(self.inline())
            body[at : at + len(octets)] = octets
            self._pieces = [bytes(body)]
            return
        try:
            os.pwrite(self._fd, octets, at)
        except OSError as error:
            self.discard()
            raise trouble(error) from error

    def inline(self) -> bytes:
        """The whole body of a draft that has no file."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def keep(self, target: Path) -> None:
        """Sync the file and move it to `target`, durably. Raises SpoolError; the file is then gone."""
        try:
            os.fsync(self._fd)
            self._path.rename(target)
            sync_folder(target.parent)
            self._close()
        except OSError as error:
            self.discard()
            _remove([target])
            raise trouble(error) from error

    def discard(self) -> None:
        """Give the body up and free what it holds."""
        self._pieces.clear()
        if self._fd >= 0:
            self._close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self._fd, self.file = self._fd, -1, None
        with contextlib.suppress(OSError):  # what counts was synced before
            os.close(fd)


def _write_all(fd: int, piece: bytes) -> None:
    done = os.write(fd, piece)
    if done < len(piece):
        view = memoryview(piece)
        while done < len(piece):
            done += os.write(fd, view[done:])


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Bodies:
    """The folders of a store that hold files: `drafts` for what comes in, `bodies/<slot>` for what is kept."""

    def __init__(self, root: Path) -> None:
        """Name the folders below `root`, and make them where they are missing. Raises OSError."""
        self._drafts = root / "drafts"
        self._bodies = root / BODIES
        self._drafts.mkdir(mode=0o700, parents=True, exist_ok=True)
        missing = [folder for folder in map(self.folder, range(SLOTS)) if not folder.exists()]
        for folder in missing:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if missing:
            sync_folder(self._bodies)
            sync_folder(root)

    def folder(self, slot: int) -> Path:
        """Where the bodies of one slot lie."""
        return self._bodies / f"{slot:02}"

    def path(self, message: int) -> Path:
        """Where the body of a message lies if it is not inline."""
        return self.folder(message & SLOTS - 1) / format_id(message)

    def draft(self, name: str) -> FileDraft:
        """Begin a draft; `name` is unique among all workers, and begins with the worker's own name and a hyphen."""
        return FileDraft(self._drafts, name)

    def sweep_drafts(self, living: frozenset[str]) -> int:
        """Remove the drafts of workers that are not among the `living`; the count of them."""
        return _remove(file for file in self._drafts.iterdir() if file.name.partition("-")[0] not in living)

    def strays(self, slot: int, before: int) -> list[int]:
        """The message ids below `before` of the body files in a slot."""
        found = []
        for file in self.folder(slot).iterdir():
            with contextlib.suppress(ValueError):  # not ours: leave it alone
                found.append(parse_id(file.name))
        return [message for message in found if message < before]

    def remove(self, messages: Iterable[int]) -> int:
        """Remove the body files of these messages, as far as they exist; the count of them."""
        return _remove(map(self.path, messages))


def _remove(files: Iterable[Path]) -> int:
    count = 0
    for file in files:
        with contextlib.suppress(OSError):  # what stays is swept the next time
            file.unlink()
            count += 1
    return count
