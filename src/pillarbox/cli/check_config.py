"""Check a configuration before the server meets it: the file itself, and what it names on this machine.

The form and sense of the settings is the business of `config`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.places import CONFIG_FILE, CONFIG_VARIABLE
from pillarbox.cli.show import count, fail, show_json
from pillarbox.observe import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.config import Config, Problem
    from pillarbox.policy.domains import DomainSettings


@click.command()
@click.argument(
    "file",
    type=click.Path(path_type=Path),
    envvar=CONFIG_VARIABLE,
    default=Path(CONFIG_FILE),
    metavar="[FILE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(file: Path, *, as_json: bool) -> None:
    """Check FILE, and that what it names can be used by whoever runs this: best run as the server's user.

    Exit status: 0 usable, warnings or not; 66 it cannot be read; 78 it is wrong.
    """
    from pillarbox.config import ConfigError, load
    from pillarbox.config.checks import unused

    try:
        config = load(file)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", Exit.NO_INPUT)
    except ConfigError as error:
        _report(error.problems, [], [], as_json=as_json)
        sys.exit(Exit.CONFIG)
    problems = list(_problems(config, str(file)))
    warnings = [*unused(config), *_warnings(config, file), *_domain_warnings(config), *_way_warnings(config)]
    _report(problems, warnings, list(_summary(config)), as_json=as_json)
    sys.exit(Exit.CONFIG if problems else Exit.OK)


def _report(
    problems: list[Problem] | tuple[Problem, ...], warnings: list[str], summary: list[str], *, as_json: bool
) -> None:
    if as_json:
        import msgspec

        found = [msgspec.to_builtins(problem) for problem in problems]
        show_json({"usable": not problems, "problems": found, "warnings": warnings, "summary": summary})
        return
    for problem in problems:
        click.echo(visible(str(problem)), err=True)
    for warning in warnings:
        click.echo(f"warning: {visible(warning)}", err=True)
    if not problems:
        click.echo("The configuration is sound.")
        for line in summary:
            click.echo(f"  {visible(line)}")


# --- what the file names on this machine


def _problems(config: Config, file: str) -> Iterator[Problem]:
    """What would keep the server from starting here, as far as it can be seen without starting it."""
    from pillarbox.config import Problem
    from pillarbox.config.source import find_lines, format_key

    lines = {format_key(path): line for path, line in find_lines(Path(file).read_text("utf-8")).items()}
    found = (
        *_certificates(config),
        *_files(config),
        *_addresses(config),
        *_data(config),
        *_user(config),
        *_signing_keys(config),
    )
    for key, problem, advice in found:
        yield Problem(file, lines.get(key, 0), key, problem, advice)


def _certificates(config: Config) -> Iterator[tuple[str, str, str]]:
    from pillarbox.config.certificates import certificates_of
    from pillarbox.net.certificates import moment
    from pillarbox.net.chains import ChainError, read_authorities, read_chain

    if config.tls.client_ca:
        try:
            read_authorities(config.tls.client_ca)
        except ChainError as error:
            yield error.setting, f"{error.file} {error.reason}", ""
    for source in certificates_of(config).sources:
        if source.setting == "tls.self_signed" or not (source.expected or Path(source.chain).exists()):
            continue
        try:
            chain = read_chain(source)
        except ChainError as error:
            yield error.setting, f"{error.file} {error.reason}", ""
            continue
        now = time.time()
        if chain.expires <= now:
            yield (
                source.setting,
                f"the certificate in {source.chain} ended {moment(chain.expires)}",
                "renew it",
            )
        elif chain.begins > now:
            yield source.setting, f"the certificate in {source.chain} begins {moment(chain.begins)}", ""
        if Path(source.files[-1]).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            yield (
                source.key_setting or source.setting,
                f"everybody may read or change the private key in {source.files[-1]}",
                f"use: chmod 600 {source.files[-1]}",
            )


def _files(config: Config) -> Iterator[tuple[str, str, str]]:
    from pillarbox.config.source import format_key

    for key, path in (
        ("relay.ca_file", config.relay.ca_file),
        ("acme.ca_file", config.acme.ca_file),
        ("acme.eab_key_file", config.acme.eab_key_file),
        ("ldap.ca_file", config.ldap.ca_file),
        ("ldap.password_file", config.ldap.password_file),
    ):
        if path and not os.access(path, os.R_OK):
            yield key, f"{path} cannot be read", "check that it exists and who may read it"
    yield from _accounts_file(config)
    for name, program in config.programs.items():
        if not os.access(program.command[0], os.X_OK):
            key = format_key(("program", name, "command"))
            yield key, f"{program.command[0]} cannot be run", "check its path and mode"
    for name, webhook in config.webhooks.items():
        if webhook.ca_file and not os.access(webhook.ca_file, os.R_OK):
            yield format_key(("webhook", name, "ca_file")), f"{webhook.ca_file} cannot be read", ""
    for hook in config.hooks:
        if not _is_module(hook):
            yield "hooks", f"there is no Python module {hook!r}", "check PYTHONPATH"


def _is_module(name: str) -> bool:
    """Whether Python finds a module; those above it are imported for that."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _addresses(config: Config) -> Iterator[tuple[str, str, str]]:
    """Addresses must be ones of this machine; whether a port is free shows when the server starts."""
    from pillarbox.config.checks import split_address

    named = [(f"listen[{number}].address", one.address) for number, one in enumerate(config.listen, 1)]
    if config.console.address:
        named.append(("console.address", config.console.address))
    if config.acme.directory:
        named.append(("acme.address", config.acme.listens_on))
    for key, address in named:
        host, _port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family) as sock:
                sock.bind((host, 0))
        except OSError as error:
            yield (
                key,
                f"{address} cannot be listened on: {error.strerror or error}",
                "name an address of this machine",
            )


def _data(config: Config) -> Iterator[tuple[str, str, str]]:
    folder = Path(config.data)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if folder.exists() and not folder.is_dir():
        yield "data", f"{folder} is no folder", ""
    elif not os.access(nearest, os.W_OK | os.X_OK):
        yield "data", f"{nearest} may not be written to", "change its owner to the server's user"
    elif folder.exists() and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield "data", f"others may write to {folder}", f"use: chmod go-w {folder}"


def _signing_keys(config: Config) -> Iterator[tuple[str, str, str]]:
    from pillarbox.policy.signing import SigningError, keys_folder, stored_keys

    try:
        stored_keys(keys_folder(Path(config.data)))
    except SigningError as error:
        yield "data", str(error), ""
    except OSError as error:
        yield "data", f"{error.filename} cannot be looked into: {error.strerror}", "change its owner"


def _user(config: Config) -> Iterator[tuple[str, str, str]]:
    if config.user:
        try:
            pwd.getpwnam(config.user)
        except KeyError:
            yield "user", f"this machine has no user {config.user!r}", f"use: useradd --system {config.user}"


def _warnings(config: Config, file: Path) -> Iterator[str]:
    if os.geteuid() == 0 and not config.user:
        yield "user: started by root the server stays root; name the user as whom it shall go on"
    elsewhere = config.sql_accounts.url or config.ldap.url or config.oidc.issuer
    submission = any(listener.role.value == "submission" for listener in config.listen)
    if submission and not elsewhere and not _count_accounts(config):
        yield 'a listener has role = "submission", but no account may log in; use: pillarbox user add NAME'
    folder = Path(config.data)
    if folder.exists() and folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield f"data: others may look into {folder}, where the mail lies; chmod 700 it"
    secrets = config.relay.passwords or any(webhook.secret for webhook in config.webhooks.values())
    if secrets and file.stat().st_mode & stat.S_IROTH:
        yield f"{file} holds passwords and everybody may read it; chmod 640 it"


def _accounts_file(config: Config) -> Iterator[tuple[str, str, str]]:
    from pillarbox.config import ConfigError, load_accounts

    if not config.accounts_file:
        return
    try:
        load_accounts(config.accounts_file)
    except OSError as error:
        yield "accounts_file", f"{config.accounts_file} cannot be read: {error.strerror}", ""
    except ConfigError as error:
        for problem in error.problems:
            yield "accounts_file", str(problem), ""


def _domain_warnings(config: Config) -> Iterator[str]:
    """What makes a domain put its mail off; the server starts all the same, and serves the others."""
    from pillarbox.policy.map_files import MapFile
    from pillarbox.policy.transports import parse_spec

    for name, domain in config.domains.items():
        key = f'domain."{name}"'
        for setting, path in (("users_file", domain.users_file), ("aliases_file", domain.aliases_file)):
            if not path:
                continue
            try:
                MapFile(path, name, aliases=setting == "aliases_file").check()
            except OSError as error:
                yield f"{key}.{setting}: {path} cannot be read: {error.strerror}; mail is put off without it"
            except ValueError as error:
                yield f"{key}.{setting}: {path}: {error}; mail is put off until it is correct"
        root = Path(parse_spec(domain.deliver).root) if domain.deliver else Path()
        if not root.is_dir():
            yield f"{key}.deliver: {root} is no folder; make it, and give it to the server's user"


def _way_warnings(config: Config) -> Iterator[str]:
    """Functions that mail is to be handed to, and Python does not find."""
    from pillarbox.config.checks import ways
    from pillarbox.config.source import format_key

    for path, value in ways(config):
        transport, _, target = value.partition(":")
        module = target.partition(":")[0]
        if transport == "python" and not _is_module(module):
            yield f'{format_key(path)}: there is no Python module "{module}"; its mail waits until there is one'


def _summary(config: Config) -> Iterator[str]:
    """What a server with these settings does."""
    for listener in config.listen:
        encrypted = {
            "implicit": "TLS",
            "starttls": "STARTTLS" if config.has_certificate else "no TLS",
            "none": "no TLS",
        }
        yield f"listens on {listener.address} as {listener.role.value}, {encrypted[listener.tls]}"
    if config.console.address:
        yield f"shows metrics on http://{config.console.address}/metrics"
    for name, domain in config.domains.items():
        users = _users(domain)
        what = (
            "takes no mail"
            if domain.no_mail
            else f"{users}, {len(domain.aliases)} aliases, {domain.deliver or 'no mailboxes'}"
        )
        yield f"serves {name}: {what}"
    for route in config.routes:
        yield f"sends mail for {route.match} by {route.via}"
    may = f"{count(_count_accounts(config), 'account')} may log in"
    yield f"relays for {', '.join(config.policy.relay_networks) or 'nobody'}; {may}"
    workers = "1 worker" if config.workers == 1 else f"{config.workers} workers"
    yield f"is called {config.hostname}, keeps its mail in {config.data}, {workers}"


def _users(domain: DomainSettings) -> str:
    """Whose mail a domain takes."""
    if domain.users == "*" and not (domain.users_file or domain.users_from):
        return "every user"
    named = {*(() if domain.users == "*" else domain.users), *domain.user}
    found = [count(len(named), "user")] if named else []
    found += [f"the users in {domain.users_file}"] if domain.users_file else []
    found += [f"the users from {directory}" for directory in domain.users_from]
    return " and ".join(found) or "no user"


def _count_accounts(config: Config) -> int:
    """How many accounts of the configuration, the file of accounts and the store may log in."""
    import apsw

    from pillarbox.config import ConfigError, load_accounts
    from pillarbox.policy.account_store import FILE, AccountError, AccountStore

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
