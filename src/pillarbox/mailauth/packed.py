"""Unpack what reports come in, gzip or zip or neither, in pieces and never more than allowed.

What is inside, and whether it is a report, is the business of who asks.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 65_536
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_MAX_MEMBERS = 8  # of one gzip file: each costs a copy of what follows it
_MAX_ENTRIES = 100  # of one zip file; the first is taken


class PackError(ValueError):
    """What can't be unpacked; the text says why."""


def unpack(octets: bytes, limit: int) -> Iterator[bytes]:
    """The content, piece by piece. Raises PackError, also if there is more than `limit` of it."""
    if octets.startswith(_GZIP):
        pieces = _gunzip(octets)
    elif octets.startswith(_ZIP):
        pieces = _unzip(octets)
    else:
        pieces = (octets[at : at + _PIECE] for at in range(0, len(octets), _PIECE))
    taken = 0
    for piece in pieces:
        taken += len(piece)
        if taken > limit:
            raise PackError(f"it is larger than {limit} octets when unpacked")
        yield piece


def _gunzip(octets: bytes) -> Iterator[bytes]:
    rest = octets
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        try:
            piece = member.decompress(rest, _PIECE)
            while piece or member.unconsumed_tail:
                yield piece
                piece = member.decompress(member.unconsumed_tail, _PIECE)
        except zlib.error as error:
            raise PackError(f"gzip: {error}") from error
        if not member.eof:
            raise PackError("gzip: the end is missing")
        rest = member.unused_data
        if not rest.startswith(_GZIP):  # padding is allowed
            return
    raise PackError(f"gzip: more than {_MAX_MEMBERS} members")


def _unzip(octets: bytes) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(octets)) as archive:
            entries = [one for one in archive.infolist()[:_MAX_ENTRIES] if not one.is_dir()]
            if not entries:
                raise PackError("zip: nothing is inside")
            if entries[0].compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise PackError("zip: packed in a way that is not read")
            with archive.open(entries[0]) as inside:
                while piece := inside.read(_PIECE):
                    yield piece
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        raise error if isinstance(error, PackError) else PackError(f"zip: {error}") from error
