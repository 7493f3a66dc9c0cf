"""What one client has used up: mistakes, commands that lead nowhere, messages, failed logins (RFC 5321 7.8).

What it may use is in the limits, how long it may be silent the session's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.catalogue import auth, session

if TYPE_CHECKING:
    from pillarbox.mail.address import Address
    from pillarbox.mail.reply import Cause
    from pillarbox.smtp.profile import Limits


class Usage(msgspec.Struct, gc=False):
    """The counts of one session. What is counted for each command and message of a good client, the session counts itself."""

    errors: int = 0
    empty: int = 0  # commands since the last message that led nowhere
    messages: int = 0  # RFC 9422 4.1: failed ones count too
    failures: int = 0  # of logins
    domains: set[str] = msgspec.field(default_factory=set)  # of a message's recipients, if they are limited

    def mistake(self, limits: Limits) -> Cause | None:
        """Count a refused command; the cause to close the session if it was one too many."""
        self.errors += 1
        return session.TOO_MANY_ERRORS if self.errors >= limits.errors else None

    def is_one_domain_too_many(self, recipient: Address, limits: Limits) -> bool:
        """Count the domains of a message's recipients (RFC 9422 4.3)."""
        domain = recipient.dns_domain
        if domain not in self.domains and len(self.domains) >= limits.recipient_domains:
            return True
        self.domains.add(domain)
        return False

    def failed_login(self, limits: Limits) -> Cause | None:
        """Count a login that was refused for good; the cause as above."""
        self.failures += 1
        return auth.TOO_MANY_FAILURES if self.failures >= limits.login_failures else None
