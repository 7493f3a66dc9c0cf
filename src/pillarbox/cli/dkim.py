"""Make, list, change and forget the keys that outgoing mail is signed with.

How they are kept is the business of `policy.signing`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.queue import Age
from pillarbox.cli.show import Group, fail, format_time, iso_time, show_json, show_table
from pillarbox.cli.store import data_folder, store_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.diagnose.domain import Remark
    from pillarbox.policy.signing import StoredKey


@click.group(cls=Group)
def dkim() -> None:
    """Make, list, change and forget the keys that outgoing mail is signed with."""


@dkim.command("new")
@click.argument("domain")
@click.option(
    "--kind", type=click.Choice(["both", "rsa", "ed25519"]), default="both", help="Which keys to make."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def new(domain: str, kind: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Make keys for a domain and print the records to publish. They sign at once if the domain had none."""
    kinds = ("rsa", "ed25519") if kind == "both" else (kind,)
    made = _make(data, config, domain, kinds)
    _show_made(made, as_json=as_json)


@dkim.command("rotate")
@click.argument("domain")
@click.option(
    "--activate", is_flag=True, help="The new records are published: sign with the new keys from now on."
)
@click.option(
    "--check/--no-check",
    "checks",
    default=True,
    show_default=True,
    help="See first that DNS has the new records.",
)
@click.option(
    "--resolver", metavar="HOST[:PORT]", help="The name server to ask. Default: those of the system."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def rotate(  # noqa: PLR0913 - one argument for each option
    domain: str,
    data: Path | None,
    config: Path | None,
    *,
    activate: bool,
    checks: bool,
    resolver: str | None,
    as_json: bool,
) -> None:
    """Change the keys of a domain: make new ones, and when their records are published, --activate them.

    Exit status: 0 done, 1 no key waits, or DNS does not have its record, 75 DNS gave no answer.
    """
    from pillarbox.policy.signing import SigningError, keys_folder, stored_keys
    from pillarbox.policy.signing import activate as switch

    folder = keys_folder(data or data_folder(config))
    try:
        name = _a_labels(domain)
        waiting = [one for one in stored_keys(folder) if one.domain == name and one.state == "waits"]
        if not activate:
            _show_made(waiting or _make(data, config, domain, ("rsa", "ed25519")), as_json=as_json)
            return
        if checks:
            _see(waiting, resolver)
        signing, retired = switch(folder, domain)
    except SigningError as error:
        fail(str(error), Exit.NOTHING)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", Exit.NO_INPUT)
    if as_json:
        show_json({"signing": [one.name for one in signing], "retired": [one.name for one in retired]})
        return
    for one in signing:
        click.echo(f"{one.name} signs now")
    for one in retired:
        click.echo(f"{one.name} signs no more; leave its record for a week")
    click.echo("A running server takes the change over when it reloads its configuration (SIGHUP).")
    if retired:
        click.echo(f"In a week: pillarbox dkim remove {domain}")


def _see(waiting: Sequence[StoredKey], server: str | None) -> None:
    """End the command unless the world can see the records of these keys."""
    import asyncio

    from pillarbox.diagnose.domain import Level
    from pillarbox.diagnose.domain_senders import check_selector
    from pillarbox.mailauth.dns import follow
    from pillarbox.mailauth.publish import Key
    from pillarbox.net.resolver import Resolver, ResolverSettings

    async def look() -> list[Remark]:
        resolver = Resolver(ResolverSettings(nameservers=(server,) if server else ()))
        found: list[Remark] = []
        for one in waiting:  # as if it signed
            plan = check_selector(one.domain, one.selector, Key(one.name, one.record, "signs"))
            found += await follow(plan, resolver.lookup)
        return found

    try:
        remarks = asyncio.run(look())
    except ValueError as error:
        fail(str(error), Exit.USAGE)
    wrong = [one for one in remarks if one.level in (Level.ERROR, Level.UNCLEAR)]
    for one in wrong:
        click.echo(f"{one.found}; publish\n  {one.record}" if one.record else one.found, err=True)
    if wrong:
        unclear = all(one.level is Level.UNCLEAR for one in wrong)
        fail(
            "the old keys go on signing (--no-check does without)",
            Exit.TEMPORARY if unclear else Exit.NOTHING,
        )


def _a_labels(domain: str) -> str:
    from pillarbox.mailauth.names import a_labels

    return a_labels(domain.strip())


@dkim.command("remove")
@click.argument("domain")
@click.argument("selectors", nargs=-1, metavar="[SELECTOR]...")
@click.option(
    "--older-than",
    "age_s",
    type=Age(),
    default=604_800.0,
    metavar="AGE",
    help='Retired so long ago. Default: "7d".',
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def remove(
    domain: str,
    selectors: tuple[str, ...],
    data: Path | None,
    config: Path | None,
    *,
    age_s: float,
    as_json: bool,
) -> None:
    """Forget the retired keys of a domain, and tell whose records to take out of its zone.

    A key that signs is not forgotten, one that waits only if it is named. Exit status 1: there is nothing to forget.
    """
    from pillarbox.policy.signing import SigningError, keys_folder
    from pillarbox.policy.signing import remove as forget

    folder = keys_folder(data or data_folder(config))
    try:
        gone = forget(folder, domain, selectors, before=time.time() - age_s)
    except SigningError as error:
        fail(str(error), Exit.NOTHING)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", Exit.NO_INPUT)
    if as_json:
        show_json({"removed": [one.name for one in gone]})
    for one in gone if not as_json else ():
        click.echo(f"{one.name} is forgotten; take its record out of the zone")
    if not gone:
        if not as_json:
            click.echo("No key was retired so long ago.")
        raise SystemExit(Exit.NOTHING)


@dkim.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def list_keys(data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """List the keys, and the records that have to be published for them."""
    from pillarbox.policy.signing import SigningError, keys_folder, stored_keys

    try:
        found = stored_keys(keys_folder(data or data_folder(config)))
    except SigningError as error:
        fail(str(error), Exit.CONFIG)
    if as_json:
        show_json([_as_json(one) for one in found])
    elif not found:
        click.echo("No key.")
    else:
        rows = [(one.domain, one.selector, one.kind, one.state, format_time(one.made_at)) for one in found]
        show_table(("DOMAIN", "SELECTOR", "KIND", "STATE", "MADE"), rows)


def _make(data: Path | None, config: Path | None, domain: str, kinds: Sequence[str]) -> list[StoredKey]:
    from pillarbox.policy.signing import SigningError, keys_folder, make_keys

    folder = keys_folder(data or data_folder(config))
    try:
        return make_keys(folder, domain, now=time.time(), kinds=kinds)
    except SigningError as error:
        fail(str(error), Exit.USAGE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", Exit.NO_INPUT)


def _show_made(made: Sequence[StoredKey], *, as_json: bool) -> None:
    if as_json:
        show_json([_as_json(one) for one in made])
        return
    from pillarbox.mailauth.publish import Record

    click.echo(f"; publish in the zone of {made[0].domain}:")
    for one in made:
        click.echo(str(Record(one.name, "TXT", one.record)))
    if made[0].state == "waits":
        click.echo(f"; when that can be seen everywhere: pillarbox dkim rotate --activate {made[0].domain}")
    else:
        click.echo("; a running server signs with them when it reloads its configuration (SIGHUP)")


def _as_json(one: StoredKey) -> dict[str, object]:
    return {
        "domain": one.domain,
        "selector": one.selector,
        "kind": one.kind,
        "state": one.state,
        "made_at": iso_time(one.made_at),
        "name": one.name,
        "record": one.record,
        "file": str(one.file),
    }
