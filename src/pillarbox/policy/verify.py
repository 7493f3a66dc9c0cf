"""Answer VRFY and EXPN as far as the operator lets it (RFC 5321 3.5, 7.3).

Where nothing may be told no name is looked up, so neither the answer nor the work for it depends on the local part.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pillarbox.mail.address import Address
from pillarbox.mail.catalogue import envelope, mailbox, session
from pillarbox.mail.reply import Reply
from pillarbox.policy.map_files import DirectoryTroubleError
from pillarbox.policy.recipients import decide_state, revealed
from pillarbox.policy.transports import UnsafeNameError
from pillarbox.policy.users import Mailbox, MailingList
from pillarbox.smtp.grammar import parse_verify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.policy.directory import Directory
    from pillarbox.policy.hooks import Client

_MAX_LINES = 100  # of one answer
_BARE = "[127.0.0.1]"  # the domain that the grammar gives to a name without one


class VerifyPolicy(StrEnum):
    """Who gets an answer to VRFY and EXPN."""

    OFF = "off"
    RESTRICTED = "restricted"
    AUTH = "auth"
    OPEN = "open"


class Verifier:
    """Answers for one policy."""

    def __init__(
        self, policy: VerifyPolicy, directory: Directory, refuse: Callable[[Client, Address], Reply | None]
    ) -> None:
        """`directory` is asked for names only for clients that may know; `refuse` says what RCPT would of a foreign address."""
        self._policy = policy
        self._directory = directory
        self._refuse = refuse

    def decide(self, client: Client, argument: str, *, expand: bool) -> Reply | Awaitable[Reply]:
        """The answer to VRFY, or to EXPN if `expand` is set; later, if another host has to be asked."""
        policy = self._policy
        told = policy is VerifyPolicy.OPEN or (policy is VerifyPolicy.AUTH and bool(client.login))
        if told and self._directory.asks:
            return self._decide_later(client, argument, expand=expand)
        return self._decide(client, argument, expand=expand, told=told)

    async def _decide_later(self, client: Client, argument: str, *, expand: bool) -> Reply:
        """Ask directories on other hosts first."""
        address = parse_verify(argument)
        if address is not None and address.domain == _BARE:
            await self._directory.ask_homonyms(address.local)
        elif address is not None:
            await self._directory.ask(address)
        return self._decide(client, argument, expand=expand, told=True)

    def _decide(self, client: Client, argument: str, *, expand: bool, told: bool) -> Reply:
        if self._policy is VerifyPolicy.OFF or (expand and not told):
            return session.NOT_IMPLEMENTED.reply()
        address = parse_verify(argument)
        if address is None:
            return session.BAD_ARGUMENT.reply(detail="An address or a name must follow")
        if address.domain and address.domain != _BARE and not self._directory.serves(address.domain):
            return self._refuse(client, address) or envelope.CANNOT_VERIFY.reply()
        if not told:
            return envelope.CANNOT_VERIFY.reply()
        try:
            answer = self._answer(address, expand=expand, authenticated=bool(client.login))
        except UnsafeNameError:
            return envelope.RECIPIENT_UNKNOWN.reply()
        except DirectoryTroubleError as error:
            return error.reply
        return answer if isinstance(answer, Reply) else _listed(answer, argument)

    def _answer(self, address: Address, *, expand: bool, authenticated: bool) -> Reply | list[str]:
        """A reply, or the addresses to tell. Raises UnsafeNameError."""
        directory = self._directory
        if address.domain == _BARE:
            found = directory.homonyms(address.local)
            if len(found) != 1:
                return mailbox.AMBIGUOUS.reply() if found else envelope.RECIPIENT_UNKNOWN.reply()
            address = found[0]
        members = directory.members(address)
        if members is None:
            return envelope.RECIPIENT_UNKNOWN.reply()
        entry = directory.entry(address)
        if isinstance(entry, Mailbox):
            opinion = decide_state(entry, authenticated=authenticated)
            return opinion or revealed(entry, authenticated=authenticated) or [str(address)]
        if expand and isinstance(entry, MailingList) and not entry.show_members:
            return mailbox.LIST_CLOSED.reply()
        return list(members) if expand and members else [str(address)]


def _listed(addresses: list[str], argument: str) -> Reply:
    """The addresses, a line for each; letters beyond ASCII only for a client that takes them (RFC 6531 3.7.4.2)."""
    lines = tuple(f"<{address}>" for address in addresses)
    if len(lines) > _MAX_LINES:
        return envelope.CANNOT_VERIFY.reply()
    if all(map(str.isascii, lines)):
        return mailbox.VERIFIED.because(*lines)
    if not argument.upper().endswith(" SMTPUTF8"):
        return mailbox.NEEDS_UTF8_ANSWER.reply()
    return Reply(mailbox.VERIFIED.code, mailbox.VERIFIED.status, lines, mailbox.VERIFIED)
