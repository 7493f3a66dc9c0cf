"""Know our domains, mailboxes and aliases, and name the way that mail for an address takes.

Whether a client may send there is `policy.rules`' business, walking the way that of `relay`; nothing here does I/O.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from pillarbox.mail.address import Address, AddressError, parse_address, parse_domain
from pillarbox.mail.catalogue import delivery, envelope
from pillarbox.mail.reply import Reply
from pillarbox.mail.route import Route, Transport
from pillarbox.mail.units import Settings
from pillarbox.policy.transports import Spec, UnsafeNameError, is_spec, parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EXPANSION = 10_000  # names looked at for one recipient


class DomainSettings(Settings, frozen=True):
    """One of our domains: `[domain."example.org"]`."""

    deliver: str = ""
    """Where its mailboxes lie, such as "maildir:/var/mail/{user}" or "lmtp:unix:/run/lmtp"; "" if all are aliases."""
    users: list[str] | Literal["*"] = "*"
    """The mailboxes that exist; "*" takes mail for every name."""
    aliases: dict[str, str | list[str]] = msgspec.field(default_factory=dict)
    """Names that stand for others: local parts, addresses elsewhere, or one way of their own such as "pipe:NAME"."""
    catch_all: str | None = None
    """Where mail for every other name goes, written like the value of an alias."""
    no_mail: bool = False
    """The domain takes no mail at all (RFC 7504)."""


class RouteSettings(Settings, frozen=True):
    """One `[[route]]` for domains that are not ours; the first that matches counts."""

    match: str
    """A domain, "*.example.org" for all below it, or "*"."""
    via: str
    """"mx", "smtp://host:port", "hold" and so on."""


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


@dataclass(frozen=True, slots=True)
class _Domain:
    """One of our domains, ready for look-ups."""

    name: str  # A-labels
    shown: str  # as configured, in lower case
    deliver: Spec | None
    everyone: bool  # each name is a mailbox
    users: frozenset[str]
    aliases: dict[str, str | list[str]]
    catch_all: str | None
    no_mail: bool


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a name of ours stands for: `values` of an alias, or a mailbox if there are none."""

    key: str  # the entry that was found: an alias, a user, or one of the two below
    tag: str
    values: tuple[str, ...] = ()


_CATCH_ALL = "@catch_all"  # no local part that is looked up begins like this
_POSTMASTER = "@postmaster"


class Directory:
    """Answers for our domains; one look-up costs the same however long the lists are."""

    def __init__(self, settings: DirectorySettings) -> None:
        """Raises ValueError, naming the key, for anything that could not work, loops of aliases included."""
        self._delimiters = settings.recipient_delimiter
        self._postmaster = settings.postmaster
        self._domains: dict[str, _Domain] = {}
        for name, domain in settings.domains.items():
            compiled = _compile_domain(name, domain)
            if compiled.name in self._domains:
                raise ValueError(f'domain."{name}": this domain is configured twice')
            self._domains[compiled.name] = compiled
        self._home = next((domain for domain in self._domains.values() if not domain.no_mail), None)
        self._routes = _RouteTable(settings.routes)
        self._check()

    def serves(self, domain: str) -> bool:
        """Whether a domain is one of ours."""
        return _dns_name(domain) in self._domains

    def resolve(self, address: Address) -> tuple[Target, ...] | Reply:
        """Everything that a recipient stands for, aliases expanded, or why it gets no mail. No I/O.

        An address of a domain that is not ours stands for itself; the bare postmaster for the one of our first domain.
        """
        domain = self._domain_of(address)
        if domain is None:
            return self._resolve_outside(address)
        if domain.no_mail:
            return envelope.DOMAIN_TAKES_NO_MAIL.reply()
        local = _fold(address.local)
        try:
            if (
                domain.everyone and not domain.aliases and not local.startswith("postmaster")
            ):  # the ordinary case
                return (Target(str(address), self._mailbox(domain, local, *self._split(local))),)
            return self._expand(domain, local, str(address) if address.domain else f"{local}@{domain.shown}")
        except UnsafeNameError as error:
            return delivery.MAILBOX_UNSAFE.reply(detail=error)

    def route(self, address: Address) -> Route:
        """The way of an address that is already expanded; the same at every attempt, unless the configuration changed.

        Mail for a name of ours that no longer has a way is held for the operator.
        """
        domain = self._domain_of(address)
        if domain is None:
            return (
                self._routes.find(address.dns_domain)
                if address.domain
                else self._resolve_outside(address)[0].route
            )
        local = _fold(address.local)
        meaning = self._look_up(domain, local)
        try:
            if meaning is not None and not domain.no_mail:
                own = next((value for value in meaning.values if is_spec(value)), None)
                if own is not None:
                    return parse_spec(own).fill(*self._split(local), domain.name, local)
                if not meaning.values or any(
                    _is_itself(domain, meaning.key, value) for value in meaning.values
                ):
                    return self._mailbox(domain, local, meaning.key, meaning.tag)
        except UnsafeNameError:
            pass
        return Route(Transport.HOLD)

    def hints(self) -> list[str]:
        """What an operator should know although it is no error."""
        found = []
        for domain in self._domains.values():
            if domain.everyone:
                found.append(
                    f"{domain.shown}: every name is taken for a mailbox; list `users` to refuse the others"
                )
            elif not domain.no_mail and self._look_up(domain, "abuse") is None:
                found.append(f"{domain.shown}: abuse@ does not exist, and others expect it (RFC 2142 4)")
        return found

    def _domain_of(self, address: Address) -> _Domain | None:
        return self._domains.get(address.dns_domain) if address.domain else self._home

    def _resolve_outside(self, address: Address) -> tuple[Target, ...]:
        """An address that is not ours, or the bare postmaster of a server that serves no domain."""
        if address.domain:
            return (Target(str(address), self._routes.find(address.dns_domain)),)
        if is_spec(self._postmaster):
            return (
                Target(
                    "postmaster",
                    parse_spec(self._postmaster).fill("postmaster", "", "localhost", "postmaster"),
                ),
            )
        if self._postmaster:
            return self._resolve_outside(parse_address(self._postmaster))
        return (Target("postmaster", Route(Transport.HOLD)),)

    def _split(self, local: str) -> tuple[str, str]:
        """User and tag."""
        places = [at for at in (local.find(delimiter, 1) for delimiter in self._delimiters) if at > 0]
        return (local[: min(places)], local[min(places) + 1 :]) if places else (local, "")

    def _mailbox(self, domain: _Domain, local: str, user: str, tag: str) -> Route:
        """The way into a mailbox. Raises UnsafeNameError."""
        assert domain.deliver is not None  # only such domains have mailboxes
        return domain.deliver.fill(user, tag, domain.name, local)

    def _look_up(self, domain: _Domain, local: str) -> _Meaning | None:
        """The entry for a name: as it is, without its tag, then what holds for every name; None if unknown."""
        user, tag = self._split(local)
        for name, rest in ((local, ""), (user, tag)):
            values = domain.aliases.get(name)
            if values is not None:
                return _Meaning(name, rest, (values,) if isinstance(values, str) else tuple(values))
            if name in domain.users:
                return _Meaning(name, rest)
        if user == "postmaster":
            elsewhere = self._postmaster and not _is_itself(domain, user, self._postmaster)
            return _Meaning(_POSTMASTER, tag, (self._postmaster,)) if elsewhere else _Meaning(user, tag)
        if domain.everyone:
            return _Meaning(user, tag)
        return _Meaning(_CATCH_ALL, tag, (domain.catch_all,)) if domain.catch_all is not None else None

    def _expand(self, first: _Domain, name: str, address: str) -> tuple[Target, ...] | Reply:
        """Follow aliases until only mailboxes and ways out are left. Raises UnsafeNameError."""
        found: dict[str, Target] = {}
        waiting = [(first, name, address)]
        seen = {(first.name, name)}
        for domain, local, shown in waiting:  # the list grows meanwhile
            meaning = self._look_up(domain, local)
            if meaning is None:
                return envelope.RECIPIENT_UNKNOWN.reply()
            for value in meaning.values or (meaning.key,):
                if _is_itself(domain, meaning.key, value):  # a mailbox, or an alias that keeps a copy
                    found[shown] = Target(shown, self._mailbox(domain, local, meaning.key, meaning.tag))
                elif is_spec(value):
                    found[shown] = Target(
                        shown, parse_spec(value).fill(*self._split(local), domain.name, local)
                    )
                else:
                    aim = self._aim(domain, value, meaning.tag)
                    if isinstance(aim, Target):
                        found.setdefault(aim.address, aim)
                    elif (aim[0].name, aim[1]) not in seen:
                        seen.add((aim[0].name, aim[1]))
                        waiting.append((*aim, str(Address(aim[1], aim[0].shown))))
            if len(seen) > MAX_EXPANSION:
                return delivery.TOO_MANY_EXPANSIONS.reply()
        return tuple(found.values())

    def _aim(self, domain: _Domain, value: str, tag: str) -> Target | tuple[_Domain, str]:
        """Where an alias's value points: out, or to a name of ours, which inherits the tag. Raises AddressError."""
        if "@" in value:
            address = parse_address(value)
            aimed = self._domains.get(address.dns_domain)
            if aimed is None:
                return Target(str(address), self._routes.find(address.dns_domain))
            return aimed, _fold(address.local)
        local = _fold(value)
        if tag and self._delimiters and self._split(local) == (local, ""):
            local += self._delimiters[0] + tag
        return domain, local

    def _check(self) -> None:
        """Refuse what could not work when mail comes."""
        chains: dict[tuple[str, str], list[tuple[str, str]]] = {}
        if (
            self._home is None
            and self._postmaster
            and not is_spec(self._postmaster)
            and "@" not in self._postmaster
        ):
            raise ValueError(
                "postmaster: with no domain of ours this must be a complete address or a way out"
            )
        for domain in self._domains.values():
            if domain.no_mail:
                continue
            if self._look_up(domain, "postmaster") == _Meaning(_POSTMASTER, "", (self._postmaster,)):
                self._check_entry(domain, _POSTMASTER, (self._postmaster,), "postmaster")
                chains[domain.name, _POSTMASTER] = self._next(domain, _POSTMASTER, (self._postmaster,))
            elif domain.deliver is None and self._look_up(domain, "postmaster") == _Meaning("postmaster", ""):
                raise ValueError(
                    f'domain."{domain.shown}": postmaster has no mailbox here; set `deliver` or `postmaster`'
                )
            for name, values in _entries(domain):
                self._check_entry(domain, name, values, _key(domain, name))
                following = self._next(domain, name, values)
                if following:
                    chains[domain.name, name] = following
        _refuse_loops(chains)

    def _check_entry(self, domain: _Domain, name: str, values: tuple[str, ...], key: str) -> None:
        """Refuse an alias that is empty, ill-formed, leads nowhere, or has two ways out of its own."""
        if not values:
            raise ValueError(f"{key}: names no recipient")
        if sum(is_spec(value) or _is_itself(domain, name, value) for value in values) > 1:
            # so that an address has one way, also at the next attempt
            raise ValueError(
                f"{key}: only one of its values may be a way out; give each other one an alias of its own"
            )
        for value in values:
            try:
                self._check_value(domain, name, value)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error

    def _check_value(self, domain: _Domain, name: str, value: str) -> None:
        if is_spec(value):
            parse_spec(value).fill("postmaster", "", domain.name, "postmaster")
            return
        if _is_itself(domain, name, value):
            if not self._has_mailbox(domain, name):
                raise ValueError(f'it leads to itself, and there is no user "{value}"')
            return
        aim = self._aim(domain, value, "")
        if isinstance(aim, Target):
            return
        if aim[0].no_mail:
            raise ValueError(f'"{value}": {aim[0].shown} takes no mail')
        if "@" not in value:
            parse_address(f"{value}@{aim[0].shown}")
        meaning = self._look_up(*aim)
        if meaning is None or (meaning.key == name == _CATCH_ALL and aim[0] is domain):
            raise ValueError(f'there is no user or alias "{value}"')

    def _has_mailbox(self, domain: _Domain, name: str) -> bool:
        return (
            name in domain.users or domain.everyone or (name == "postmaster" and domain.deliver is not None)
        )

    def _next(self, domain: _Domain, name: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
        """The aliases that an alias leads to."""
        following = []
        for value in values:
            aim = None if is_spec(value) or _is_itself(domain, name, value) else self._aim(domain, value, "")
            if isinstance(aim, tuple):
                meaning = self._look_up(*aim)
                if meaning is not None and meaning.values:
                    following.append((aim[0].name, meaning.key))
        return following


class _RouteTable:
    """The `[[route]]` list; finding the first that matches takes one look-up a label."""

    def __init__(self, settings: list[RouteSettings]) -> None:
        """Raises ValueError."""
        self._table: dict[str, tuple[int, Route | None]] = {}
        for number, setting in enumerate(settings):
            key = f"route {number + 1}"
            try:
                spec = parse_spec(setting.via)
                wild, domain = (
                    setting.match.startswith("*"),
                    setting.match.removeprefix("*").removeprefix("."),
                )
                pattern = f"{'*' if wild else ''}{'.' if wild and domain else ''}{_dns_name(parse_domain(domain)) if domain else ''}"
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
            if not setting.match or (wild and setting.match != "*" and not setting.match.startswith("*.")):
                raise ValueError(f'{key}: match = "{setting.match}" must be a domain, "*.domain" or "*"')
            if spec.segments and "{" in spec.route.target:
                raise ValueError(f"{key}: placeholders belong to mailboxes of our own domains")
            via = spec.fill("", "", "", "") if spec.route != Route(Transport.MX) else None
            self._table.setdefault(pattern, (number, via))

    def find(self, domain: str) -> Route:
        """The way for a domain in A-labels: the first that matches, else its mail exchangers."""
        candidates = [found for name in _patterns(domain) if (found := self._table.get(name)) is not None]
        _, route = min(candidates, key=lambda found: found[0], default=(0, None))
        return route if route is not None else Route(Transport.MX, domain)


def _patterns(domain: str) -> Iterator[str]:
    """All that may match a domain."""
    yield domain
    yield "*"
    if not domain.startswith("["):
        while "." in domain:
            domain = domain.partition(".")[2]
            yield f"*.{domain}"


def _compile_domain(name: str, settings: DomainSettings) -> _Domain:
    """Prepare one domain. Raises ValueError, naming the key."""
    key = f'domain."{name}"'
    try:
        shown = parse_domain(name)
    except AddressError as error:
        raise ValueError(f"{key}: {error}") from error
    try:
        deliver = parse_spec(settings.deliver) if settings.deliver else None
    except ValueError as error:
        raise ValueError(f"{key}.deliver: {error}") from error
    everyone = settings.users == "*" and deliver is not None
    if everyone and settings.catch_all is not None:
        raise ValueError(f'{key}.catch_all: it never applies while users = "*"')
    users = frozenset() if settings.users == "*" else frozenset(map(_fold, settings.users))
    if users and deliver is None:
        raise ValueError(f"{key}.users: there are users but no `deliver`")
    aliases = {_fold(alias): value for alias, value in settings.aliases.items()}
    if len(aliases) != len(settings.aliases):
        raise ValueError(f"{key}.aliases: two names differ only in case")
    domain_name = _dns_name(shown)
    for user in users:
        _check_name(f"{key}.users", user)
        try:
            assert deliver is not None  # checked above
            deliver.fill(user, "", domain_name, user)
        except UnsafeNameError as error:
            raise ValueError(f'{key}.users: "{user}" can\'t name a mailbox: {error}') from error
    for alias in aliases:
        _check_name(f"{key}.aliases", alias)
    return _Domain(
        domain_name, shown, deliver, everyone, users, aliases, settings.catch_all, settings.no_mail
    )


def _check_name(key: str, name: str) -> None:
    if not name or "@" in name:
        raise ValueError(f'{key}: write "{name}" as a local part, without "@" and the domain')


def _entries(domain: _Domain) -> Iterator[tuple[str, tuple[str, ...]]]:
    """All aliases of a domain with their values, the one for every other name included."""
    for name, values in domain.aliases.items():
        yield name, (values,) if isinstance(values, str) else tuple(values)
    if domain.catch_all is not None:
        yield _CATCH_ALL, (domain.catch_all,)


def _is_itself(domain: _Domain, name: str, value: str) -> bool:
    """Whether a value is the very name it is given for: that means the mailbox."""
    folded = _fold(value)
    return folded == name or folded in {f"{name}@{domain.name}", f"{name}@{domain.shown}"}


def _key(domain: _Domain, name: str) -> str:
    """How the configuration names an entry."""
    return f'domain."{domain.shown}".' + ("catch_all" if name == _CATCH_ALL else f'aliases."{name}"')


def _refuse_loops(chains: dict[tuple[str, str], list[tuple[str, str]]]) -> None:
    """Raise ValueError that shows the way round, if aliases lead back to themselves. Linear in their number."""
    done: set[tuple[str, str]] = set()
    for start in chains:
        path: dict[tuple[str, str], Iterator[tuple[str, str]]] = {}  # the names on the way here, in order
        entered = start
        while True:
            if entered in path:
                ring = [*list(path)[list(path).index(entered) :], entered]
                shown = " -> ".join(f"{name.lstrip('@')}@{domain}" for domain, name in ring)
                raise ValueError(f"aliases form a loop: {shown}")
            if entered not in done:
                path[entered] = iter(chains.get(entered, ()))
            while path:
                last = next(reversed(path))
                following = next(path[last], None)
                if following is not None:
                    break
                done.add(last)
                del path[last]
            if not path:
                break
            assert following is not None  # the inner loop ended on it
            entered = following


def _fold(local: str) -> str:
    """A local part of ours in the form in which it is compared: letter case does not matter."""
    return local.lower() if local.isascii() else unicodedata.normalize("NFC", local.casefold())


def _dns_name(domain: str) -> str:
    return domain if domain.isascii() else Address("", domain).dns_domain
