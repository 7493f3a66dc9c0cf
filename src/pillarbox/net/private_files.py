"""Write files with secrets: as a whole, for the server's user alone."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_private(file: Path, octets: bytes) -> None:
    """Replace a file as a whole by one that only the folder's owner may read. Raises OSError."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(octets)
            out.flush()
            os.fsync(descriptor)
        give_to_owner(new)
        new.rename(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def give_to_owner(path: Path) -> None:
    """Let what root made in a folder belong to the folder's owner."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
