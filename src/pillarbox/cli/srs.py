"""Change the keys of forwarded mail's senders, and tell who is behind such an address.

How the keys are kept is the business of `policy.forwarding`.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import Group, count, fail, show_json
from pillarbox.cli.store import data_folder, opened, store_options


@click.group(cls=Group)
def srs() -> None:
    """Change the keys of forwarded mail's senders, and tell who is behind such an address."""


@srs.command("rotate")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def rotate(data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Make a new key; older ones are believed until the last address made with them has expired."""
    from pillarbox.policy.forwarding import KEY_FILE, ForwardingError, add_key

    folder = data or data_folder(config)
    try:
        kept, dropped = add_key(folder, now=time.time())
    except ForwardingError as error:
        fail(str(error), Exit.CONFIG)
    except OSError as error:
        fail(f"{error.filename or folder}: {error.strerror}", Exit.NO_INPUT)
    if as_json:
        show_json({"keys": kept, "dropped": dropped})
        return
    click.echo(f"{folder / KEY_FILE}: {count(kept, 'key')}, the first one signs; {dropped} dropped")
    click.echo("A running server takes the change over when it reloads its configuration (SIGHUP).")


@srs.command("show")
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def show(address: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Tell to whom a bounce to ADDRESS goes. Exit status: 0 to somebody, 1 to nobody: forged or expired."""
    from pillarbox.mail.address import AddressError, parse_address
    from pillarbox.mail.srs import Flaw, Kept, Rewriter
    from pillarbox.policy.forwarding import KEY_FILE, ForwardingError, load_keys

    folder = data or data_folder(config)
    if not (folder / KEY_FILE).exists():
        fail(f"{folder / KEY_FILE} is not there: nothing was rewritten here", Exit.NO_INPUT)
    try:
        local = parse_address(address.strip().strip("<>")).local
        found = Rewriter(load_keys(folder)).read(local, now=time.time())
    except AddressError as error:
        fail(str(error), Exit.USAGE)
    except ForwardingError as error:
        fail(str(error), Exit.CONFIG)
    if isinstance(found, Kept):
        writer = _sender_of(found.queue_id, folder)
        found = parse_address(writer) if writer else Flaw.EXPIRED
    sender = None if isinstance(found, Flaw) else str(found)
    if as_json:
        show_json({"sender": sender, "problem": found.value if isinstance(found, Flaw) else None})
    else:
        click.echo(sender or f"nobody: the address is {'forged' if found is Flaw.FORGED else 'expired'}")
    raise SystemExit(Exit.OK if sender else Exit.NOTHING)


def _sender_of(queue_id: str, folder: Path) -> str:
    """Who sent a message that is in the store; "" if it is forgotten."""
    from pillarbox.control import ControlError, find

    with opened(folder, None) as ledger:
        try:
            message = find(ledger, queue_id)
        except ControlError:
            return ""
    return message.envelope.sender if message.envelope is not None else ""
