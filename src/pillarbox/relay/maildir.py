"""Put messages into Maildir folders, so that each is complete and on stable storage or not there at all.

Which folder belongs to an address is `policy.directory`'s business, how its use is counted that of `policy.maildirsize`.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import delivery, mailbox
from pillarbox.mail.route import MAILDIR_ROOT_END
from pillarbox.policy.maildirsize import add, forget, judge, locked, open_home
from pillarbox.policy.quota import refusal
from pillarbox.queue.spool import format_id
from pillarbox.relay.final import content_of, final_form, here, is_junk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from pillarbox.mail.reply import Reply, Result
    from pillarbox.policy.users import Mailbox, Quota
    from pillarbox.queue.spool import Pending, Queued

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STARTED = time.time()  # mail received before it may have been delivered by a process that then died
_counter = itertools.count()


class Maildir:
    """One folder with `tmp`, `new` and `cur`. The work is done in threads: fsync waits for the disk.

    Nothing is held open between messages, so a folder that was moved away or replaced is noticed at once.
    """

    def __init__(
        self,
        target: str,
        threads: Executor,
        hostname: str,
        mailbox_of: Callable[[str], Mailbox | None] | None = None,
        junk_folder: str = "",
    ) -> None:
        """`target` is that of the route; what stands before its "/./" must exist, what follows is made at need.

        `mailbox_of` tells the limits of the mailbox that an address stands for. Junk goes into a folder of its own.
        """
        self._mailbox_of = mailbox_of
        self._root, _, below = target.partition(MAILDIR_ROOT_END)
        self._below = below.split("/")
        inbox = [name for name in self._below if not name.startswith(".")]  # without a folder of the mailbox
        self._junk = [*inbox, junk_folder] if junk_folder else self._below
        self._threads = threads
        self._host = hostname.replace("/", "\\057").replace(
            ":", "\\072"
        )  # as the inventor of the format writes them

    async def deliver(self, queued: Queued, pending: Pending) -> Result:
        """Store one copy, if the limits of the mailbox allow it."""
        known = self._mailbox_of(pending.recipient.address) if self._mailbox_of is not None else None
        if known is not None and 0 < known.max_message_octets < content_of(queued).octets:
            return here(mailbox.MESSAGE_TOO_BIG.reply(limit=known.max_message_octets))
        quota = known.quota if known is not None else None
        store = asyncio.get_running_loop().run_in_executor(self._threads, self._store, queued, pending, quota)
        return here(await store)

    def _store(self, queued: Queued, pending: Pending, quota: Quota | None) -> Reply:
        """Write the copy, or find that an earlier attempt has.

        The name is made of the queue id and the recipient's number, the same at every attempt. So a second copy
        replaces the first if that is still in `new`; `cur` is searched only if there may have been an attempt before.
        """
        below = self._junk if is_junk(queued) else self._below
        name = f"{int(queued.received_at)}.Q{format_id(queued.id)}R{pending.number}.{self._host}"
        try:
            with ExitStack() as opened:
                home, tmp, new = self._open(opened, below)
                if (pending.attempts or queued.received_at < _STARTED) and _is_in_cur(home, name):
                    return delivery.DELIVERED.reply(detail="Already in the mailbox")
                copy = _Copy(tmp, f"{name}.P{os.getpid()}C{next(_counter)}")
                try:
                    copy.write(queued, pending)
                    full = None
                    if quota is None:
                        copy.move(new, name)
                    else:
                        full = _move_if_it_fits(copy, new, name, quota)
                except BaseException:
                    copy.discard()
                    raise
                if full is not None:
                    copy.discard()
                    return full
        except OSError as error:
            if error.errno in _NO_SPACE:
                return delivery.MAILBOX_DISK_FULL.reply()
            return delivery.MAILBOX_FAILED.reply(detail=error.strerror or type(error).__name__)
        return delivery.DELIVERED.reply(detail="Delivered to the mailbox")

    def _open(self, opened: ExitStack, below: Sequence[str]) -> tuple[int, int, int]:
        """Descriptors of the mailbox and its `tmp` and `new`, made if missing; no link is followed below the root."""
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        for name in below:
            folder = _enter(opened, folder, name)
        try:
            return (
                folder,
                _enter(opened, folder, "tmp", make=False),
                _enter(opened, folder, "new", make=False),
            )
        except FileNotFoundError:  # `cur` too belongs to a mailbox that others can read
            tmp, new, _ = [_enter(opened, folder, name) for name in ("tmp", "new", "cur")]
            return folder, tmp, new


def _enter(opened: ExitStack, folder: int, name: str, *, make: bool = True) -> int:
    """Open a folder inside another one. Raises OSError if it is a symbolic link."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):  # another thread was faster
            os.mkdir(name, 0o700, dir_fd=folder)
        os.fsync(folder)
        inner = os.open(name, _FOLDER, dir_fd=folder)
    opened.callback(os.close, inner)
    return inner


def _is_in_cur(home: int, name: str) -> bool:
    """Whether a reader has moved the copy on, which adds flags behind a colon. Linear in the size of `cur`."""
    try:
        cur = os.open("cur", _FOLDER, dir_fd=home)
    except FileNotFoundError:
        return False
    try:
        with os.scandir(cur) as entries:
            return any(entry.name.partition(":")[0].partition(",S=")[0] == name for entry in entries)
    finally:
        os.close(cur)


class _Copy:
    """A file in `tmp` on its way to `new`."""

    def __init__(self, tmp: int, name: str) -> None:
        self._tmp = tmp
        self._name = name
        self.octets = 0

    def write(self, queued: Queued, pending: Pending) -> None:
        """Write and sync. Raises OSError."""
        file = os.open(self._name, _NEW_FILE, 0o600, dir_fd=self._tmp)
        try:
            for piece in final_form(queued, pending):
                self.octets += len(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)

    def move(self, new: int, name: str) -> None:
        """Move to `new`, and sync that. Raises OSError."""
        os.rename(self._name, name, src_dir_fd=self._tmp, dst_dir_fd=new)
        os.fsync(new)

    def discard(self) -> None:
        """Leave nothing behind in `tmp`."""
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._tmp)


def _move_if_it_fits(copy: _Copy, new: int, name: str, quota: Quota) -> Reply | None:
    """Move a copy into a mailbox with a quota and count it, or say why not. Its name tells its size, as readers expect."""
    name = f"{name},S={copy.octets}"
    with open_home(quota) as home:
        assert home is not None  # the copy lies in it, or in one of its folders
        with locked(home):
            try:
                os.stat(name, dir_fd=new, follow_symlinks=False)
            except FileNotFoundError:
                full = refusal(judge(home, quota, copy.octets, time.time()))
                if full is None:
                    copy.move(new, name)
                    add(home, copy.octets, 1)
                return full
            copy.move(new, name)  # the copy of an attempt that nobody knows to have been counted
            forget(home)
    return None
