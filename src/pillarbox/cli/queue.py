"""`pillarbox queue`: look at the messages in the queue, and change what becomes of them.

What a verb does is `control`'s business.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, format_when, iso_time, show_json, show_table
from pillarbox.cli.store import opened, store_options
from pillarbox.control import ControlError, Done, Selection, apply, apply_to_destination, select
from pillarbox.mail.units import parse_duration
from pillarbox.queue.spool import State

if TYPE_CHECKING:
    from pillarbox.queue.ledger import ListedMessage, ListedRecipient

F = TypeVar("F", bound=Callable[..., object])
_STATES = {state.name.lower(): state for state in State}


@click.group()
def queue() -> None:
    """List, hold, release, retry, bounce or remove messages."""


def _filters(function: F) -> F:
    """The options that choose messages."""
    for option in (
        click.option(
            "--older-than", metavar="TIME", default="", help='In the queue for longer than, such as "2h".'
        ),
        click.option("--recipient", metavar="ADDRESS", default="", help="This recipient, or @domain."),
        click.option(
            "--sender", metavar="ADDRESS", default="", help='This sender, or @domain; "<>" for reports.'
        ),
        click.option(
            "--destination", metavar="NAME", default="", help='As listed, such as "mx:example.org".'
        ),
        click.argument("ids", nargs=-1),
    ):
        function = option(function)
    return function


def _selection(
    ids: tuple[str, ...],
    destination: str,
    sender: str,
    recipient: str,
    older_than: str,
    state: State | None = None,
) -> Selection:
    try:
        age_s = parse_duration(older_than) if older_than else 0.0
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from error
    return Selection(
        ids=ids, destination=destination, sender=sender, recipient=recipient, older_than_s=age_s, state=state
    )


@queue.command("list")
@_filters
@click.option("--state", type=click.Choice(list(_STATES)), help="Only recipients in this state.")
@click.option("--limit", default=100, show_default=True, help="So many messages at most.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@store_options
def list_(
    *, state: str | None, limit: int, as_json: bool, data: Path | None, config: Path | None, **given: str
) -> None:
    """List open messages, or those with recipients in --state."""
    now = time.time()
    selection = _selection(**given, state=_STATES[state] if state else None)  # type: ignore[arg-type]
    with opened(data, config) as ledger:
        found = _try(lambda: select(ledger, selection, now=now, limit=limit))
    if as_json:
        show_json([_to_dict(message) for message in found])
        return
    rows = [
        [
            message.queue_id if number == 0 else "",
            _state(recipient),
            format_when(recipient.due, now) if recipient.state is State.QUEUED else "",
            _sender(message) if number == 0 else "",
            recipient.address,
            recipient.destination,
            str(recipient.result.reply) if recipient.result is not None else "",
        ]
        for message in found
        for number, recipient in enumerate(message.recipients)
    ]
    if rows:
        show_table(["id", "state", "next try", "sender", "recipient", "destination", "last reply"], rows)
    else:
        click.echo("No messages.")


@queue.command()
@click.argument("queue_id")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--content", is_flag=True, help="Print the message itself, as it is stored.")
@store_options
def show(queue_id: str, *, as_json: bool, content: bool, data: Path | None, config: Path | None) -> None:
    """Show one message: its envelope, where it came from, and each recipient."""
    from pillarbox.control import find

    now = time.time()
    with opened(data, config) as ledger:
        message = find(ledger, queue_id)
        if content:
            for piece in ledger.load(message.id).chunks():
                sys.stdout.buffer.write(piece)
            return
    if as_json:
        show_json(_to_dict(message))
        return
    trace = message.trace
    facts = [
        ["id", message.queue_id],
        ["received", format_when(message.received_at, now)],
        ["sender", _sender(message)],
        ["octets", str(message.octets)],
        ["from host", f"{trace.client} ({trace.helo})" if trace is not None else ""],
        ["protocol", trace.protocol if trace is not None else ""],
    ]
    show_table(["", ""], facts)
    click.echo()
    rows = [
        [
            one.address,
            _state(one),
            str(one.attempts),
            one.destination,
            str(one.result.reply) if one.result else "",
        ]
        for one in message.recipients
    ]
    show_table(["recipient", "state", "attempts", "destination", "last reply"], rows, right=["attempts"])


def _verb(name: str, about: str) -> None:
    """Make one command that changes messages."""

    @_filters
    @click.option("--all", "everything", is_flag=True, help="All open messages.")
    @click.option("--json", "as_json", is_flag=True, help="For programs.")
    @store_options
    def run(*, everything: bool, as_json: bool, data: Path | None, config: Path | None, **given: str) -> None:
        now = time.time()
        selection = _selection(**given)  # type: ignore[arg-type]
        if selection.is_everything and not everything:
            raise click.UsageError(f"say which messages to {name}: ids, a filter, or --all")
        with opened(data, config) as ledger:
            found = _try(lambda: select(ledger, selection, now=now))
            with click.progressbar(length=len(found), label=name, file=sys.stderr) as bar:
                done = apply(ledger, name, found, now=now, progress=lambda _done: bar.update(1))
        _report(name, done, as_json=as_json)

    run.__doc__ = about
    queue.command(name)(run)


def _destination_verb(name: str, about: str) -> None:
    """Make one command that changes a destination."""

    @click.argument("destination")
    @click.option("--json", "as_json", is_flag=True, help="For programs.")
    @store_options
    def run(destination: str, *, as_json: bool, data: Path | None, config: Path | None) -> None:
        with opened(data, config) as ledger:
            done = apply_to_destination(ledger, name, destination, now=time.time())
        _report(name, done, as_json=as_json)

    run.__doc__ = about
    queue.command(name)(run)


_verb("hold", "Keep messages in the queue until they are released.")
_verb("release", "Let held messages go on.")
_verb("retry", "Try messages again now.")
_verb("bounce", "Return messages to their senders with a report.")
_verb("remove", "Throw messages away; nobody is told.")
_destination_verb("suspend", "Deliver nothing to a destination until it is resumed.")
_destination_verb("resume", "Deliver to a destination again.")


def _try(call: Callable[[], list[ListedMessage]]) -> list[ListedMessage]:
    try:
        return call()
    except ControlError as error:
        fail(str(error), Exit.NO_INPUT)


def _report(verb: str, done: Done, *, as_json: bool) -> None:
    if as_json:
        show_json({"verb": verb, "messages": done.messages, "recipients": done.recipients})
    else:
        click.echo(f"{verb}: {done.messages} messages, {done.recipients} recipients")


def _sender(message: ListedMessage) -> str:
    if message.envelope is None:
        return "(not readable)"
    return message.envelope.sender or "<>"


def _state(recipient: ListedRecipient) -> str:
    return "active" if recipient.active and recipient.state is State.QUEUED else recipient.state.name.lower()


def _to_dict(message: ListedMessage) -> dict[str, object]:
    return {
        "id": message.queue_id,
        "received_at": iso_time(message.received_at),
        "octets": message.octets,
        "sender": message.envelope.sender if message.envelope is not None else None,
        "recipients": [
            {
                "address": one.address,
                "original": one.original,
                "state": one.state.name.lower(),
                "active": one.active,
                "due": iso_time(one.due),
                "destination": one.destination,
                "attempts": one.attempts,
                "reply": str(one.result.reply) if one.result is not None else None,
                "cause": one.result.reply.cause_id if one.result is not None else None,
            }
            for one in message.recipients
        ],
    }
