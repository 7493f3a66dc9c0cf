"""Know our domains, mailboxes and aliases, and name the way that mail for an address takes.

Whether a client may send there is `policy.rules`' business, walking the way that of `relay`; nothing here does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.mail.address import Address, parse_address
from pillarbox.mail.catalogue import delivery, envelope, mailbox
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.srs import looks_rewritten
from pillarbox.policy.alias_checks import check_aliases
from pillarbox.policy.asked_names import AskedNames, Need, NotAskedError
from pillarbox.policy.domains import Domain, dns_name, fold, is_itself
from pillarbox.policy.known_names import KnownNames
from pillarbox.policy.map_files import DirectoryTroubleError
from pillarbox.policy.names import DirectorySettings, Names, Target
from pillarbox.policy.transports import UnsafeNameError, is_spec, parse_spec
from pillarbox.policy.users import Mailbox, State, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pillarbox.mail.reply import Reply
    from pillarbox.policy.domains import DomainSettings
    from pillarbox.policy.forwarding import Forwarding
    from pillarbox.policy.map_files import MapFile
    from pillarbox.policy.users import MailingList

# What becomes of mail that is in the queue already. A new address is told only at the door, where it may be asked who asks.
_REFUSALS = {
    State.PAUSED: mailbox.PAUSED,
    State.LOCKED: mailbox.LOCKED,
    State.DISABLED: mailbox.DISABLED,
    State.LEFT: mailbox.LEFT,
    State.MOVED: mailbox.LEFT,
}
MAX_EXPANSION = 10_000  # names looked at for one recipient
_MAX_ROUNDS = 20  # of questions about it: one for each step from alias to alias


class Directory:
    """Answers for our domains; one look-up costs the same however long the lists are."""

    def __init__(
        self,
        settings: DirectorySettings,
        *,
        known: KnownNames | None = None,
        asked: Mapping[str, AskedNames] | None = None,
    ) -> None:
        """`known` are accounts that may be mailboxes too, `asked` directories on other hosts.

        Raises ValueError, naming the key, for anything that could not work, loops of aliases included.
        """
        self.known = known or KnownNames()
        self._names = Names(settings, self.known, asked or {})
        self.forwarding: Forwarding | None = None  # who makes senders of forwarded mail, and knows them again
        check_aliases(self._names)
        # whether mailboxes limit what they take, and whether there is anything to ask about a recipient beyond where its mail goes
        domains = self._names.domains.values()
        self.has_files = any(domain.files for domain in domains)
        self.asks = any(domain.asked for domain in domains)
        self.has_rates = any(domain.has_rates for domain in domains)
        self.has_verified = any(domain.settings.verify_recipients for domain in domains)
        self.has_limits = any(domain.has_limits for domain in self._names.domains.values())
        self.plain = all(domain.plain for domain in self._names.domains.values())

    def forward(self, forwarding: Forwarding) -> None:
        """Take bounces to the senders that forwarded mail was given."""
        self.forwarding = forwarding
        self.asks = True

    def take_stored(self, domains: Mapping[str, DomainSettings]) -> list[tuple[str, str]]:
        """Serve domains that are kept elsewhere than in the configuration; which of them can't be served, and why."""
        return list(self._names.take_stored(domains))

    def settings_of(self, domain: str) -> DomainSettings | None:
        """What is set for a domain of ours, whose name is in A-labels."""
        found = self._names.domains.get(domain)
        return found.settings if found is not None else None

    def serves(self, domain: str) -> bool:
        """Whether a domain is one of ours."""
        return dns_name(domain) in self._names.domains

    def tls_of_route(self, domain: str) -> str:
        """What the routes demand of the mail exchangers of a domain in A-labels; "" if they say nothing."""
        return self._names.routes.tls(domain)

    async def ask(self, address: Address) -> None:
        """Have directories on other hosts asked about all that a recipient stands for, so that `resolve` can tell it."""
        if self.forwarding is not None and looks_rewritten(address.local):
            await self.forwarding.ask(address.local)
            sender = self.forwarding.find(address.local)
            address = sender if isinstance(sender, Address) else address
        domain = self._names.domain_of(address)
        if domain is None or domain.no_mail or domain.nothing_but_names:
            return
        for _ in range(_MAX_ROUNDS):
            try:
                self._expand(domain, fold(address.local), "", Need.FRESH)
            except NotAskedError as error:
                await error.ask()
            except (UnsafeNameError, DirectoryTroubleError):
                return
            else:
                return

    async def ask_homonyms(self, local: str) -> None:
        """The same for a name in each domain."""
        for domain in self._names.domains.values():
            if domain.asked:
                await self.ask(Address(local, domain.shown))

    def resolve(self, address: Address, need: Need = Need.KNOWN) -> tuple[Target, ...] | Reply:
        """Everything that a recipient stands for, aliases expanded, or why it gets no mail. No I/O.

        An address of a domain that is not ours stands for itself; the bare postmaster for the one of our first domain.
        """
        domain = self._names.domain_of(address)
        if domain is None:
            return self._resolve_outside(address)
        if domain.no_mail:
            return envelope.DOMAIN_TAKES_NO_MAIL.reply()
        if self.forwarding is not None and looks_rewritten(address.local):
            sender = self.forwarding.find(address.local)
            return self.resolve(sender, need) if isinstance(sender, Address) else sender
        local = fold(address.local)
        try:
            if domain.nothing_but_names and not local.startswith("postmaster"):  # the ordinary case
                return (Target(str(address), _way_into(domain, local, *self._names.split(local))),)
            shown = str(address) if address.domain else f"{local}@{domain.shown}"
            return self._expand(domain, local, shown, need)
        except UnsafeNameError as error:
            return delivery.MAILBOX_UNSAFE.reply(detail=error)
        except DirectoryTroubleError as error:
            return error.reply

    def entry(self, address: Address) -> Mailbox | MailingList | None:
        """What is known of the very name of a recipient, before any alias is followed. Raises UnsafeNameError."""
        domain = self._names.domain_of(address)
        try:
            meaning = None if domain is None else self._names.look_up(domain, fold(address.local))
        except DirectoryTroubleError:
            meaning = None
        if domain is None or meaning is None:
            return None
        return domain.lists.get(meaning.key) or domain.mailbox(meaning.key)

    def files_of(self, address: Address) -> tuple[MapFile, ...]:
        """The files that tell about a recipient."""
        domain = self._names.domain_of(address)
        return domain.files if domain is not None else ()

    def read_files(self) -> None:
        """Read the files of all domains; what is wrong with one is told by `resolve`. It waits for the disk."""
        for domain in self._names.domains.values():
            for file in domain.files:
                file.refresh()

    def mailboxes(self) -> Iterator[str]:
        """The addresses of all users that are named somewhere, by domain and name."""
        for domain in self._names.domains.values():
            names = domain.users.union(*(file.mailboxes for file in domain.files))
            if domain.by_account:
                names |= self.known.of(domain.name)
            yield from (f"{name}@{domain.shown}" for name in sorted(names))

    def verifies(self, address: Address) -> bool:
        """Whether another host has to be asked about a recipient."""
        domain = self._names.domain_of(address)
        return domain is not None and domain.settings.verify_recipients

    def sole_mailbox(self, address: Address) -> Mailbox | None:
        """What is known of the user that a recipient stands for, if it is a single one."""
        found = self.resolve(address)
        return found[0].mailbox if isinstance(found, tuple) and len(found) == 1 else None

    def members(self, address: Address) -> tuple[str, ...] | None:
        """The addresses that an alias or a list stands for, () for a mailbox, None for a name that is unknown.

        Ways out of their own, such as programs, are shown as the name itself; the catch-all is a mailbox to the outside.
        """
        domain = self._names.domain_of(address)
        meaning = (
            None if domain is None or domain.no_mail else self._names.look_up(domain, fold(address.local))
        )
        if domain is None or meaning is None:
            return None
        if meaning.key not in domain.aliases:
            return ()
        own = str(Address(meaning.key, domain.shown))
        return tuple(
            dict.fromkeys(
                own
                if is_spec(value) or is_itself(domain, meaning.key, value)
                else value
                if "@" in value
                else str(Address(value, domain.shown))
                for value in meaning.values
            )
        )

    def homonyms(self, local: str) -> list[Address]:
        """Our addresses with that local part; names that are mailboxes only because every name is count too."""
        name = fold(local)
        return [
            Address(local, domain.shown)
            for domain in self._names.domains.values()
            if not domain.no_mail and self._names.look_up(domain, name) is not None
        ]

    @property
    def knows_since(self) -> bool:
        """Whether it is known since when any mailbox or domain is whose it is."""
        return any(
            domain.settings.since or any(user.since for user in domain.particulars.values())
            for domain in self._names.domains.values()
        )

    def since(self, address: Address) -> tuple[float, float]:
        """Since when a mailbox, and its domain, are whose they are; 0 if that is not known."""
        domain = self._names.domain_of(address)
        if domain is None:
            return 0.0, 0.0
        entry = self.entry(address)
        given = entry.since if isinstance(entry, Mailbox) else None
        return given or 0.0, timestamp(domain.settings.since) or 0.0

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
        try:
            meaning = names.look_up(domain, local, Need.GUESS)  # who it was accepted for was known then
            if meaning is not None and not domain.no_mail:
                own = next((value for value in meaning.values if is_spec(value)), None)
                if own is not None:
                    return parse_spec(own).fill(*names.split(local), domain.name, local)
                if not meaning.values or any(
                    is_itself(domain, meaning.key, value) for value in meaning.values
                ):
                    return _mailbox("", domain, local, meaning.key, meaning.tag).route
        except UnsafeNameError:
            pass
        except DirectoryTroubleError as error:
            return Route(Transport.REFUSE, error.cause.id)
        return Route(Transport.HOLD)

    def hints(self) -> list[str]:
        """What an operator should know although it is no error."""
        found = []
        for domain in self._names.domains.values():
            if domain.everyone:
                found.append(
                    f"{domain.shown}: every name is taken for a mailbox; list `users` to refuse the others"
                )
            elif not domain.no_mail and self._names.look_up(domain, "abuse", Need.GUESS) is None:
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

    def _expand(
        self, first: Domain, name: str, address: str, need: Need = Need.KNOWN
    ) -> tuple[Target, ...] | Reply:
        """Follow aliases until only mailboxes and ways out are left. Raises UnsafeNameError and DirectoryTroubleError."""
        names = self._names
        unasked: list[tuple[AskedNames, str]] = []
        found: dict[str, Target] = {}
        waiting = [(first, name, address)]
        seen = {(first.name, name)}
        for domain, local, shown in waiting:  # the list grows meanwhile
            try:
                meaning = names.look_up(domain, local, need)
            except NotAskedError as error:  # go on, so that all questions are asked together
                unasked += error.questions
                continue
            if meaning is None:
                return envelope.RECIPIENT_UNKNOWN.reply()
            for value in meaning.values or (meaning.key,):
                if is_itself(domain, meaning.key, value):  # a mailbox, or an alias that keeps a copy
                    found[shown] = _mailbox(shown, domain, local, meaning.key, meaning.tag)
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
        if unasked:
            raise NotAskedError(*unasked)
        return tuple(found.values()) or mailbox.MAP_BROKEN.reply()  # a file may have a circle in it


def _mailbox(shown: str, domain: Domain, local: str, user: str, tag: str) -> Target:
    """A mailbox, or the cause for which it takes nothing. Raises UnsafeNameError."""
    known = domain.mailbox(user)
    if known is None:
        return Target(shown, _way_into(domain, local, user, tag))
    refusal = _REFUSALS.get(known.state)
    route = _way_into(domain, local, user, tag) if refusal is None else Route(Transport.REFUSE, refusal.id)
    return Target(shown, route, known)


def _way_into(domain: Domain, local: str, user: str, tag: str) -> Route:
    """The way into a mailbox. Raises UnsafeNameError."""
    assert domain.deliver is not None  # only such domains have mailboxes
    return domain.deliver.fill(user, tag, domain.name, local)
