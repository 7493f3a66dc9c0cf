"""Make, list and change the keys that outgoing mail is signed with.

How they are kept is the business of `policy.signing`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import Group, fail, format_time, iso_time, show_json, show_table
from pillarbox.cli.store import data_folder, store_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.policy.signing import StoredKey

_STRING = 250  # characters of one string of a TXT record


@click.group(cls=Group)
def dkim() -> None:
    """Make, list and change the keys that outgoing mail is signed with."""


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def rotate(domain: str, data: Path | None, config: Path | None, *, activate: bool, as_json: bool) -> None:
    """Change the keys of a domain: make new ones, and when their records are published, --activate them."""
    from pillarbox.policy.signing import SigningError, keys_folder
    from pillarbox.policy.signing import activate as switch

    if not activate:
        _show_made(_make(data, config, domain, ("rsa", "ed25519")), as_json=as_json)
        return
    try:
        signing, retired = switch(keys_folder(data or data_folder(config)), domain)
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
        click.echo(
            f"{one.name} signs no more; leave its record for a week, then remove it and {one.file.with_suffix('.old')}"
        )
    click.echo("A running server takes the change over when it reloads its configuration (SIGHUP).")


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
    click.echo(f"; publish in the zone of {made[0].domain}:")
    for one in made:
        text = one.record
        strings = " ".join(f'"{text[at : at + _STRING]}"' for at in range(0, len(text), _STRING))
        click.echo(f"{one.name}. IN TXT ( {strings} )")
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
