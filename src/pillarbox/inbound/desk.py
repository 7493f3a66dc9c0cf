"""What the sessions of one listener share: its settings, and those who decide.

How a session uses it is the business of `inbound.session`; a reload puts another desk in its place for those that come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.inbound.accept import Door
    from pillarbox.inbound.etrn import Etrn
    from pillarbox.inbound.greeting import SlowGreeting
    from pillarbox.inbound.status import StatusBoard
    from pillarbox.mail.reply import Reply
    from pillarbox.net.handshakes import Handshakes, ListenerTls
    from pillarbox.net.listener import Connections
    from pillarbox.policy.accounts import Accounts
    from pillarbox.policy.hooks import Client, Hooks
    from pillarbox.policy.proxies import Proxies
    from pillarbox.policy.rules import Role, Rules
    from pillarbox.policy.tarpit import Tarpit
    from pillarbox.policy.terms import TermRules
    from pillarbox.smtp.profile import Profile


class Desk(msgspec.Struct, eq=False, weakref=True):
    """What the sessions of one listener share."""

    role: Role
    profile: Profile
    rules: Rules
    accounts: Accounts
    hooks: Hooks
    door: Door
    connections: Connections
    handshakes: Handshakes
    board: StatusBoard
    terms: TermRules
    etrn: Etrn | None = None
    tls: ListenerTls | None = None
    implicit_tls: bool = False
    slow_greeting: SlowGreeting | None = None
    proxies: Proxies | None = None  # if some host may speak for others
    tarpit: Tarpit | None = None
    on_refusal: Callable[[Client, Reply], None] | None = None  # learns what was refused by a decision

    def follow(self, other: Desk) -> None:
        """Let the same decide about mail as at another desk. What the sessions here were offered they keep, logins included."""
        self.rules, self.hooks, self.door = other.rules, other.hooks, other.door
        self.terms, self.etrn = other.terms, other.etrn
        self.on_refusal = other.on_refusal
