"""Name the way a recipient takes from here: which transport, and its target.

Choosing the way is `policy.directory`'s job, walking it that of `relay`.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import msgspec


class Transport(StrEnum):
    """How a message leaves the queue."""

    MX = "mx"  # to the mail exchangers of a domain; target: the domain
    SMTP = "smtp"  # to a fixed host; target: //[user@]host[:port][?tls=...]
    LMTP = "lmtp"  # target: //host:port or unix:/path
    MAILDIR = "maildir"  # target: the folder, with "/./" behind the part that is the operator's
    PIPE = "pipe"  # target: the name of a configured program
    WEBHOOK = "webhook"  # target: the name of a configured web service
    PYTHON = "python"  # target: module:function
    REPORTS = "reports"  # read as DMARC or TLS report; no target
    DISCARD = "discard"  # accepted and thrown away, on purpose
    REFUSE = "refuse"  # not taken, for the cause that the target names; no configuration writes it
    HOLD = "hold"  # stays in the queue until an operator releases or removes it


MAILDIR_ROOT_END = (
    "/./"  # what stands before it must exist; what stands behind is made, and no link there is followed
)


class Route(msgspec.Struct, frozen=True):
    """A way out. Messages with equal routes are one destination: they share connections and limits."""

    transport: Transport
    target: str = ""

    def __str__(self) -> str:
        """The route as configuration and the store spell it: `transport:target`."""
        return f"{self.transport}:{self.target}"


@lru_cache(1024)
def parse_route(text: str) -> Route:
    """Read what `str(route)` wrote; a transport alone, such as "discard", is allowed. Raises ValueError."""
    transport, _, target = text.partition(":")
    return Route(Transport(transport), target)
