"""Keep account of how much a Maildir holds, in its file `maildirsize`, as Maildir++ describes it.

The file is shared with other programs that deliver and delete, such as Dovecot. Its first line is the limit; each further
one adds octets and messages, or takes them away. All of this waits for the disk, so it is called in threads. What follows
from a full mailbox is `policy.quota`'s business.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import time
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.route import MAILDIR_ROOT_END

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.policy.users import Quota

FILE = "maildirsize"
_MARK = "pillarbox-over-quota"  # its time is that of the first message that went over the limit
_MAX_OCTETS = 5120  # a longer file is summed up anew, as Maildir++ wants it
_STALE_S = 15 * 60
_LOCK_S = 10.0
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = re.compile(rb" *(-?[0-9]{1,18}) +(-?[0-9]{1,18}) *")
_SIZE_IN_NAME = re.compile(r",S=([0-9]{1,18})(?:[,:]|$)")
_counter = itertools.count()


class Room(Enum):
    """Whether a message fits into a mailbox."""

    ENOUGH = "enough"
    FULL_FOR_NOW = "full for now"  # its owner has time left to make room
    FULL = "full"


class Usage(msgspec.Struct, frozen=True):
    """What a mailbox holds."""

    octets: int = 0
    messages: int = 0
    entries: int = 0  # of the file, below the limit; more than one: others may have been at work
    read_at: float = 0.0  # when it was summed up or last added to


@contextmanager
def open_home(quota: Quota) -> Iterator[int | None]:
    """The descriptor of a mailbox, or None if it does not exist yet. No link is followed below the operator's folder."""
    root, _, below = quota.home.partition(MAILDIR_ROOT_END)
    with ExitStack() as opened:
        try:
            folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, folder)
            for name in below.split("/"):
                folder = os.open(name, _FOLDER, dir_fd=folder)
                opened.callback(os.close, folder)
        except FileNotFoundError:
            yield None
            return
        yield folder


@contextmanager
def locked(home: int) -> Iterator[None]:
    """Keep our other threads and workers from counting meanwhile. Raises OSError if it takes too long."""
    until = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(home, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.005)
    try:
        yield
    finally:
        fcntl.flock(home, fcntl.LOCK_UN)


def measure(home: int, quota: Quota) -> Usage:
    """What the mailbox holds: by its file if that can be believed, else counted. Raises OSError."""
    usage = _read(home, limit_of(quota))
    return recount(home, quota) if usage is None else usage


def judge(home: int, quota: Quota, octets: int, now: float) -> Room:
    """Whether a message of that size fits, within the limit or the time of grace. Raises OSError."""
    usage = measure(home, quota)
    if not _fits(usage, quota, octets) and (usage.entries > 1 or now - usage.read_at > _STALE_S):
        usage = recount(home, quota)
    if _fits(usage, quota, octets):
        with suppress(FileNotFoundError):
            os.unlink(_MARK, dir_fd=home)
        return Room.ENOUGH
    in_time = now - _over_since(home, now) <= quota.grace_s
    if in_time and _fits(usage, quota, octets, quota.slack):
        return Room.ENOUGH
    return Room.FULL_FOR_NOW if in_time and quota.overflow == "temp" else Room.FULL


def add(home: int, octets: int, messages: int) -> None:
    """Note a delivery, in one write, so that lines of others are not torn. Raises OSError."""
    with suppress(FileNotFoundError):  # somebody wants it counted anew
        file = os.open(FILE, _APPEND, dir_fd=home)
        try:
            os.write(file, b"%d %d\n" % (octets, messages))
        finally:
            os.close(file)


def forget(home: int) -> None:
    """Have the mailbox counted anew by whoever needs to know next. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(FILE, dir_fd=home)


def recount(home: int, quota: Quota) -> Usage:
    """Count all messages and write the file anew, unless somebody delivered or deleted meanwhile. Raises OSError."""
    usage, quiet = Usage(), False
    for _ in range(3):
        before = _times(home)
        usage = _count(home)
        quiet = before == _times(home)
        if quiet:
            break
    if quiet:
        _write(home, b"%s\n%d %d\n" % (limit_of(quota), usage.octets, usage.messages))
    return usage


def limit_of(quota: Quota) -> bytes:
    """The limit as the first line of the file has it: what can't be gone beyond."""
    octets = b"%dS" % (quota.size + quota.slack) if quota.size else b""
    messages = b"%dC" % quota.messages if quota.messages else b""
    return b",".join(filter(None, (octets, messages)))


def _fits(usage: Usage, quota: Quota, octets: int, slack: int = 0) -> bool:
    """At least one octet more, if the size is not known."""
    if quota.size and usage.octets + max(octets, 1) > quota.size + slack:
        return False
    return not quota.messages or usage.messages < quota.messages


def _over_since(home: int, now: float) -> float:
    """When the mailbox first had no room; now, if it has had until now."""
    try:
        return os.stat(_MARK, dir_fd=home, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.close(os.open(_MARK, _NEW_FILE, 0o600, dir_fd=home))
        return now


def _read(home: int, limit: bytes) -> Usage | None:
    """The sum of the file; None if it is missing, long, broken, or made for another limit."""
    try:
        file = os.open(FILE, _READ, dir_fd=home)
    except FileNotFoundError:
        return None
    try:
        written_at = os.fstat(file).st_mtime
        octets = os.read(file, _MAX_OCTETS + 1)
    finally:
        os.close(file)
    first, *lines = octets.split(b"\n")
    if len(octets) > _MAX_OCTETS or first.strip() != limit or not lines or lines[-1]:
        return None
    entries = [_ENTRY.fullmatch(line) for line in lines[:-1]]
    if not all(entries):
        return None
    total = sum(int(entry[1]) for entry in entries if entry)
    messages = sum(int(entry[2]) for entry in entries if entry)
    return Usage(total, messages, len(entries), written_at) if total >= 0 and messages >= 0 else None


def _write(home: int, octets: bytes) -> None:
    working_name = f"tmp/{FILE}.P{os.getpid()}C{next(_counter)}"
    with suppress(FileNotFoundError):  # without `tmp` it is no mailbox yet
        file = os.open(working_name, _NEW_FILE, 0o600, dir_fd=home)
        try:
            os.write(file, octets)
        finally:
            os.close(file)
        os.rename(working_name, FILE, src_dir_fd=home, dst_dir_fd=home)


def _count(home: int) -> Usage:
    octets = messages = 0
    for folder in _message_folders(home):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                told = _SIZE_IN_NAME.search(entry.name)
                with suppress(FileNotFoundError):  # moved or deleted meanwhile
                    octets += int(told[1]) if told else entry.stat(follow_symlinks=False).st_size
                    messages += 1
    return Usage(octets, messages, 1, time.time())


def _times(home: int) -> list[int]:
    """When something was last moved into each folder of messages, or out of it."""
    return [os.fstat(folder).st_mtime_ns for folder in _message_folders(home)]


def _message_folders(home: int) -> Iterator[int]:
    """Descriptors of `new` and `cur` of the mailbox and of its folders, one after the other."""
    with os.scandir(home) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
        ]
    for name in (".", *sorted(names)):
        for part in ("new", "cur"):
            with suppress(FileNotFoundError, NotADirectoryError):
                folder = os.open(f"{name}/{part}", _FOLDER, dir_fd=home)
                try:
                    yield folder
                finally:
                    os.close(folder)
