"""Find what a name in one of our domains stands for: a mailbox, the values of an alias, or nothing.

Following aliases to their end is `policy.directory`'s business; nothing here does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pillarbox.mail.address import Address, parse_address
from pillarbox.mail.units import Settings
from pillarbox.policy.asked_names import Need
from pillarbox.policy.domains import (
    CATCH_ALL,
    POSTMASTER,
    Domain,
    DomainSettings,
    compile_domain,
    fold,
    is_itself,
)
from pillarbox.policy.routes import RouteSettings, RouteTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pillarbox.mail.route import Route
    from pillarbox.policy.asked_names import AskedNames
    from pillarbox.policy.known_names import KnownNames
    from pillarbox.policy.users import Mailbox


class DirectorySettings(Settings, frozen=True):
    """Who gets mail here, and how the rest leaves."""

    domains: dict[str, DomainSettings] = msgspec.field(default_factory=dict)
    """Our domains by name."""
    routes: list[RouteSettings] = msgspec.field(default_factory=list)
    """Ways out other than the exchangers of the recipient's domain."""
    recipient_delimiter: str = "+"
    """Characters that separate the user from a tag, as in user+tag; "" for none."""
    postmaster: str = ""
    """Where mail for postmaster of any of our domains goes; "" for a mailbox of that name in each domain."""


class Target(msgspec.Struct, frozen=True, gc=False):
    """One address that a recipient stands for, and its way from here."""

    address: str
    route: Route
    mailbox: Mailbox | None = None  # what is known of the user, beyond the name


class Meaning(msgspec.Struct, frozen=True):
    """What a name of ours stands for: `values` of an alias, or a mailbox if there are none."""

    key: str  # the entry that was found: an alias, a user, CATCH_ALL or POSTMASTER
    tag: str
    values: tuple[str, ...] = ()


class Names:
    """All our domains; one look-up costs the same however long their lists are."""

    def __init__(
        self, settings: DirectorySettings, known: KnownNames, asked: Mapping[str, AskedNames]
    ) -> None:
        """`known` are the accounts, `asked` directories on other hosts, by their names in `users_from`.

        Raises ValueError, naming the key, for settings that are wrong by themselves.
        """
        self.known = known
        self._asked = asked
        self.delimiters = settings.recipient_delimiter
        self.postmaster = settings.postmaster
        self.domains: dict[str, Domain] = {}
        for name, domain in settings.domains.items():
            compiled = compile_domain(name, domain)
            if compiled.name in self.domains:
                raise ValueError(f'domain."{name}": this domain is configured twice')
            self.domains[compiled.name] = compiled
        self._configured = self.domains
        self.home = self._find_home()
        self.routes = RouteTable(settings.routes)

    def _find_home(self) -> Domain | None:
        return next((domain for domain in self.domains.values() if not domain.no_mail), None)

    def take_stored(self, domains: Mapping[str, DomainSettings]) -> Iterator[tuple[str, str]]:
        """Serve these beside the configured domains, in place of those taken before; what can't be served, and why."""
        stored = {}
        for name, settings in domains.items():
            try:
                compiled = compile_domain(name, settings)
            except ValueError as error:
                yield name, str(error)
                continue
            if compiled.name in self._configured:
                yield name, "the configuration has this domain too, and that counts"
            else:
                stored[compiled.name] = compiled
        self.domains = self._configured | stored
        self.home = self._find_home()

    def domain_of(self, address: Address) -> Domain | None:
        """The domain of ours that an address belongs to; a bare name belongs to the first."""
        return self.domains.get(address.dns_domain) if address.domain else self.home

    def split(self, local: str) -> tuple[str, str]:
        """User and tag."""
        places = [at for at in (local.find(delimiter, 1) for delimiter in self.delimiters) if at > 0]
        return (local[: min(places)], local[min(places) + 1 :]) if places else (local, "")

    def look_up(self, domain: Domain, local: str, need: Need = Need.KNOWN) -> Meaning | None:
        """The entry for a name: as it is, without its tag, then what holds for every name; None if unknown.

        Raises DirectoryTroubleError if a file of the domain can't be used, and the name stands nowhere else; NotAskedError
        if another host has to be asked first.
        """
        user, tag = self.split(local)
        for name, rest in ((local, ""), (user, tag)):
            values = domain.aliases.get(name)
            if values is not None:
                return Meaning(name, rest, (values,) if isinstance(values, str) else tuple(values))
            if name in domain.users:
                return Meaning(name, rest)
            if domain.by_account and self.known.has(domain.name, name):
                return Meaning(name, rest)
            for file in domain.files if user != "postmaster" else ():
                listed = file.find(name)
                if listed is not None:
                    return Meaning(name, rest, listed)
            for directory in domain.asked if user != "postmaster" else ():
                if (asked := self._asked.get(directory)) is not None:
                    listed = asked.find(f"{name}@{domain.shown}", need)
                    if listed is not None:
                        return Meaning(name, rest, listed)
        if user == "postmaster":
            elsewhere = self.postmaster and not is_itself(domain, user, self.postmaster)
            return Meaning(POSTMASTER, tag, (self.postmaster,)) if elsewhere else Meaning(user, tag)
        if domain.everyone or (domain.asked and need is Need.GUESS):
            return Meaning(user, tag)
        return Meaning(CATCH_ALL, tag, (domain.catch_all,)) if domain.catch_all is not None else None

    def aim(self, domain: Domain, value: str, tag: str) -> Target | tuple[Domain, str]:
        """Where an alias's value points: out, or to a name of ours, which inherits the tag. Raises AddressError."""
        if "@" in value:
            address = parse_address(value)
            aimed = self.domains.get(address.dns_domain)
            if aimed is None:
                return Target(str(address), self.routes.find(address.dns_domain))
            return aimed, fold(address.local)
        local = fold(value)
        if tag and self.delimiters and self.split(local) == (local, ""):
            local += self.delimiters[0] + tag
        return domain, local
