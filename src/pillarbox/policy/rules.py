"""The built-in decisions about senders and recipients: who may relay, which addresses are ours, who owns a sender.

Mailboxes and routes are the directory's, plugins' opinions `policy.hooks`' business.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING

from pillarbox.mail.catalogue import envelope, session
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Settings
from pillarbox.policy.directory import Directory
from pillarbox.policy.names import Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillarbox.mail.address import Address
    from pillarbox.policy.accounts import Accounts
    from pillarbox.policy.hooks import Client

_ROUTING = frozenset("%!@")  # what a local part must not use to name another host (RFC 5321 4.1.2, F.2)


class Role(StrEnum):
    """What a listener is for."""

    MX = "mx"  # mail for our domains from everybody
    SUBMISSION = "submission"  # mail of our users, who log in
    RELAY = "relay"  # mail of hosts in `relay_networks`
    LMTP = "lmtp"  # mail handed over by another server on this host or network
    SANDBOX = "sandbox"  # everything from everybody, nothing leaves
    NO_MAIL = "no_mail"  # says so and takes none


class RuleSettings(Settings, frozen=True):
    """The policy of the whole server. Clients in `relay_networks` may send to any domain."""

    relay_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Clients in these networks may send to any domain."""
    deny_networks: tuple[str, ...] = ()
    """Clients in these networks are refused in the greeting (554)."""
    vrfy: bool = True
    """Answer VRFY with 252, as RFC 5321 7.3 allows; otherwise with 502."""


class Rules:
    """Decides about one command at a time; no look-up here waits."""

    def __init__(self, settings: RuleSettings, directory: Directory, accounts: Accounts) -> None:
        """Raises ValueError if a network is not well formed."""
        self._directory = directory
        self._accounts = accounts
        self._vrfy = settings.vrfy
        self._relay = _Networks(settings.relay_networks)
        self._denied = _Networks(settings.deny_networks)

    def decide_mail(self, client: Client, sender: Address | None) -> Reply:
        """Whether the reverse-path may be used."""
        if client.login and sender is not None and not self._accounts.may_send_as(client.login, str(sender)):
            return envelope.SENDER_NOT_OWNED.reply()
        return envelope.SENDER_OK.reply()

    def decide_rcpt(self, client: Client, recipient: Address) -> tuple[Target, ...] | Reply:
        """Where mail for the recipient goes, or why it may not go there (RFC 5321 3.6)."""
        outside = bool(recipient.domain) and not self._directory.serves(recipient.domain)
        if client.role != Role.SANDBOX:
            if outside and not (client.login or self.trusts(client.address)):
                return envelope.RELAY_DENIED.reply()
            if not outside and not _ROUTING.isdisjoint(recipient.local):
                return envelope.ROUTED_ADDRESS.reply()
        return self._directory.resolve(recipient)

    def decide_verify(self, *, expand: bool) -> Reply:
        """VRFY never tells whether a mailbox exists (RFC 5321 7.3), EXPN is not offered."""
        if expand or not self._vrfy:
            return session.NOT_IMPLEMENTED.reply()
        return envelope.CANNOT_VERIFY.reply()

    def trusts(self, address: str) -> bool:
        """Whether a client address lies in the relay networks."""
        return self._relay.holds(address)

    def denies(self, address: str) -> bool:
        """Whether a client address lies in the denied networks."""
        return self._denied.holds(address)


class _Networks:
    """A list of networks, with a memory for the addresses that were asked about; small, cleared when full."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known: dict[str, bool] = {}

    def holds(self, address: str) -> bool:
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) > 10_000:
                self._known.clear()
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(ip, "ipv4_mapped", None)  # ::ffff:127.0.0.1 is 127.0.0.1
        return any((mapped or ip) in network for network in self._networks)
