"""Say why a file with a key is not one that the service alone can read and change.

What is in it is the business of who reads it.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def flaw(about: os.stat_result, data: Path) -> str:
    """What is wrong with who may touch a file in the data folder, and what to do; "" if it is well.

    It may belong to the user that the service runs as, whose the data folder is, and to root.
    """
    owner = data.stat().st_uid
    if about.st_uid not in (0, os.geteuid(), owner):
        return f"belongs to {_name(about.st_uid)}, who may read and change it; chown it to {_name(owner)}, or make a new one"
    if about.st_mode & 0o077:
        return "others may read this key; chmod 600 it, or make a new one"
    return ""


def flaw_of_folder(folder: Path, data: Path) -> str:
    """The same for a folder with such files: whoever may write into it may put another key there."""
    about, owner = folder.stat(), data.stat().st_uid
    if about.st_uid not in (0, os.geteuid(), owner):
        return f"belongs to {_name(about.st_uid)}, who may change its keys; chown it to {_name(owner)}"
    return "others may write into it, and so change its keys; chmod 700 it" if about.st_mode & 0o022 else ""


def unreadable(error: OSError, file: Path) -> str:
    """Why a file can't be read."""
    text = f"cannot be read: {error.strerror}"
    try:
        return f"{text}; it belongs to {_name(file.stat().st_uid)}, and this is {_name(os.geteuid())}"
    except OSError:
        return text


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
