"""Check a configuration before the server meets it: the file itself, and what it names on this machine.

The form and sense of the settings is the business of `config`.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.places import named_file
from pillarbox.cli.show import count, fail, show_json
from pillarbox.observe import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pillarbox.config import Config, Problem
    from pillarbox.policy.domains import DomainSettings


@click.command()
@click.argument(
    "file",
    type=click.Path(path_type=Path),
    required=False,
    metavar="[FILE]",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The same as FILE alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(file: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Check FILE, and that what it names can be used by whoever runs this: best run as the server's user.

    Without FILE it is $PILLARBOX_CONFIG, else /etc/pillarbox/pillarbox.toml. Exit status: 0 usable, warnings or not; 66 it cannot be read; 78 it is wrong.
    """
    from pillarbox.config import ConfigError, load, warnings

    if file is not None and config is not None:
        raise click.UsageError("FILE and --config are the same: name one")
    file = file or config or Path(named_file())
    try:
        settings = load(file)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", Exit.NO_INPUT)
    except ConfigError as error:
        _report(error.problems, [], [], as_json=as_json)
        sys.exit(Exit.CONFIG)
    problems = list(_problems(settings, str(file)))
    _report(problems, warnings(settings, file), list(_summary(settings)), as_json=as_json)
    sys.exit(Exit.CONFIG if problems else Exit.OK)


def _report(
    problems: Sequence[Problem], warnings: Sequence[Problem], summary: list[str], *, as_json: bool
) -> None:
    if as_json:
        import msgspec

        found, doubts = ([msgspec.to_builtins(one) for one in all_] for all_ in (problems, warnings))
        show_json({"usable": not problems, "problems": found, "warnings": doubts, "summary": summary})
        return
    for problem in problems:
        click.echo(visible(str(problem)), err=True)
    for warning in warnings:
        click.echo(f"warning: {visible(str(warning))}", err=True)
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
    from pillarbox.config.machine import is_module
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
        if not is_module(hook):
            yield "hooks", f"there is no Python module {hook!r}", "check PYTHONPATH"


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
    from pillarbox.config.machine import existing

    folder = Path(config.data)
    nearest = existing(folder)
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


def _summary(config: Config) -> Iterator[str]:
    """What a server with these settings does."""
    from pillarbox.config.machine import count_accounts

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
    may = f"{count(count_accounts(config), 'account')} may log in"
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
