"""Build what decides about mail from a configuration: directories, accounts, rules and hooks; a reload replaces it as a whole.

Connecting it with the rest of a worker is the business of `service`.
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from pillarbox.config import ConfigError, load_accounts
from pillarbox.config.certificates import certificates_of
from pillarbox.inbound.report_office import ReportOffice
from pillarbox.net.handshakes import Handshakes
from pillarbox.net.listener import means_us
from pillarbox.net.resolver import Resolver
from pillarbox.policy.account import Source
from pillarbox.policy.account_store import FILE, StoredAccounts
from pillarbox.policy.accounts import Accounts, AccountSettings, ConfigAccounts, Tokens
from pillarbox.policy.asked_names import AskedNames
from pillarbox.policy.checks import Tools, line_up
from pillarbox.policy.directory import Directory
from pillarbox.policy.domain_store import StoredNames
from pillarbox.policy.forwarding import Forwarding, load_keys
from pillarbox.policy.guard import Guard
from pillarbox.policy.harvest import Harvest
from pillarbox.policy.hooks import Hooks
from pillarbox.policy.known_names import KnownNames
from pillarbox.policy.memory import Memory
from pillarbox.policy.origin_settings import KEYS_FOLDER
from pillarbox.policy.proxies import Proxies
from pillarbox.policy.rules import Role, Rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillarbox.config import Config
    from pillarbox.inbound.origin import OriginChecks
    from pillarbox.policy.account_file import FileAccounts
    from pillarbox.policy.forwarding import FindSender
    from pillarbox.policy.next_hop import Probe
    from pillarbox.policy.signing import SigningKeys


def get_tools(
    config: Config,
    resolver: Resolver,
    memory: Memory,
    probe: Probe | None = None,
    find_sender: FindSender | None = None,
) -> Tools:
    """What the checks of a configuration work with; nothing is opened before a check asks."""
    tools = Tools(
        config.hostname,
        Path(config.data),
        resolver.lookup,
        memory,
        probe=probe,
        recall=resolver.recall,
        find_sender=find_sender,
    )
    scanner = config.scanner
    if not scanner.clamd and not scanner.rspamd:
        return tools
    from pillarbox.net.scanners import Clamd, Rspamd  # noqa: PLC0415 - it costs start-up time

    return replace(
        tools,
        find_virus=Clamd(scanner.clamd, scanner.limit_s).find_virus if scanner.clamd else None,
        give_score=Rspamd(scanner.rspamd, scanner.limit_s).score if scanner.rspamd else None,
    )


class Policy:
    """What a reload replaces as a whole: directory, accounts, rules and hooks.

    Sessions that are open follow at their next command. The threads of one that is replaced end with its last decision.
    """

    def __init__(
        self,
        config: Config,
        tools: Tools,
        plugins: Sequence[object] = (),
        reports: ReportOffice | None = None,
    ) -> None:
        """`reports` counts what is told of. Raises ValueError or ImportError for what can't work."""
        known = KnownNames({"configuration": config.accounts})
        self._kept = _Kept(config, known)
        self.directory = Directory(config.directory, known=known, asked=self._kept.asked)
        if config.srs.rewrite:
            keys = load_keys(Path(config.data))
            self.directory.forward(Forwarding(keys, self.directory.serves, tools.find_sender))
        self.directory.read_files()
        # A sandbox serves no domain: mail for those that commands keep is held like all other.
        self._stored = None if config.is_sandbox else StoredNames(Path(config.data) / FILE, self.directory)
        if self._stored is not None:
            self._stored.take(self._stored.read())
        self.accounts = _accounts(config, self._kept, tools.memory)
        self.rules = Rules(config.policy, self.directory, partial(means_us, hostname=config.hostname))
        plugins = [*map(_import_hooks, config.hooks), *plugins]
        checks = list(line_up(config.checks, self.directory, tools, plugins))
        self.harvest = next((check for check in checks if isinstance(check, Harvest)), None)
        self.hooks = Hooks(
            checks,
            hostname=config.hostname,
            limit_s=config.hook.limit_s,
            on_error=config.hook.on_error,
        )
        self.origin = _origin_checks(config, tools, reports)
        self.keys = _signing_keys(config)
        self.handshakes = Handshakes(config.tls.max_handshakes)
        self.proxies = Proxies(config.proxy)

    async def close(self) -> None:
        """Let threads and connections go."""
        await self.accounts.close()
        await self._kept.close()

    async def keep_fresh(self) -> None:
        """Have what is kept in memory read again if it was changed."""
        if self._stored is not None and self._stored.changed():
            self._stored.take(await asyncio.to_thread(self._stored.read))
        if self._kept.file is not None and self._kept.file.changed():
            await asyncio.to_thread(self._kept.file.refresh)


def try_policy(config: Config) -> None:
    """Build what a worker would. Raises ValueError or ImportError for what can't work."""
    Policy(config, get_tools(config, Resolver(config.dns), Memory(Path(config.data))))
    certificates_of(config).load_all()


class _Kept:
    """The directories that know of accounts and of mailboxes, beside the configuration and `accounts.db`."""

    def __init__(self, config: Config, known: KnownNames) -> None:
        """Raises ValueError or ImportError."""
        self.file: FileAccounts | None = None
        self.sources: list[Source] = []
        self._elsewhere: list[Source] = []
        self.asked: dict[str, AskedNames] = {}
        if config.accounts_file:
            self.file = _file_accounts(Path(config.accounts_file), known)
            self.sources.append(self.file)
        if config.sql_accounts.url:
            sql = _extra("postgres", "policy.account_sql").SqlAccounts(config.sql_accounts)
            if config.sql_accounts.query:
                self.sources.append(sql)
            if config.sql_accounts.mailbox_query:
                self.asked["sql"] = AskedNames("sql", sql.mailbox)
            self._elsewhere.append(sql)
        if config.ldap.url:
            from pillarbox.net.ldap import LdapDirectory  # noqa: PLC0415 - few servers need it
            from pillarbox.policy.account_ldap import LdapAccounts  # noqa: PLC0415

            ldap = LdapAccounts(config.ldap, LdapDirectory(config.ldap))
            if config.ldap.account_filter:
                self.sources.append(ldap)
            if config.ldap.mailbox_filter:
                self.asked["ldap"] = AskedNames("ldap", ldap.mailbox)
            self._elsewhere.append(ldap)

    async def close(self) -> None:
        """Let connections to other hosts go."""
        for source in self._elsewhere:
            await source.close()


def _file_accounts(file: Path, known: KnownNames) -> FileAccounts:
    """Raises ValueError."""
    from pillarbox.policy.account_file import FileAccounts  # noqa: PLC0415 - few servers need it

    try:
        return FileAccounts(file, read_accounts, known)
    except OSError as error:
        raise ValueError(f"accounts_file: {file} cannot be read: {error.strerror}") from error


def read_accounts(file: Path) -> Mapping[str, AccountSettings]:
    """The accounts of a file. Raises OSError or ValueError."""
    try:
        return load_accounts(file)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _accounts(config: Config, kept: _Kept, memory: Memory) -> Accounts:
    """All directories of accounts. The key is something secret that all workers know and that stays the same."""
    sources: list[Source] = [ConfigAccounts(config.accounts)] if config.accounts else []
    key = "".join(account.password for account in config.accounts.values()).encode()
    file = Path(config.data) / FILE
    if file.exists() or any(listener.role is Role.SUBMISSION for listener in config.listen):
        stored = StoredAccounts(file, config.auth.mechanisms)
        sources.append(stored)
        if file.exists() or kept.sources:  # all workers need the same, whose accounts they may be
            key += stored.key()
    sources += kept.sources
    return Accounts(
        sources,
        config.auth,
        tokens=_tokens(config),
        guard=Guard(memory, config.auth.max_delay_s),
        key=key or secrets.token_bytes(32),
    )


def _tokens(config: Config) -> Tokens | None:
    """What checks tokens, if there is a provider. Raises ImportError without the library for it."""
    return _extra("oidc", "policy.tokens").OidcTokens(config.oidc) if config.oidc.issuer else None


def _extra(extra: str, module: str) -> Any:
    """A module of ours that needs more software. Raises ImportError, which names what to install."""
    try:
        return importlib.import_module(f"pillarbox.{module}")
    except ImportError as error:
        raise ImportError(
            f"more software is needed: pip install 'pillarbox[{extra}]' ({error.name})"
        ) from error


def _origin_checks(config: Config, tools: Tools, reports: ReportOffice | None) -> OriginChecks | None:
    """The checks of who really sent a message; None if none is on, so that they cost nothing."""
    if not any(one.check for one in (config.spf, config.dkim, config.dmarc, config.arc, config.reverse_dns)):
        return None
    from pillarbox.inbound.origin import OriginChecks, find_organization  # noqa: PLC0415 - it costs start-up time
    from pillarbox.policy.origin import OriginPolicy  # noqa: PLC0415 - the same

    policy = OriginPolicy(config.spf, config.dkim, config.dmarc, config.arc, iprev=config.reverse_dns.check)
    organization = find_organization(config.dmarc.organization)
    return OriginChecks(
        policy,
        tools.lookup,
        recall=tools.recall,
        hostname=config.hostname,
        organization=organization,
        count=reports.counting(config.reports, suffixes=organization is not None)
        if reports is not None
        else None,
    )


def _signing_keys(config: Config) -> SigningKeys | None:
    """The keys to sign with; None if there is none, so that it costs nothing. Raises SigningError."""
    folder = Path(config.data) / KEYS_FOLDER
    if not (config.dkim.sign and folder.is_dir()):
        return None
    from pillarbox.policy.signing import SigningKeys  # noqa: PLC0415 - it costs start-up time

    return SigningKeys(folder) or None


def _import_hooks(name: str) -> object:
    """A module with hooks. Raises ImportError whatever it is that keeps it from being imported."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ImportError(f"hooks: {name} cannot be imported: {type(error).__name__}: {error}") from error
