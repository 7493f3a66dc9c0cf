"""Show how well other domains' hosts protected our mail, and forget it.

What is remembered and for how long is the business of `relay.tls_levels`; what a worse session means that of
`relay.tls_watch`.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import Group, fail, format_when, iso_time, show_json, show_table
from pillarbox.cli.store import data_folder, store_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.policy.memory import Notes
    from pillarbox.relay.tls_levels import Remembered

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def tls() -> None:
    """Show how safely other domains took mail, and forget it where a change for the worse is meant.

    The server remembers the best that each domain had in the last 30 days, and tells of sessions that are worse.
    """


@contextmanager
def _notes(data: Path | None, config: Path | None) -> Iterator[Notes | None]:
    """What the server of a data folder remembers; None if it never did."""
    import apsw

    from pillarbox.policy.memory import FILE, open_notes

    file = (data or data_folder(config)) / FILE
    if not file.exists():  # a look makes none
        yield None
        return
    try:
        with open_notes(file, now=time.time()) as notes:
            yield notes
    except apsw.BusyError:
        fail(f"{file} is in use; try again", Exit.TEMPORARY)
    except (apsw.Error, OSError) as error:
        fail(f"{file}: {error}", Exit.NO_INPUT)


@tls.command("list")
@click.option("--worse", is_flag=True, help="Only domains that are worse now than they were.")
@_as_json
@store_options
def list_command(data: Path | None, config: Path | None, *, worse: bool, as_json: bool) -> None:
    """List the domains, what they had at best, and whether it was worse since."""
    from pillarbox.relay.tls_levels import known

    with _notes(data, config) as notes:
        found = known(notes) if notes is not None else []
    shown = [one for one in found if one.worse is not None or not worse]
    if as_json:
        show_json([_to_json(one) for one in shown])
    elif not shown:
        click.echo("Nothing is remembered." if not worse else "No domain is worse than it was.")
    else:
        now = time.time()
        rows = [
            (
                one.domain,
                _short(one.best),
                format_when(one.seen_at, now),
                format_when(one.until, now),
                _fall(one, now),
            )
            for one in shown
        ]
        show_table(("DOMAIN", "BEST", "SEEN", "FORGOTTEN", "WORSE SINCE"), rows)


@tls.command("show")
@click.argument("domain")
@_as_json
@store_options
def show(domain: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Tell what is remembered of a domain. Exit status: 0 as good as ever, 1 it was worse since, 66 nothing is remembered."""
    from pillarbox.cli.show import format_time
    from pillarbox.relay.tls_levels import WORDS, known

    name = _name(domain)
    with _notes(data, config) as notes:
        found = next((one for one in (known(notes) if notes is not None else ()) if one.domain == name), None)
    if found is None:
        fail(f"nothing is remembered of {name}", Exit.NO_INPUT)
    if as_json:
        show_json(_to_json(found))
    else:
        click.echo(f"{name} took mail {WORDS[found.best]}, last seen {format_time(found.seen_at)}")
        click.echo(f"  remembered until {format_time(found.until)}, longer if it is seen again")
        if found.worse is not None:
            click.echo(f"  worse at {format_time(found.worse_at)}: {WORDS[found.worse]}")
            click.echo(f"  if that is meant: pillarbox tls forget {name}")
    raise SystemExit(Exit.OK if found.worse is None else Exit.NOTHING)


@tls.command("forget")
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...")
@_as_json
@store_options
def forget_command(
    domains: tuple[str, ...], data: Path | None, config: Path | None, *, as_json: bool
) -> None:
    """Forget what domains had, so that what they have now counts; a running server heeds it at once.

    Exit status 1: of one of them nothing was remembered.
    """
    from pillarbox.relay.tls_levels import forget

    names = [_name(one) for one in domains]
    with _notes(data, config) as notes:
        gone = {name: notes is not None and forget(notes, name) for name in names}
    if as_json:
        show_json({"forgotten": [name for name in names if gone[name]]})
    for name in names if not as_json else ():
        click.echo(f"{name} is forgotten." if gone[name] else f"Nothing was remembered of {name}.")
    raise SystemExit(Exit.OK if all(gone.values()) else Exit.NOTHING)


def _name(domain: str) -> str:
    from pillarbox.mailauth.names import a_labels

    name = a_labels(domain.strip())
    if not name:
        fail(f"not a domain name: {domain}", Exit.USAGE)
    return name


def _short(level: int) -> str:
    return ("in clear", "encrypted", "proven")[level]


def _fall(one: Remembered, now: float) -> str:
    return "" if one.worse is None else f"{_short(one.worse)}, {format_when(one.worse_at, now)}"


def _to_json(one: Remembered) -> dict[str, object]:
    return {
        "domain": one.domain,
        "best": one.best.name.lower(),
        "seen_at": iso_time(one.seen_at),
        "until": iso_time(one.until),
        "worse": None if one.worse is None else one.worse.name.lower(),
        "worse_at": None if one.worse is None else iso_time(one.worse_at),
    }
