"""The built-in decisions about senders and recipients: who may relay, which addresses are ours, who owns a sender.

Mailboxes and routes are the directory's, plugins' opinions `policy.hooks`' business.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pillarbox.mail.address import Address
from pillarbox.mail.catalogue import envelope
from pillarbox.mail.reply import Reply
from pillarbox.mail.units import Settings
from pillarbox.policy.account import owns
from pillarbox.policy.directory import Directory
from pillarbox.policy.lists import Networks
from pillarbox.policy.names import Target
from pillarbox.policy.recipients import acceptance, admit, decide_list
from pillarbox.policy.users import MailingList
from pillarbox.policy.verify import Verifier, VerifyPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
    POLICY = "policy"  # no mail at all, but the MTA-STS policies of our domains, by HTTP


_POSTMASTER = Address("postmaster", "")
_SANDBOX = Role.SANDBOX.value  # to name a member costs a call before Python 3.12


class RuleSettings(Settings, frozen=True):
    """The policy of the whole server. Clients in `relay_networks` may send to any domain."""

    relay_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Clients in these networks may send to any domain."""
    deny_networks: tuple[str, ...] = ()
    """Clients in these networks are refused in the greeting (554)."""
    vrfy: VerifyPolicy = VerifyPolicy.RESTRICTED
    """What VRFY and EXPN tell: `restricted` answers VRFY with 252 whatever the name is and EXPN with 502, `off` answers both
    with 502; `auth` looks names up for clients that logged in, `open` for everybody. Of a domain to which the client may not
    send they say so, like RCPT."""


class Rules:
    """Decides about one command at a time; no look-up here waits."""

    def __init__(self, settings: RuleSettings, directory: Directory, is_own: Callable[[str], bool]) -> None:
        """`is_own` tells whether a domain or address literal means this host. Raises ValueError for a malformed network."""
        self._directory = directory
        self._is_own = is_own
        self._verifier = Verifier(settings.vrfy, directory, self._refuse_outside)
        self._relay = Networks(settings.relay_networks)
        self._denied = Networks(settings.deny_networks)

    def decide_mail(self, client: Client, sender: Address | None) -> Reply:
        """Whether the reverse-path may be used."""
        if client.senders and sender is not None and not owns(client.senders, str(sender)):
            return envelope.SENDER_NOT_OWNED.reply()
        return envelope.SENDER_OK.reply()

    def decide_rcpt(
        self, client: Client, recipient: Address, sender: Address | None, octets: int
    ) -> tuple[Target, ...] | Reply:
        """Where mail of the announced size goes, or why it may not go there (RFC 5321 3.6)."""
        if recipient.domain and not self._directory.serves(recipient.domain):
            if self._is_own_postmaster(recipient):
                recipient = _POSTMASTER
            elif (refusal := self._refuse_outside(client, recipient)) is not None:
                return refusal
        elif client.role != _SANDBOX and not _ROUTING.isdisjoint(recipient.local):
            return envelope.ROUTED_ADDRESS.reply()
        found = self._directory.resolve(recipient)
        if self._directory.plain or isinstance(found, Reply):
            return found
        authenticated = bool(client.login)
        entry = self._directory.entry(recipient)
        if isinstance(entry, MailingList):
            refusal = decide_list(entry, sender, authenticated=authenticated)
            if refusal is not None:
                return refusal
        return admit(found, octets, authenticated=authenticated)

    def _is_own_postmaster(self, recipient: Address) -> bool:
        """Whether it is meant who is meant by "postmaster" alone (RFC 5321 4.1.3, 4.5.1)."""
        return recipient.local.lower() == "postmaster" and self._is_own(recipient.domain)

    def _refuse_outside(self, client: Client, recipient: Address) -> Reply | None:
        """Why a client may not send to an address at a domain that is not ours, if so."""
        if client.role == _SANDBOX or client.login or self.trusts(client.address):
            return None
        if self._is_own_postmaster(recipient):
            return None
        foreign = recipient.domain.startswith("[")
        return (envelope.FOREIGN_LITERAL if foreign else envelope.RELAY_DENIED).reply()

    def acceptance(self, client: Client, recipient: Address) -> Reply:
        """The answer to RCPT for a recipient that was found good."""
        if self._directory.plain:
            return envelope.RECIPIENT_OK.reply()
        return acceptance(self._directory.entry(recipient), authenticated=bool(client.login))

    def decide_verify(self, client: Client, argument: str, *, expand: bool) -> Reply | Awaitable[Reply]:
        """The answer to VRFY, or to EXPN if `expand` is set."""
        return self._verifier.decide(client, argument, expand=expand)

    def trusts(self, address: str) -> bool:
        """Whether a client address lies in the relay networks."""
        return self._relay.holds(address)

    def denies(self, address: str) -> bool:
        """Whether a client address lies in the denied networks."""
        return self._denied.holds(address)
