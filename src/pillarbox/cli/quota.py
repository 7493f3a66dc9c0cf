"""Show how full mailboxes are, and have them counted anew.

What a full mailbox means for mail is decided by `policy.quota`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.places import CONFIG_FILE, CONFIG_VARIABLE
from pillarbox.cli.show import fail, show_json, show_table
from pillarbox.cli.store import load_config

if TYPE_CHECKING:
    from pillarbox.policy.users import Quota


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    envvar=CONFIG_VARIABLE,
    default=Path(CONFIG_FILE),
    show_default=True,
    help="The configuration of the server.",
)
@click.option("--recount", is_flag=True, help="Count all messages, whatever `maildirsize` says.")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def quota(addresses: tuple[str, ...], file: Path, *, recount: bool, as_json: bool) -> None:
    """Show what mailboxes with a quota hold: these, or all that the configuration names."""
    from pillarbox.policy.directory import Directory
    from pillarbox.policy.quota import mailbox_of

    directory = Directory(load_config(file).directory)
    directory.read_files()
    rows = []
    for address in addresses or directory.mailboxes():
        known = mailbox_of(directory, address)
        if known is None or known.quota is None:
            if not addresses:
                continue
            fail(f"{address} is no mailbox with a quota", Exit.NO_USER)
        try:
            octets, messages = _usage(known.quota, anew=recount)
        except OSError as error:
            fail(f"{address}: {error}", Exit.NO_INPUT)
        rows.append(
            {
                "address": known.address,
                "octets": octets,
                "size": known.quota.size,
                "messages": messages,
                "max_messages": known.quota.messages,
            }
        )
    if as_json:
        show_json(rows)
        return
    if not rows:
        click.echo("No mailbox with a quota.")
        return
    limits = ("size", "max_messages")  # 0 is none
    numbers = ("OCTETS", "SIZE", "MESSAGES", "MAX MESSAGES")
    show_table(
        ("ADDRESS", *numbers),
        [
            ["-" if name in limits and not value else str(value) for name, value in row.items()]
            for row in rows
        ],
        right=numbers,
    )


def _usage(quota: Quota, *, anew: bool) -> tuple[int, int]:
    """Octets and messages. Raises OSError."""
    from pillarbox.policy.maildirsize import locked, measure, open_home, recount

    with open_home(quota) as home:
        if home is None:
            return 0, 0
        with locked(home):
            usage = recount(home, quota) if anew else measure(home, quota)
    return usage.octets, usage.messages
