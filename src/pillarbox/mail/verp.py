"""Write into the sender's address which copy of which message it is, so that a bounce names it (VERP).

Which mail goes out so is `relay`'s setting; what a bounce then does is `queue.returned`'s business.
"""

from __future__ import annotations

import re

from pillarbox.mail.address import MAX_LOCAL_OCTETS

DELIMITER = (
    "+"  # what follows it in a local part is a tag: mail to the whole address reaches the same mailbox
)
_TAG = re.compile(r"\+return=([0-9A-Za-z]{13})=([0-9]{1,6})@")


def verp_address(sender: str, queue_id: str, number: int) -> str:
    """The sender's address with a tag for the recipient `number` of a message; unchanged if there is no room for it."""
    local, at, domain = sender.rpartition("@")
    tagged = f"{local}{DELIMITER}return={queue_id}={number}"
    if not at or local.startswith('"') or len(tagged.encode("utf-8", "surrogateescape")) > MAX_LOCAL_OCTETS:
        return sender
    return f"{tagged}@{domain}"


def parse_verp(address: str) -> tuple[str, str, int] | None:
    """The sender's own address, the queue id and the recipient's number from such an address; None if it is none."""
    found = _TAG.search(address)
    if found is None:
        return None
    return f"{address[: found.start()]}@{address[found.end() :]}", found[1], int(found[2])
