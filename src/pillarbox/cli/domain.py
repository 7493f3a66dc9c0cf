"""Keep the domains that the server takes mail for beside those of its configuration: add, list and remove them, and aliases.

What to publish for a domain is `cli.domain_dns`' business. The file is `policy.domain_store`'s; their mailboxes are the accounts that `cli.user` keeps in the same file.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.domain_dns import dns
from pillarbox.cli.outcome import Exit
from pillarbox.cli.queue import Age
from pillarbox.cli.show import Group, fail, show_json, show_table
from pillarbox.cli.store import configured_domains, data_folder, store_options
from pillarbox.cli.user import handled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.policy.domain_store import DomainStore
    from pillarbox.policy.domains import StsMode

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def domain() -> None:
    """Keep domains that the server takes mail for, and their aliases; tell what to publish for them.

    A server that runs knows of a change after a second. Domains in the configuration file are not touched, and count where
    both have one. Exit status: 0 done, 1 there is no such domain, or it can't work so, 65 what was given can't be used,
    66 the file can't be read, 75 not now.
    """


domain.add_command(dns)


@contextmanager
def _domains(data: Path | None, config: Path | None, *, makes: bool = False) -> Iterator[DomainStore]:
    """The domains of a data folder, which only `makes` makes; what goes wrong with them ends the command."""
    from pillarbox.policy.account_store import FILE
    from pillarbox.policy.domain_store import DomainStore

    folder = data or data_folder(config)
    if not makes and not (folder / FILE).exists():
        fail(f"there are no domains in {folder}; `pillarbox domain add` makes the first one", Exit.NOTHING)
    with handled(folder / FILE, DomainStore) as store:
        yield store


def _domain_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A domain in the form in which it is kept."""
    from pillarbox.mail.address import AddressError, parse_domain

    try:
        return parse_domain(value.strip().rstrip("."))
    except AddressError as error:
        raise click.BadParameter(str(error)) from error


def _alias(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, str]:
    """Local part and domain of an address of ours."""
    from pillarbox.mail.address import AddressError, parse_address, parse_domain

    try:
        address = parse_address(value.strip())
        return address.local, parse_domain(address.domain)
    except AddressError as error:
        raise click.BadParameter(str(error)) from error


_named = click.argument("name", callback=_domain_name)
_addressed = click.argument("address", callback=_alias, metavar="ADDRESS")


@domain.command("add")
@_named
@click.option(
    "--deliver",
    required=True,
    metavar="WAY",
    help='Where its mailboxes lie: "maildir:/var/mail/{domain}/{user}", "lmtp:unix:/run/lmtp", "smtp://host".',
)
@click.option(
    "--every-name", is_flag=True, help="Take mail for every name, not only for accounts and aliases."
)
@click.option("--catch-all", metavar="ADDRESS", help="Where mail for every other name goes.")
@click.option("--replace", is_flag=True, help="Change the domain if there is one already; its aliases stay.")
@store_options
def add_command(  # noqa: PLR0913 - an option each
    name: str,
    deliver: str,
    catch_all: str | None,
    data: Path | None,
    config: Path | None,
    *,
    every_name: bool,
    replace: bool,
) -> None:
    """Take mail for a domain.

    Its mailboxes are the accounts NAME@DOMAIN that `pillarbox user add` makes; others are refused. Mail for postmaster is
    always taken.
    """
    from pillarbox.policy.domain_store import StoredDomain

    if name in configured_domains(data, config):
        fail(f"{name} is in the configuration, and that counts", Exit.NOTHING)
    with _domains(data, config, makes=True) as store:
        store.put(StoredDomain(name, deliver, every_name, catch_all), replace=replace)
    click.echo(f"Mail for {name} is taken.")


@domain.command("remove")
@_named
@store_options
def remove_command(name: str, data: Path | None, config: Path | None) -> None:
    """Take no more mail for a domain. Its aliases are forgotten; accounts and mailboxes stay."""
    with _domains(data, config) as store:
        store.remove(name)
    click.echo(f"Mail for {name} is not taken any more.")


@domain.command("sts")
@_named
@click.argument("mode", type=click.Choice(["off", "none", "testing", "enforce"]))
@click.option(
    "--mx",
    multiple=True,
    metavar="HOST",
    help="A host that takes its mail, repeatable. Default: this server's name.",
)
@click.option(
    "--max-age",
    "age_s",
    type=Age(),
    default=604_800.0,
    metavar="TIME",
    help='How long it may be kept. Default: "7d".',
)
@store_options
def sts_command(
    name: str, mode: StsMode, mx: tuple[str, ...], age_s: float, data: Path | None, config: Path | None
) -> None:
    """Publish an MTA-STS policy for a domain that is kept here: the listeners with role "policy" serve it.

    "none" takes it back and is served for as long as the one before was to be kept; "off" then forgets it. After each change
    publish what `pillarbox domain dns` prints.
    """
    from pillarbox.mail.units import Seconds
    from pillarbox.mailauth.mta_sts import Mode, PolicyError, StsPolicy, parse_policy
    from pillarbox.policy.domains import StsSettings

    if name in configured_domains(data, config):
        fail(f"{name} is in the configuration, and that counts", Exit.NOTHING)
    hosts = tuple(host.strip().rstrip(".").lower() for host in mx)
    if mode != "off":
        try:
            parse_policy(str(StsPolicy(Mode(mode), int(age_s), hosts or ("mx.example",))).encode())
        except (PolicyError, UnicodeEncodeError) as error:
            fail(str(error), Exit.DATA)
    with _domains(data, config) as store:
        store.put_policy(name, StsSettings(mode=mode, mx=hosts, max_age_s=Seconds(age_s)))
    if mode == "off":
        click.echo(f"No policy of {name} is served any more.")
    else:
        click.echo(
            f"The policy of {name} says {mode}; now publish what `pillarbox domain dns {name}` prints."
        )


@domain.command("list")
@_as_json
@store_options
def list_command(data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """List the domains, those of the configuration file too."""
    from pillarbox.policy.account_store import FILE
    from pillarbox.policy.known_names import KnownNames

    rows = [
        (name, "configuration", one.deliver, "", len(one.aliases), one.mta_sts.mode)
        for name, one in configured_domains(data, config).items()
    ]
    folder = data or data_folder(config)
    if (folder / FILE).exists():  # a look makes none
        with _domains(folder, config) as store:
            names = KnownNames({"accounts": store.account_names()})
            for one in store.domains():
                users = "*" if one.every_name else str(len(names.of(one.ascii_name)))
                rows.append((one.name, "store", one.deliver, users, len(one.aliases), one.mta_sts.mode))
    if as_json:
        show_json(
            [
                {
                    "name": name,
                    "kept_in": where,
                    "deliver": way,
                    "accounts": users,
                    "aliases": aliases,
                    "mta_sts": policy,
                }
                for name, where, way, users, aliases, policy in rows
            ]
        )
    elif not rows:
        click.echo("No domain.")
    else:
        show_table(
            ("NAME", "KEPT IN", "DELIVER", "ACCOUNTS", "ALIASES", "MTA-STS"),
            [
                (name, where, way, users, str(aliases), policy)
                for name, where, way, users, aliases, policy in rows
            ],
            right=("ACCOUNTS", "ALIASES"),
        )


@domain.group("alias", cls=Group)
def alias() -> None:
    """Names that stand for others."""


@alias.command("add")
@_addressed
@click.argument("values", nargs=-1, required=True, metavar="GOES_TO...")
@store_options
def add_alias(
    address: tuple[str, str], values: tuple[str, ...], data: Path | None, config: Path | None
) -> None:
    """Let ADDRESS stand for others: names of its domain, or addresses anywhere. It replaces what it stood for."""
    wrong = next((value for value in values if not value or any(map(str.isspace, value))), None)
    if wrong is not None:
        fail(f'"{wrong}" is no address', Exit.DATA)
    local, name = address
    with _domains(data, config) as store:
        store.put_alias(name, local, values)
    click.echo(f"{local}@{name} stands for {', '.join(values)}.")


@alias.command("remove")
@_addressed
@store_options
def remove_alias(address: tuple[str, str], data: Path | None, config: Path | None) -> None:
    """Forget an alias."""
    local, name = address
    with _domains(data, config) as store:
        store.remove_alias(name, local)
    click.echo(f"{local}@{name} is forgotten.")


@alias.command("list")
@_named
@_as_json
@store_options
def list_aliases(name: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """List the aliases of a domain."""
    with _domains(data, config) as store:
        found = next((one.aliases for one in store.domains() if one.name == name), None)
    if found is None:
        fail(f"there is no domain {name}", Exit.NOTHING)
    if as_json:
        show_json([{"name": local, "goes_to": values} for local, values in found.items()])
    elif not found:
        click.echo("No alias.")
    else:
        show_table(("ALIAS", "GOES TO"), [(local, " ".join(values)) for local, values in found.items()])
