"""Give up what only root may do, and see that the data folder is the server's alone.

When the addresses are bound, which needs root on port 25, is the business of `supervisor`.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

from pillarbox import observe

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafeError(ValueError):
    """The server would run with more rights than it should, or others could change its mail."""


def prepare_folder(folder: Path, user: str) -> None:
    """Make the data folder if need be, for `user` if this is root. Raises UnsafeError or OSError."""
    new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = _find(user) if user and os.geteuid() == 0 else None
    if new and owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    check_folder(folder, os.geteuid() if owner is None else owner.pw_uid)


def check_folder(folder: Path, uid: int) -> None:
    """Refuse a data folder that is somebody else's, or that others may write to. Raises UnsafeError or OSError."""
    found = folder.stat()
    if found.st_uid != uid:
        raise UnsafeError(
            f"data: {folder} belongs to {_name(found.st_uid)}, and the server runs as {_name(uid)};"
            f" use: chown -R {_name(uid)} {folder}"
        )
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise UnsafeError(f"data: others may write to {folder}; use: chmod go-w {folder}")


def drop(user: str) -> None:
    """Go on as `user` with its groups, and keep new files private. Without effect for who is not root.

    Warns if the user may not read the server's own code, of which parts are imported later. Raises UnsafeError if there is
    no such user.
    """
    os.umask(0o077)
    if not user or os.geteuid() != 0:
        return
    found = _find(user)
    code = [folder for folder in sys.path if Path(folder).is_dir()]
    os.setgroups(os.getgrouplist(user, found.pw_gid))
    os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
    os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    os.environ.update(HOME=found.pw_dir, USER=user, LOGNAME=user)
    for folder in code:
        if not os.access(folder, os.R_OK | os.X_OK):
            problem = f"user {user} may not read {folder}, where code lies that the server will need"
            observe.ALARM.note(
                problem=f"{problem}; set it up where everybody may read, such as /opt/pillarbox"
            )


def _find(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise UnsafeError(f"user: this machine has no user {user!r}; use: useradd --system {user}") from None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
