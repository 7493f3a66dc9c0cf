"""Look at the suppression list and change it.

What brings an address there is decided by `queue.suppression`; what each command does is the business of `control`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.queue import Age
from pillarbox.cli.show import Group, fail, format_time, format_when, iso_time, show_json, show_table
from pillarbox.cli.store import opened, store_options

if TYPE_CHECKING:
    from pillarbox.queue.suppression import Suppressed

_YEAR_S = 31_536_000.0


@click.group(cls=Group)
def suppression() -> None:
    """Show and change the list of addresses to which nothing is sent; works whether the server runs or not."""


@suppression.command("list")
@click.option("--domain", default="", metavar="NAME", help="Only entries of this domain.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def list_command(data: Path | None, config: Path | None, *, domain: str, as_json: bool) -> None:
    """List all entries."""
    from pillarbox.control import ControlError, suppressions

    now = time.time()
    with opened(data, config) as ledger:
        try:
            found = suppressions(ledger, now=now, domain=domain)
        except ControlError as error:
            fail(str(error), Exit.USAGE)
    if as_json:
        show_json([_as_json(one) for one in found])
    elif not found:
        click.echo("No address is suppressed.")
    else:
        rows = [
            (one.entry, format_when(one.since, now), format_when(one.until, now), one.cause, _said(one))
            for one in found
        ]
        show_table(("ADDRESS", "SINCE", "ENDS", "CAUSE", "REPLY"), rows)


@suppression.command("show")
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def show(address: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Tell whether and why mail to an address, or to "@" and a domain, is held back. Exit status 1: it is not."""
    from pillarbox.control import ControlError
    from pillarbox.control import suppression as ask

    with opened(data, config) as ledger:
        try:
            found = ask(ledger, address, now=time.time())
        except ControlError as error:
            fail(str(error), Exit.USAGE)
    if as_json:
        show_json([_as_json(one) for one in found])
    for one in found if not as_json else ():
        _print(one)
    if not found:
        if not as_json:
            click.echo(f"{address} is not suppressed.")
        raise SystemExit(Exit.NOTHING)


@suppression.command("add")
@click.argument("address")
@click.option(
    "--for",
    "for_s",
    type=Age(),
    default=_YEAR_S,
    metavar="TIME",
    help='How long, such as "90d". Default: a year.',
)
@click.option("--note", default="", metavar="TEXT", help="Why; shown with the entry, and in reports.")
@store_options
def add(address: str, data: Path | None, config: Path | None, *, for_s: float, note: str) -> None:
    """Send nothing more to an address, or to a whole domain: "@example.org"."""
    from pillarbox.control import ControlError, suppress

    with opened(data, config) as ledger:
        try:
            entry = suppress(ledger, address, now=time.time(), for_s=for_s, note=note)
        except ControlError as error:
            fail(str(error), Exit.USAGE)
    click.echo(f"Mail to {entry} is returned to its senders from now on.")


@suppression.command("remove")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@store_options
def remove(addresses: tuple[str, ...], data: Path | None, config: Path | None) -> None:
    """Send to an address, or to a domain, again. Exit status 1: it was not on the list."""
    from pillarbox.control import ControlError, lift_suppression

    missing = False
    with opened(data, config) as ledger:
        for address in addresses:
            try:
                found = lift_suppression(ledger, address, now=time.time())
            except ControlError as error:
                fail(str(error), Exit.USAGE)
            click.echo(f"Mail to {address} is sent again." if found else f"{address} is not suppressed.")
            missing |= not found
    if missing:
        raise SystemExit(Exit.NOTHING)


def _said(one: Suppressed) -> str:
    return one.note or (str(one.result.reply) if one.result is not None else "")


def _as_json(one: Suppressed) -> dict[str, object]:
    from pillarbox.queue.spool import format_id

    return {
        "address": one.entry,
        "since": iso_time(one.since),
        "until": iso_time(one.until),
        "cause": one.cause,
        "message": format_id(one.message) if one.message is not None else None,
        "reply": str(one.result.reply) if one.result is not None else None,
        "host": one.result.host or None if one.result is not None else None,
        "note": one.note or None,
    }


def _print(one: Suppressed) -> None:
    from pillarbox.diagnose.causes import peer_causes
    from pillarbox.observe import visible
    from pillarbox.queue.spool import format_id

    click.echo(f"{one.entry}: suppressed since {format_time(one.since)}, until {format_time(one.until)}")
    known = peer_causes().get(one.cause)
    click.echo(f"  because: {visible(one.note or (known.meaning if known else one.cause))}")
    if one.result is not None:
        click.echo(f"  {visible(one.result.host or 'this server')} said: {visible(str(one.result.reply))}")
    if one.message is not None:
        click.echo(
            f"  about message {format_id(one.message)}; `pillarbox trace {format_id(one.message)}` tells more"
        )
    click.echo(f"  to lift it: pillarbox suppression remove {visible(one.entry)}")
