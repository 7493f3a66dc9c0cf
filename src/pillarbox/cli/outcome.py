"""The exit statuses of the commands, those of sysexits.h that other mail programs use too.

Which one a command returns when is said in its help text.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from pillarbox.mail.reply import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillarbox.mail.reply import Reply


class Exit(IntEnum):
    """How a command ends."""

    OK = 0
    NOTHING = 1  # what was asked for is not there
    USAGE = 64
    DATA = 65  # the message given cannot be sent
    NO_INPUT = 66  # a file cannot be read
    NO_USER = 67  # a recipient was refused for good
    NO_HOST = 68  # the server's name is unknown
    REFUSED = 69  # refused for good, at another stage
    IO_ERROR = 74  # the output cannot be written
    TEMPORARY = 75  # not now: try again later
    PROTOCOL = 76  # the server said something that makes no sense
    NO_PERMISSION = 77  # login refused
    CONFIG = 78


def exit_for(stage: Stage, reply: Reply) -> Exit:
    """The status for one reply."""
    if reply.positive or reply.intermediate:
        return Exit.OK
    if reply.temporary:
        return Exit.TEMPORARY
    return {Stage.RCPT: Exit.NO_USER, Stage.AUTH: Exit.NO_PERMISSION}.get(stage, Exit.REFUSED)


def worst(exits: Iterable[Exit]) -> Exit:
    """The status for several recipients: a permanent failure counts more than one that may pass."""
    order = (Exit.REFUSED, Exit.NO_USER, Exit.TEMPORARY, Exit.OK)
    found = set(exits)
    return next((status for status in order if status in found), Exit.OK)
