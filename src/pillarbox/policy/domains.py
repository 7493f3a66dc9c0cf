"""Read what a configuration says about our domains, and make it ready for look-ups.

What a name stands for is found by `policy.names`; whether all names lead somewhere is seen to by `policy.alias_checks`.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from pillarbox.mail.address import Address, AddressError, parse_domain
from pillarbox.mail.route import Transport
from pillarbox.mail.units import Octets, Rate, Seconds, Settings
from pillarbox.policy.map_files import MapFile
from pillarbox.policy.transports import Spec, UnsafeNameError, parse_spec
from pillarbox.policy.users import (
    ForwardSettings,
    ListSettings,
    Mailbox,
    MailingList,
    MovedSettings,
    Quota,
    QuotaSettings,
    State,
    UserSettings,
    check_user,
    compile_list,
    timestamp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CATCH_ALL = "@catch_all"  # no local part that is looked up begins like this
POSTMASTER = "@postmaster"


StsMode: TypeAlias = Literal["off", "none", "testing", "enforce"]


class StsSettings(Settings, frozen=True):
    """The MTA-STS policy of one of our domains: `[domain."example.org".mta_sts]`. A listener with `role = "policy"` serves it."""

    mode: StsMode = "off"
    """"off" publishes nothing; "testing" asks others to report what would fail, "enforce" to keep mail from hosts that do
    not meet the policy; "none" takes a policy back, and has to be served as long as `max_age` of the one before."""
    mx: tuple[str, ...] = ()
    """Hosts that take mail for the domain, such as "mx1.example.org" or "*.example.org"; `hostname` if none are given."""
    max_age_s: Seconds = Seconds(604800)
    """How long others may go by it without asking again."""


class DomainSettings(Settings, frozen=True):
    """One of our domains: `[domain."example.org"]`."""

    deliver: str = ""
    """Where its mailboxes lie, such as "maildir:/var/mail/{user}" or "lmtp:unix:/run/lmtp"; "" if all are aliases."""
    users: list[str] | Literal["*"] = "*"
    """The mailboxes that exist; "*" takes mail for every name."""
    user: dict[str, UserSettings] = msgspec.field(default_factory=dict)
    aliases: dict[str, str | list[str]] = msgspec.field(default_factory=dict)
    """Names that stand for others: local parts, addresses elsewhere, or one way of their own such as "pipe:NAME"."""
    lists: dict[str, ListSettings] = msgspec.field(default_factory=dict, name="list")
    catch_all: str | None = None
    """Where mail for every other name goes, written like the value of an alias."""
    no_mail: bool = False
    """The domain takes no mail at all (RFC 7504)."""
    since: dt.datetime | None = None
    """When the domain became yours, such as 2019-05-31T00:00:00Z; who wants only an owner before that is refused (RFC 7293)."""
    users_from: tuple[Literal["accounts", "sql", "ldap"], ...] = ()
    """Where more mailboxes are found: "accounts" are the accounts that are named like addresses of the domain, "sql" asks
    `sql_accounts.mailbox_query`, "ldap" `ldap.mailbox_filter`; while one does not answer, mail is put off likewise."""
    users_file: str = ""
    """A file with more mailboxes, one a line; while it can't be read, mail for names that stand nowhere else is put off."""
    aliases_file: str = ""
    """A file with more aliases, such as "sales: ann, bob@example.net"; while it is broken, mail is put off likewise."""
    verify_recipients: bool = False
    """Ask the host that `deliver` names, by SMTP or LMTP, about each recipient before mail is taken."""
    rate: Rate | None = None
    """How much each mailbox gets, such as "100/h"; more is put off (450)."""
    max_message_octets: Octets = Octets(0)
    """The biggest message that each mailbox takes; 0 for as big as the server does."""
    quota: QuotaSettings = QuotaSettings()
    forward: ForwardSettings = ForwardSettings()
    mta_sts: StsSettings = StsSettings()
    moved: MovedSettings = MovedSettings()


class Domain(msgspec.Struct, frozen=True):
    """One of our domains, ready for look-ups."""

    name: str  # A-labels
    shown: str  # as configured, in lower case
    settings: DomainSettings
    deliver: Spec | None
    everyone: bool  # each name is a mailbox
    users: frozenset[str]
    aliases: dict[str, str | list[str]]
    lists: dict[str, MailingList]
    particulars: dict[str, UserSettings]
    same_for_all: UserSettings | None  # what holds for users without particulars, if anything does
    catch_all: str | None
    no_mail: bool
    files: tuple[MapFile, ...]
    nothing_but_names: bool  # each name is a mailbox, and there is no more to know
    by_account: bool  # accounts named like addresses of the domain are mailboxes
    asked: tuple[str, ...]  # the directories on other hosts that know of more names

    @property
    def may_know_more(self) -> bool:
        """Whether there may be users and aliases that do not stand here."""
        return bool(self.files or self.settings.users_from)

    @property
    def plain(self) -> bool:
        """Whether names are all that there is to know."""
        return not (self.lists or self.particulars or self.same_for_all is not None)

    @property
    def has_rates(self) -> bool:
        """Whether it is counted how much a mailbox gets."""
        return self.settings.rate is not None or any(user.rate for user in self.particulars.values())

    @property
    def has_limits(self) -> bool:
        """Whether a mailbox may be too full for a message, or a message too big for it."""
        settings, quota = self.settings, self.settings.quota
        return bool(settings.max_message_octets or quota.size_octets or quota.messages) or any(
            user.quota_octets or user.max_message_octets for user in self.particulars.values()
        )

    def mailbox(self, name: str) -> Mailbox | None:
        """What is known of a user; None if nothing but the name. Raises UnsafeNameError."""
        user = self.particulars.get(name, self.same_for_all)
        if user is None:
            return None
        settings = self.settings
        alone = len(user.forward) == 1 and not user.keep_copy and "@" in user.forward[0]
        biggest = user.max_message_octets
        return Mailbox(
            f"{name}@{self.shown}",
            user.state,
            user.moved_to,
            settings.moved.mode,
            user.forward[0] if alone else "",
            settings.forward.reveal,
            timestamp(user.since),
            settings.max_message_octets if biggest is None else biggest,
            user.rate or settings.rate,
            self._quota(name, user),
        )

    def _quota(self, name: str, user: UserSettings) -> Quota | None:
        quota = self.settings.quota
        size = quota.size_octets if user.quota_octets is None else user.quota_octets
        if not (size or quota.messages) or self.deliver is None:
            return None
        home = self.deliver.fill(name, "", self.name, name).target
        return Quota(home, size, quota.messages, quota.slack_octets, quota.overflow, quota.grace_s)


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
    asks = settings.users_file or settings.users_from
    everyone = settings.users == "*" and deliver is not None and not asks
    if everyone and settings.catch_all is not None:
        raise ValueError(f'{key}.catch_all: it never applies while users = "*"')
    particulars = {fold(user): found for user, found in settings.user.items()}
    listed = frozenset() if settings.users == "*" else frozenset(map(fold, settings.users))
    users = listed | particulars.keys()
    files = _files(key, shown, settings)
    domain = Domain(
        dns_name(shown),
        shown,
        settings,
        deliver,
        everyone,
        users,
        {fold(alias): value for alias, value in settings.aliases.items()},
        {},
        particulars,
        UserSettings() if _limits_all(settings) else None,
        settings.catch_all,
        settings.no_mail,
        files,
        everyone
        and not (settings.aliases or particulars or settings.lists or files or _limits_all(settings)),
        "accounts" in settings.users_from,
        tuple(name for name in settings.users_from if name != "accounts"),
    )
    _check_users(key, domain, listed)
    _check_quota(key, domain)
    _add_forwards(key, domain)
    _add_lists(key, domain)
    return domain


def _files(key: str, shown: str, settings: DomainSettings) -> tuple[MapFile, ...]:
    """The files of a domain, in the order in which they are asked."""
    files = []
    for name, path in (("aliases_file", settings.aliases_file), ("users_file", settings.users_file)):
        if path and not path.startswith("/"):
            raise ValueError(f"{key}.{name}: must be an absolute path")
        if path:
            files.append(MapFile(path, shown, aliases=name == "aliases_file"))
    for name in ("users_file", "users_from"):
        if getattr(settings, name) and not settings.deliver:
            raise ValueError(f"{key}.{name}: there are users but no `deliver`")
    return tuple(files)


def _limits_all(settings: DomainSettings) -> bool:
    quota = settings.quota
    return bool(settings.max_message_octets or settings.rate or quota.size_octets or quota.messages)


def _check_users(key: str, domain: Domain, listed: frozenset[str]) -> None:
    """Refuse users who could not get mail."""
    if listed and domain.deliver is None:
        raise ValueError(f"{key}.users: there are users but no `deliver`")
    if len(domain.particulars) != len(domain.settings.user):
        raise ValueError(f"{key}.user: two names differ only in case")
    if len(domain.aliases) != len(domain.settings.aliases):
        raise ValueError(f"{key}.aliases: two names differ only in case")
    for user in domain.users:
        here = f'{key}.user."{user}"' if user in domain.particulars else f"{key}.users"
        _check_name(here, user)
        found = domain.particulars.get(user, UserSettings())
        try:
            check_user(found)
        except ValueError as error:
            raise ValueError(f"{here}.{error}") from error
        if domain.deliver is None:
            if found.keep_copy or (found.state is State.ACTIVE and not found.forward):
                raise ValueError(f"{here}: has a mailbox, but there is no `deliver`")
            continue
        try:
            domain.deliver.fill(user, "", domain.name, user)
        except UnsafeNameError as error:
            raise ValueError(f'{here}: "{user}" can\'t name a mailbox: {error}') from error
    for alias in domain.aliases:
        _check_name(f"{key}.aliases", alias)


def _check_quota(key: str, domain: Domain) -> None:
    """A quota needs a Maildir of ours, and one Maildir++ mailbox for each user, whatever the tag."""
    quota = domain.settings.quota
    wanted = (
        quota.size_octets or quota.messages or any(one.quota_octets for one in domain.particulars.values())
    )
    if not wanted:
        return
    if domain.deliver is None or domain.deliver.route.transport is not Transport.MAILDIR:
        raise ValueError(f'{key}.quota: is kept only where deliver = "maildir:..."')
    plain = domain.deliver.fill("u", "", domain.name, "u").target
    tagged = domain.deliver.fill("u", "t", domain.name, "u+t").target
    if tagged not in {plain, f"{plain}/.t"} or plain == domain.deliver.fill("v", "", domain.name, "v").target:
        raise ValueError(
            f"{key}.quota: each user needs a mailbox of his own, with tags as its folders; "
            'write deliver = "maildir:.../{user}" or "maildir:.../{user}/.{tag}"'
        )


def _add_forwards(key: str, domain: Domain) -> None:
    """A user whose mail is forwarded is an alias too."""
    for name, user in domain.particulars.items():
        if not user.forward:
            continue
        if name in domain.aliases:
            raise ValueError(f'{key}.user."{name}".forward: there is an alias of that name already')
        domain.aliases[name] = [*user.forward, *([name] if user.keep_copy else [])]


def _add_lists(key: str, domain: Domain) -> None:
    """A list is an alias too."""
    for written, settings in domain.settings.lists.items():
        name, here = fold(written), f'{key}.list."{written}"'
        _check_name(here, name)
        if name in domain.aliases or name in domain.users:
            raise ValueError(f"{here}: there is a user or an alias of that name already")
        domain.aliases[name] = settings.members
        members = (member if "@" in member else f"{member}@{domain.shown}" for member in settings.members)
        try:
            domain.lists[name] = compile_list(
                settings, f"{name}@{domain.shown}", frozenset(map(fold, members))
            )
        except ValueError as error:
            raise ValueError(f"{here}.{error}") from error


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
