"""Decide which mail is forwarded for strangers and needs a sender of ours, and keep the keys that such senders are made with.

How an address is made and read is in `mail.srs`. The keys lie in one file of the data folder, readable by the service
alone, one a line with the day on which it was made; the first one signs.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import re
import secrets
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pillarbox.mail.address import Address, AddressError, parse_address
from pillarbox.mail.catalogue import envelope, mailbox
from pillarbox.mail.srs import VALID_DAYS, Flaw, Kept, Rewriter
from pillarbox.mail.units import Settings
from pillarbox.policy.key_files import flaw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pillarbox.mail.envelope import Recipient
    from pillarbox.mail.reply import Reply

KEY_FILE = "srs.keys"
_LINE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([A-Za-z0-9+/=]+)")
_MIN_OCTETS = 16  # of a key
_DAY_S = 86_400
_MAX_KNOWN = 1000  # senders of messages that somebody asked about
_FLAWS = {Flaw.FORGED: envelope.FORWARD_FORGED, Flaw.EXPIRED: envelope.FORWARD_EXPIRED}


FindSender: TypeAlias = "Callable[[str], Awaitable[str]]"
"""Who sent a message of ours, by its id; "" if nothing is known of it any more. Raises LookupError if nobody knows now."""


SenderFor: TypeAlias = "Callable[[str, str, Recipient], Leaving]"
"""The reverse-path of a recipient's copy of the message with that sender and that id."""


class SrsSettings(Settings, frozen=True):
    """The sender of mail that comes to an alias here and goes on to another host."""

    rewrite: bool = False
    """Name an address of the alias's domain as the sender, so that SPF holds at the next host; bounces come back here and
    are sent on to the real sender. The keys for that are made in the data folder; several servers need the same ones."""


class ForwardingError(ValueError):
    """A file of keys that can't be used; the text names it and says what to do."""


class Leaving(NamedTuple):
    """The reverse-path of a copy, and what the trace tells of it if it was thought about."""

    sender: str
    note: str = ""


class Forwarding:
    """Rewrites the senders of forwarded mail, and finds them again."""

    def __init__(
        self, keys: list[bytes], is_ours: Callable[[str], bool], find_sender: FindSender | None = None
    ) -> None:
        """`is_ours` tells whether a domain, in any form, is one of ours."""
        self._rewriter = Rewriter(keys)
        self._is_ours = is_ours
        self._find_sender = find_sender
        self._known: OrderedDict[str, Address | None] = OrderedDict()

    def sender_for(self, sender: str, queue_id: str, recipient: Recipient) -> Leaving:
        """The reverse-path of a copy: another one if a stranger's mail leaves an address of ours for another host."""
        if not sender or not recipient.original:
            return Leaving(sender)
        try:
            writer, alias, aim = (
                parse_address(text) for text in (sender, recipient.original, recipient.address)
            )
        except AddressError as error:
            return Leaving(sender, f"sent as from {sender}, whose bounces do not come back here: {error}")
        if self._is_ours(writer.domain) or self._is_ours(aim.domain) or not self._is_ours(alias.domain):
            return Leaving(sender)
        rewritten = self._rewriter.rewrite(writer, alias.domain, now=time.time(), queue_id=queue_id)
        assert rewritten is not None  # the id of a message always fits
        return Leaving(str(rewritten), f"sent as from {rewritten}, so that bounces come back here")

    async def ask(self, local: str) -> None:
        """Look up who sent the message that such an address names, if it names one, so that `find` can tell."""
        found = self._rewriter.read(local, now=time.time())
        if not isinstance(found, Kept) or found.queue_id in self._known or self._find_sender is None:
            return
        try:
            sender = await self._find_sender(found.queue_id)
            self._known[found.queue_id] = parse_address(sender) if sender else None
        except (LookupError, AddressError):
            return
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def find(self, local: str) -> Address | Reply:
        """Whom mail to such an address is for, or why it is refused."""
        found = self._rewriter.read(local, now=time.time())
        if isinstance(found, Kept):
            if found.queue_id not in self._known:
                return mailbox.DIRECTORY_DOWN.reply()
            return self._known[found.queue_id] or envelope.FORWARD_EXPIRED.reply()
        return _FLAWS[found].reply() if isinstance(found, Flaw) else found


def load_keys(folder: Path) -> list[bytes]:
    """The keys of a data folder, the signing one first; one is made if there is none. Raises ForwardingError."""
    file = folder / KEY_FILE
    try:
        if not file.exists():
            _write(file, [_new_line(time.time())], replace=False)
        return [key for _day, key in _read(file)]
    except OSError as error:
        raise ForwardingError(f"{file}: cannot be read or made: {error.strerror}") from error


def add_key(folder: Path, *, now: float) -> tuple[int, int]:
    """Let a new key sign, and drop those whose addresses have all expired: how many are left, and how many are gone.

    Raises ForwardingError or OSError.
    """
    file = folder / KEY_FILE
    known = _read(file) if file.exists() else []
    kept = []
    replaced_at = now  # a key made addresses until the one before it in the file came
    for made_at, key in known:
        if now - replaced_at <= (VALID_DAYS + 1) * _DAY_S:
            kept.append(f"{_day(made_at)} {b64encode(key).decode()}")
        replaced_at = made_at
    _write(file, [_new_line(now), *kept], replace=True)
    return len(kept) + 1, len(known) - len(kept)


def _read(file: Path) -> list[tuple[float, bytes]]:
    with file.open("rb") as opened:
        if problem := flaw(os.fstat(opened.fileno()), file.parent):
            raise ForwardingError(f"{file}: {problem}")
        lines = opened.read(65_536).decode("utf-8", "replace").splitlines()
    found = [_parse(file, line) for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ForwardingError(f"{file}: no key in it; remove it, and one is made")
    return found


def _parse(file: Path, line: str) -> tuple[float, bytes]:
    matched = _LINE.fullmatch(line.strip())
    try:
        if matched is not None and len(key := b64decode(matched[2], validate=True)) >= _MIN_OCTETS:
            return time.mktime(time.strptime(matched[1], "%Y-%m-%d")), key
    except (ValueError, binascii.Error, OverflowError):
        pass
    raise ForwardingError(f"{file}: a line is not a day and a key in base64")


def _new_line(now: float) -> str:
    return f"{_day(now)} {b64encode(secrets.token_bytes(32)).decode()}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))


def _write(file: Path, lines: list[str], *, replace: bool) -> None:
    """Write the file whole or not at all; without `replace` one that another process made meanwhile stays."""
    owner = file.parent.stat()  # root makes keys for the user that the service runs as
    made = file.with_suffix(f".{secrets.token_hex(4)}")
    opened = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if owner.st_uid != os.geteuid():
            os.fchown(opened, owner.st_uid, owner.st_gid)
        os.write(opened, "".join(f"{line}\n" for line in lines).encode())
        os.fsync(opened)
        if replace:
            made.rename(file)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(made, file)
    finally:
        os.close(opened)
        made.unlink(missing_ok=True)
