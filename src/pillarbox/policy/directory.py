"""Know our domains, mailboxes and aliases, and name the way that mail for an address takes.

Whether a client may send there is `policy.rules`' business, walking the way that of `relay`; nothing here does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.address import Address, parse_address
from pillarbox.mail.catalogue import delivery, envelope
from pillarbox.mail.route import Route, Transport
from pillarbox.policy.alias_checks import check_aliases
from pillarbox.policy.domains import Domain, dns_name, fold, is_itself
from pillarbox.policy.names import DirectorySettings, Names, Target
from pillarbox.policy.transports import UnsafeNameError, is_spec, parse_spec

if TYPE_CHECKING:
    from pillarbox.mail.reply import Reply

MAX_EXPANSION = 10_000  # names looked at for one recipient


class Directory:
    """Answers for our domains; one look-up costs the same however long the lists are."""

    def __init__(self, settings: DirectorySettings) -> None:
        """Raises ValueError, naming the key, for anything that could not work, loops of aliases included."""
        self._names = Names(settings)
        check_aliases(self._names)

    def serves(self, domain: str) -> bool:
        """Whether a domain is one of ours."""
        return dns_name(domain) in self._names.domains

    def resolve(self, address: Address) -> tuple[Target, ...] | Reply:
        """Everything that a recipient stands for, aliases expanded, or why it gets no mail. No I/O.

        An address of a domain that is not ours stands for itself; the bare postmaster for the one of our first domain.
        """
        domain = self._names.domain_of(address)
        if domain is None:
            return self._resolve_outside(address)
        if domain.no_mail:
            return envelope.DOMAIN_TAKES_NO_MAIL.reply()
        local = fold(address.local)
        try:
            if (
                domain.everyone and not domain.aliases and not local.startswith("postmaster")
            ):  # the ordinary case
                return (Target(str(address), _mailbox(domain, local, *self._names.split(local))),)
            return self._expand(domain, local, str(address) if address.domain else f"{local}@{domain.shown}")
        except UnsafeNameError as error:
            return delivery.MAILBOX_UNSAFE.reply(detail=error)

    def route(self, address: Address) -> Route:
        """The way of an address that is already expanded; the same at every attempt, unless the configuration changed.

        Mail for a name of ours that no longer has a way is held for the operator.
        """
        names = self._names
        domain = names.domain_of(address)
        if domain is None:
            return (
                names.routes.find(address.dns_domain)
                if address.domain
                else self._resolve_outside(address)[0].route
            )
        local = fold(address.local)
        meaning = names.look_up(domain, local)
        try:
            if meaning is not None and not domain.no_mail:
                own = next((value for value in meaning.values if is_spec(value)), None)
                if own is not None:
                    return parse_spec(own).fill(*names.split(local), domain.name, local)
                if not meaning.values or any(
                    is_itself(domain, meaning.key, value) for value in meaning.values
                ):
                    return _mailbox(domain, local, meaning.key, meaning.tag)
        except UnsafeNameError:
            pass
        return Route(Transport.HOLD)

    def hints(self) -> list[str]:
        """What an operator should know although it is no error."""
        found = []
        for domain in self._names.domains.values():
            if domain.everyone:
                found.append(
                    f"{domain.shown}: every name is taken for a mailbox; list `users` to refuse the others"
                )
            elif not domain.no_mail and self._names.look_up(domain, "abuse") is None:
                found.append(f"{domain.shown}: abuse@ does not exist, and others expect it (RFC 2142 4)")
        return found

    def _resolve_outside(self, address: Address) -> tuple[Target, ...]:
        """An address that is not ours, or the bare postmaster of a server that serves no domain."""
        if address.domain:
            return (Target(str(address), self._names.routes.find(address.dns_domain)),)
        postmaster = self._names.postmaster
        if is_spec(postmaster):
            return (
                Target(
                    "postmaster", parse_spec(postmaster).fill("postmaster", "", "localhost", "postmaster")
                ),
            )
        if postmaster:
            return self._resolve_outside(parse_address(postmaster))
        return (Target("postmaster", Route(Transport.HOLD)),)

    def _expand(self, first: Domain, name: str, address: str) -> tuple[Target, ...] | Reply:
        """Follow aliases until only mailboxes and ways out are left. Raises UnsafeNameError."""
        names = self._names
        found: dict[str, Target] = {}
        waiting = [(first, name, address)]
        seen = {(first.name, name)}
        for domain, local, shown in waiting:  # the list grows meanwhile
            meaning = names.look_up(domain, local)
            if meaning is None:
                return envelope.RECIPIENT_UNKNOWN.reply()
            for value in meaning.values or (meaning.key,):
                if is_itself(domain, meaning.key, value):  # a mailbox, or an alias that keeps a copy
                    found[shown] = Target(shown, _mailbox(domain, local, meaning.key, meaning.tag))
                elif is_spec(value):
                    found[shown] = Target(
                        shown, parse_spec(value).fill(*names.split(local), domain.name, local)
                    )
                else:
                    aim = names.aim(domain, value, meaning.tag)
                    if isinstance(aim, Target):
                        found.setdefault(aim.address, aim)
                    elif (aim[0].name, aim[1]) not in seen:
                        seen.add((aim[0].name, aim[1]))
                        waiting.append((*aim, str(Address(aim[1], aim[0].shown))))
            if len(seen) > MAX_EXPANSION:
                return delivery.TOO_MANY_EXPANSIONS.reply()
        return tuple(found.values())


def _mailbox(domain: Domain, local: str, user: str, tag: str) -> Route:
    """The way into a mailbox. Raises UnsafeNameError."""
    assert domain.deliver is not None  # only such domains have mailboxes
    return domain.deliver.fill(user, tag, domain.name, local)
