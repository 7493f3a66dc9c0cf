"""Read, write and take out the header field that says since when the sender knows a recipient (RFC 7293 3.2).

Whether the address still belongs to the same owner is decided by `policy.terms`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillarbox.mail.address import AddressError, parse_address
from pillarbox.mail.envelope import ValidSince
from pillarbox.mail.message import format_date, parse_date

if TYPE_CHECKING:
    from pillarbox.mail.message import Head

FIELD = "Require-Recipient-Valid-Since"
_FIELDS = re.compile(
    rb"^" + FIELD.encode() + rb"[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)


def known_since(head: Head) -> dict[str, ValidSince]:
    """Since when the sender knows the addresses that are named, in lower case; what can't be read counts for nothing.

    The field can't forbid to go on where it is not understood. Of several moments for one address the first counts.
    """
    found: dict[str, ValidSince] = {}
    for value in head.get_all(FIELD):
        text, _, date = value.rpartition(";")
        at = parse_date(date)
        try:
            address = str(parse_address(text.strip())).lower()
        except AddressError:
            continue
        if at is not None and (address not in found or at < found[address].at):
            found[address] = ValidSince(at, refuse=False)
    return found


def field_for(address: str, since: float) -> bytes:
    """The field for one address, with its line end."""
    return f"{FIELD}: {address};\r\n\t{format_date(since)}\r\n".encode("utf-8", "surrogateescape")


def without_fields(section: bytes) -> bytes:
    """A header section without any such field."""
    return _FIELDS.sub(b"", section)
