"""Look at what a configuration names on this machine, for what a server starts with all the same and yet should not have.

What of it keeps a server from starting is the business of `pillarbox check-config`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.config.checks import ways
from pillarbox.config.strict import Finding
from pillarbox.mail.units import approximate_size
from pillarbox.policy.map_files import MapFile
from pillarbox.policy.rules import Role
from pillarbox.policy.transports import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.config.settings import Config


def doubtful(config: Config, file: Path) -> Iterator[Finding]:
    """What is the matter with users, folders, files and modules that the configuration in `file` names."""
    if os.geteuid() == 0 and not config.user:
        yield Finding(
            ("user",), "started by root the server stays root", "name the user as whom it shall go on"
        )
    yield from _submission(config)
    yield from _data(config)
    secrets = config.relay.passwords or any(webhook.secret for webhook in config.webhooks.values())
    if secrets and _is_open(file):
        yield Finding((), "it holds passwords and everybody may read it", f"use: chmod 640 {file}")
    yield from _domains(config)
    yield from _functions(config)


def _is_open(file: Path) -> bool:
    """Whether everybody may read a file. One in a folder that is closed to us is not."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except PermissionError:
        return False


def is_module(name: str) -> bool:
    """Whether Python finds a module; those above it are imported for that."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def existing(folder: Path) -> Path:
    """The nearest folder to this one that there is."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def count_accounts(config: Config) -> int:
    """How many accounts of the configuration, the file of accounts and the store may log in."""
    import apsw  # noqa: PLC0415 - only where accounts are counted

    from pillarbox.config import ConfigError, load_accounts  # noqa: PLC0415 - it imports this module
    from pillarbox.policy.account_store import FILE, AccountError, AccountStore  # noqa: PLC0415 - as above

    accounts = dict(config.accounts)
    if config.accounts_file:
        with contextlib.suppress(ConfigError, OSError):  # what is wrong with it is told elsewhere
            accounts |= load_accounts(config.accounts_file)
    names = {name.lower() for name, account in accounts.items() if account.enabled}
    file = Path(config.data) / FILE
    if file.exists():
        try:
            store = AccountStore(file)
        except (AccountError, apsw.Error, OSError):
            return len(names)
        names |= {account.name for account in store.listed() if account.enabled}
        store.close()
    return len(names)


def _submission(config: Config) -> Iterator[Finding]:
    """A listener for users who log in, and nobody who could."""
    roles = [listener.role for listener in config.listen]
    elsewhere = config.sql_accounts.url or config.ldap.url or config.oidc.issuer
    if Role.SUBMISSION in roles and not elsewhere and not count_accounts(config):
        yield Finding(
            ("listen", roles.index(Role.SUBMISSION)),
            'role = "submission", but no account may log in',
            "use: pillarbox user add NAME",
        )


def _data(config: Config) -> Iterator[Finding]:
    folder = Path(config.data)
    if folder.exists() and folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(
            ("data",), f"others may look into {folder}, where the mail lies", f"use: chmod 700 {folder}"
        )
    disk = os.statvfs(existing(folder))
    size = disk.f_blocks * disk.f_frsize
    if config.limits.min_free_octets > size:
        yield Finding(
            ("limits", "min_free"),
            f"the disk of {folder} has {approximate_size(size)} in all, so all mail is put off",
            "write less",
        )


def _domains(config: Config) -> Iterator[Finding]:
    """What makes a domain put its mail off; the server starts all the same, and serves the others."""
    for name, domain in config.domains.items():
        path = ("domain", name)
        for setting, file in (("users_file", domain.users_file), ("aliases_file", domain.aliases_file)):
            if not file:
                continue
            try:
                MapFile(file, name, aliases=setting == "aliases_file").check()
            except OSError as error:
                yield Finding(
                    (*path, setting), f"{file} cannot be read: {error.strerror}; mail is put off without it"
                )
            except ValueError as error:
                yield Finding((*path, setting), f"{file}: {error}; mail is put off until it is correct")
        root = Path(parse_spec(domain.deliver).root) if domain.deliver else Path()
        if not root.is_dir():
            yield Finding(
                (*path, "deliver"), f"{root} is no folder", "make it, and give it to the server's user"
            )


def _functions(config: Config) -> Iterator[Finding]:
    """Functions that mail is to be handed to, and Python does not find."""
    for path, value in ways(config):
        transport, _, target = value.partition(":")
        module = target.partition(":")[0]
        if transport == "python" and not is_module(module):
            yield Finding(path, f'there is no Python module "{module}"; its mail waits until there is one')
