"""Say which reports are sent, as whom, and when: DMARC aggregate reports and TLS-RPT.

Making and sending them is the business of `inbound.reporting`; this is what every start needs to know.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_S = 86_400
_FIRST_S = 900  # after the end of a day, so that the last counts are written
_SPREAD_S = 4 * 3600  # lest all servers of the world report at midnight (RFC 8460 5)


class ReportSettings(Settings, frozen=True):
    """Reports to other domains, and from them: `[reports]`."""

    dmarc: bool = False
    """Tell the domains that ask for it, once a day, what came in their name (RFC 9990). Needs `dmarc.check`."""
    tls: bool = False
    """Tell the domains that ask for it, once a day, how sessions with TLS went (RFC 8460)."""
    sender: str = ""
    """From whom reports are: postmaster at `hostname` if not given. Its domain has to pass DMARC: SPF has to name this
    host, or there has to be a key of the domain (`pillarbox dkim new`)."""
    organization: str = ""
    """Who reports; `hostname` if not given."""
    contact: str = ""
    """How to reach you about a report: a web page or a telephone number."""
    except_domains: tuple[str, ...] = ()
    """Domains that get no reports."""

    @property
    def sends(self) -> bool:
        """Whether anything is counted and sent."""
        return self.dmarc or self.tls


def due_at(hostname: str) -> Callable[[int, str], float]:
    """When a day is reported about a domain: some hours after it is over, always at the same time of day."""

    def due(day: int, domain: str) -> float:
        spread = zlib.crc32(f"{hostname} {domain}".encode()) % _SPREAD_S
        return (day + 1) * DAY_S + _FIRST_S + spread

    return due
