"""What one client has used up: mistakes, commands that lead nowhere, messages, failed logins (RFC 5321 7.8).

What it may use is in the limits, how long it may be silent the session's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.catalogue import auth, session

if TYPE_CHECKING:
    from pillarbox.mail.reply import Cause
    from pillarbox.smtp.profile import Limits


class Usage(msgspec.Struct, gc=False):
    """The counts of one session. Each method counts one more, and says why to close the session if that is too many."""

    errors: int = 0
    empty: int = 0  # commands since the last message that led nowhere
    messages: int = 0  # RFC 9422 4.1: failed ones count too
    failures: int = 0  # of logins

    def mistake(self, limits: Limits) -> Cause | None:
        """A command was refused."""
        self.errors += 1
        return session.TOO_MANY_ERRORS if self.errors >= limits.errors else None

    def idle(self, limits: Limits) -> Cause | None:
        """A command led nowhere: so many of them count as mistakes, lest they go on for ever."""
        self.empty += 1
        return self.mistake(limits) if self.empty > limits.empty_commands else None

    def message(self, limits: Limits) -> Cause | None:
        """A message begins."""
        self.messages += 1
        return session.TOO_MANY_MESSAGES if self.messages > limits.messages else None

    def failed_login(self, limits: Limits) -> Cause | None:
        """A login was refused for good."""
        self.failures += 1
        return auth.TOO_MANY_FAILURES if self.failures >= limits.login_failures else None
