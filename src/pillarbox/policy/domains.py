"""Read what a configuration says about our domains, and make it ready for look-ups.

What a name stands for is found by `policy.names`; whether all names lead somewhere is seen to by `policy.alias_checks`.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from pillarbox.mail.address import Address, AddressError, parse_domain
from pillarbox.mail.units import Settings
from pillarbox.policy.transports import Spec, UnsafeNameError, parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

CATCH_ALL = "@catch_all"  # no local part that is looked up begins like this
POSTMASTER = "@postmaster"


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


@dataclass(frozen=True, slots=True)
class Domain:
    """One of our domains, ready for look-ups."""

    name: str  # A-labels
    shown: str  # as configured, in lower case
    deliver: Spec | None
    everyone: bool  # each name is a mailbox
    users: frozenset[str]
    aliases: dict[str, str | list[str]]
    catch_all: str | None
    no_mail: bool


def compile_domain(name: str, settings: DomainSettings) -> Domain:
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
    users = frozenset() if settings.users == "*" else frozenset(map(fold, settings.users))
    if users and deliver is None:
        raise ValueError(f"{key}.users: there are users but no `deliver`")
    aliases = {fold(alias): value for alias, value in settings.aliases.items()}
    if len(aliases) != len(settings.aliases):
        raise ValueError(f"{key}.aliases: two names differ only in case")
    domain_name = dns_name(shown)
    for user in users:
        _check_name(f"{key}.users", user)
        try:
            assert deliver is not None  # checked above
            deliver.fill(user, "", domain_name, user)
        except UnsafeNameError as error:
            raise ValueError(f'{key}.users: "{user}" can\'t name a mailbox: {error}') from error
    for alias in aliases:
        _check_name(f"{key}.aliases", alias)
    return Domain(domain_name, shown, deliver, everyone, users, aliases, settings.catch_all, settings.no_mail)


def _check_name(key: str, name: str) -> None:
    if not name or "@" in name:
        raise ValueError(f'{key}: write "{name}" as a local part, without "@" and the domain')


def entries(domain: Domain) -> Iterator[tuple[str, tuple[str, ...]]]:
    """All aliases of a domain with their values, the one for every other name included."""
    for name, values in domain.aliases.items():
        yield name, (values,) if isinstance(values, str) else tuple(values)
    if domain.catch_all is not None:
        yield CATCH_ALL, (domain.catch_all,)


def is_itself(domain: Domain, name: str, value: str) -> bool:
    """Whether a value is the very name it is given for: that means the mailbox."""
    folded = fold(value)
    return folded == name or folded in {f"{name}@{domain.name}", f"{name}@{domain.shown}"}


def fold(local: str) -> str:
    """A local part of ours in the form in which it is compared: letter case does not matter."""
    return local.lower() if local.isascii() else unicodedata.normalize("NFC", local.casefold())


def dns_name(domain: str) -> str:
    """A domain in A-labels."""
    return domain if domain.isascii() else Address("", domain).dns_domain
