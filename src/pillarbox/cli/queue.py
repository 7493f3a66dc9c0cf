"""Look at the queue and act on it.

What each verb does is the business of `control`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import (
    Group,
    count,
    fail,
    format_due,
    format_time,
    format_when,
    iso_time,
    show_json,
    show_table,
)
from pillarbox.cli.store import opened, store_options
from pillarbox.mail.spelling import some
from pillarbox.mail.units import approximate_size, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pillarbox.control import Done, Selection
    from pillarbox.queue.ledger import Depth, ListedMessage, ListedRecipient

F = TypeVar("F", bound="Callable[..., object]")
_STATES = ("queued", "held", "delivered", "failed", "removed", "damaged")
_SHOWN_RECIPIENTS = 3  # in a row
_SHOWN_ALIKE = 8
_PROGRESS_FROM = 50  # messages


class Age(click.ParamType[float]):
    """A duration such as "2h"."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def selecting(function: F) -> F:
    """Add the options that choose recipients."""
    for option in (
        click.option(
            "--state", "states", multiple=True, type=click.Choice(_STATES), help="In this state; repeatable."
        ),
        click.option(
            "--older-than", type=Age(), default=0.0, metavar="AGE", help='Received before, such as "2h".'
        ),
        click.option("--recipient", default="", metavar="ADDRESS", help='To this address or "@domain".'),
        click.option(
            "--sender", default="", metavar="ADDRESS", help='From this address or "@domain"; "<>": reports.'
        ),
        click.option(
            "--destination", default="", metavar="ROUTE", help='Bound for this, such as "mx:example.org".'
        ),
    ):
        function = option(function)
    return function


def _selection(given: dict[str, Any]) -> Selection:
    from pillarbox.control import Selection
    from pillarbox.queue.spool import State

    return Selection(
        ids=tuple(given.get("ids", ())),
        destination=given["destination"],
        sender=given["sender"],
        recipient=given["recipient"],
        older_than_s=given["older_than"],
        states=frozenset(State[name.upper()] for name in given["states"]),
    )


@click.group(cls=Group)
def queue() -> None:
    """List, hold, release, retry, bounce or remove messages; works whether the server runs or not."""


# --- looking


@queue.command("list")
@selecting
@click.option("--limit", default=100, show_default=True, help="Messages to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def list_command(data: Path | None, config: Path | None, *, limit: int, as_json: bool, **given: Any) -> None:
    """List messages, those that are due first; finished ones only with --state."""
    from pillarbox.control import select, spelt

    now, selection = time.time(), _selection(given)
    with opened(data, config) as ledger:
        found = select(ledger, selection, now=now, limit=limit + 1)
        depth = ledger.depth()
        suspended = ledger.suspended()
    if as_json:
        show_json([to_json(message) for message in found[:limit]])
        return
    if not found:
        click.echo("No message.")
    else:
        _show(found[:limit], now)
        if footer := _footer(selection, depth, limit if len(found) > limit else None):
            click.echo(f"\n{footer}.")
    if suspended:
        click.echo(
            f"Nothing is sent to {', '.join(_safe(spelt(one)) for one in suspended)} until `pillarbox queue resume`."
        )


def _show(found: list[ListedMessage], now: float) -> None:
    columns = ("ID", "AGE", "SIZE", "STATE", "NEXT", "FROM", "TO", "LAST REPLY")
    rows = [_row(message, now) for message in found]
    show_table(columns, rows, right=("AGE", "SIZE"), cut=("FROM", "TO", "LAST REPLY"))


def _footer(selection: Selection, depth: list[Depth], cut_at: int | None) -> str:
    """What the whole queue holds, if open messages were asked for, and whether there are more than those shown."""
    from pillarbox.control import OPEN_STATES
    from pillarbox.queue.spool import State

    parts = []
    if not selection.states or selection.states & OPEN_STATES:
        waiting = [one for one in depth if one.state is State.QUEUED]
        number = sum(one.recipients for one in waiting)
        held = sum(one.recipients for one in depth if one.state is State.HELD)
        verb = "waits" if number == 1 else "wait"
        places = count(len({one.destination for one in waiting}), "destination")
        parts += [f"{count(number, 'recipient')} {verb} for {places}"] if number else []
        parts += [f"{count(held, 'recipient')} {'is' if held == 1 else 'are'} held"] if held else []
    if cut_at is not None:
        parts.append(f"these are the first {cut_at}, --limit shows more")
    return "; ".join(parts).capitalize()


def _row(message: ListedMessage, now: float) -> tuple[str, ...]:
    waiting = [one for one in message.recipients if one.state <= 1] or list(message.recipients)
    first = min(waiting, key=lambda one: one.due, default=None)
    last = next((one.result.reply for one in waiting if one.result is not None), None)
    states = dict.fromkeys(_state_word(one) for one in waiting)
    return (
        message.queue_id,
        format_when(message.received_at, now).removesuffix(" ago"),
        approximate_size(message.octets),
        ", ".join(states),
        format_due(first.due, now) if first is not None and first.state == 0 and not first.active else "",
        message.envelope.sender or "<>" if message.envelope is not None else "?",
        some([one.address for one in waiting], _SHOWN_RECIPIENTS),
        str(last) if last is not None else "",
    )


def _state_word(recipient: ListedRecipient) -> str:
    return "active" if recipient.active else recipient.state.name.lower()


def to_json(message: ListedMessage) -> dict[str, object]:
    """A message in plain values."""
    envelope, trace = message.envelope, message.trace
    return {
        "id": message.queue_id,
        "received_at": iso_time(message.received_at),
        "octets": message.octets,
        "sender": envelope.sender if envelope is not None else None,
        "client": trace.client if trace is not None else None,
        "login": trace.login if trace is not None else None,
        "protocol": trace.protocol if trace is not None else None,
        "session": trace.session if trace is not None else None,
        "warned": trace.warned if trace is not None else None,
        "forwarded": trace.forwarded if trace is not None else None,
        "origin": trace.origin.split("\n") if trace is not None and trace.origin else [],
        "recipients": [_recipient_as_json(one) for one in message.recipients],
    }


def _recipient_as_json(one: ListedRecipient) -> dict[str, object]:
    result = one.result
    return {
        "address": one.address,
        "original": one.original or None,
        "state": one.state.name.lower(),
        "active": one.active,  # a worker has it in hand now
        "destination": one.destination,
        "due": iso_time(one.due) if one.state == 0 else None,
        "attempts": one.attempts,
        "reply": str(result.reply) if result is not None else None,
        "cause": result.reply.cause_id if result is not None else None,
        "stage": result.stage.value if result is not None else None,
        "host": result.host or None if result is not None else None,
    }


@queue.command("show")
@click.argument("queue_id", metavar="ID")
@click.option("--headers", is_flag=True, help="Print the header section of the message too.")
@click.option(
    "--message", is_flag=True, help="Write the whole message, and nothing else, to standard output."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def show(
    queue_id: str, data: Path | None, config: Path | None, *, headers: bool, message: bool, as_json: bool
) -> None:
    """Show one message: envelope, where it came from, and how each recipient stands."""
    from pillarbox.control import ControlError, find
    from pillarbox.queue.spool import SpoolError

    with opened(data, config) as ledger:
        try:
            found = find(ledger, queue_id)
            if message:
                _write_out(ledger.content(found.id).chunks())
                return
            head = ledger.content(found.id).head().partition(b"\r\n\r\n")[0] if headers else b""
        except ControlError as error:
            fail(str(error), Exit.NO_INPUT)
        except (SpoolError, OSError) as error:
            fail(f"the octets of this message are gone: {error}; finished messages keep none", Exit.NO_INPUT)
    if as_json:
        text = head.decode("utf-8", "replace")
        show_json(to_json(found) | ({"headers": text.split("\r\n")} if headers else {}))
        return
    print_message(found)
    click.echo(f"`pillarbox trace {found.queue_id}` tells its whole history.")
    for line in head.decode("utf-8", "backslashreplace").split("\r\n") if headers else ():
        click.echo(f"  | {_safe(line)}")


def _safe(line: str) -> str:
    from pillarbox.observe import visible

    return visible(line.replace("\t", "    "))


def _write_out(chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def print_message(found: ListedMessage) -> None:
    """A message for people."""
    now = time.time()
    envelope, trace = found.envelope, found.trace
    sender = (envelope.sender or "<>") if envelope is not None else "? (damaged)"
    click.echo(f"{found.queue_id}  from {_safe(sender)}  {approximate_size(found.octets)}")
    click.echo(f"  received {format_time(found.received_at)}, {format_when(found.received_at, now)}")
    if trace is not None:
        parts = (
            trace.client,
            trace.protocol,
            trace.helo and f"HELO {trace.helo}",
            trace.login and f"login {trace.login}",
        )
        click.echo("  " + _safe(", ".join(part for part in parts if part)))
        if trace.forwarded:
            click.echo("  XFORWARD told: " + _safe(trace.forwarded))
        if trace.warned:
            click.echo("  checks on trial would have said: " + _safe(trace.warned))
        for line in filter(None, trace.origin.split("\n")):
            click.echo("  " + _safe(" ".join(line.split())))
    fates: dict[tuple[str, ...], list[str]] = {}
    for one in found.recipients:
        original = f" (for {one.original})" if one.original else ""
        fates.setdefault(_fate(one, now), []).append(one.address + original)
    for (state, *lines), addresses in fates.items():
        click.echo(f"  to {_safe(some(addresses, _SHOWN_ALIKE))}: {state}")
        for line in lines:
            click.echo(f"     {_safe(line)}")


def _fate(one: ListedRecipient, now: float) -> tuple[str, ...]:
    """How a recipient stands, which way it takes, and what was said last; in short the same for many of a message."""
    from pillarbox.control import spelt

    when = f", next {format_due(one.due, now)}" if one.state == 0 and not one.active else ""
    way = spelt(one.destination).removesuffix(":")  # such as "hold", which leads nowhere else
    last = [f"last: {one.result.reply} {one.result.host}".rstrip()] if one.result is not None else []
    return (f"{_state_word(one)}, {count(one.attempts, 'attempt')}{when}", f"by {way}", *last)


# --- acting

_VERBS = {
    "hold": ("Keep messages until they are released.", "held"),
    "release": ("Deliver held messages now, and look at damaged ones again.", "released"),
    "retry": ("Try waiting messages now.", "to be tried now"),
    "bounce": ("Give messages up and report that to their senders.", "to be given up"),
    "remove": ("Throw messages away; nobody is told.", "removed"),
}


_CHOICE = """Choose them by ID, by options, or all with --all.

With --recipient, --state or --destination only those recipients of a message are meant that fit; for its others
nothing changes.

Exit status: 0 done; 1 there was nothing to do; 66 an ID or the store is not known.
"""


def _add_verb(verb: str, about: str, participle: str) -> None:
    @queue.command(verb, help=f"{about} {_CHOICE}")
    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @selecting
    @click.option("--all", "everything", is_flag=True, help="All messages of the queue.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @store_options
    def act(data: Path | None, config: Path | None, *, everything: bool, as_json: bool, **given: Any) -> None:
        selection = _selection(given)
        if selection.is_everything and not everything:
            raise click.UsageError("which messages? Name ids or conditions; --all means all of them")
        _act(verb, participle, selection, data, config, as_json=as_json)


def _act(
    verb: str, participle: str, selection: Selection, data: Path | None, config: Path | None, *, as_json: bool
) -> None:
    from pillarbox.control import ControlError, apply, select

    now = time.time()
    with opened(data, config) as ledger:
        try:
            messages = select(ledger, selection, now=now)
        except ControlError as error:
            fail(str(error), Exit.NO_INPUT)
        hidden = as_json or len(messages) < _PROGRESS_FROM
        with click.progressbar(length=len(messages), label=verb, hidden=hidden) as bar:
            done = apply(ledger, verb, selection, messages, now=now, progress=lambda _number: bar.update(1))
    if as_json:
        show_json({"verb": verb, **msgspec.structs.asdict(done)})
    elif not messages:
        click.echo("No message fits.")
    else:
        click.echo(_told(verb, participle, len(messages), done))
    sys.exit(Exit.OK if done.recipients else Exit.NOTHING)


def _told(verb: str, participle: str, fitting: int, done: Done) -> str:
    """What a verb did, for people."""
    if not done.recipients:
        return f"There is nothing to {verb} in {count(fitting, 'message')} chosen."
    told = f"{count(done.recipients, 'recipient')} of {count(done.messages, 'message')} {participle}."
    if done.others:
        told += f" For {count(done.others, 'other recipient')} nothing changed."
    if done.held_again:
        told += (
            f" {count(done.held_again, 'recipient')} will be held again at once, because the route is hold."
        )
    return told


for _verb, (_about, _participle) in _VERBS.items():
    _add_verb(_verb, _about, _participle)


def _add_destination_verb(verb: str, about: str, participle: str, unchanged: str) -> None:
    @queue.command(verb, help=about)
    @click.argument("destination")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @store_options
    def act(destination: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
        from pillarbox.control import ControlError, apply_to_destination, destinations

        with opened(data, config) as ledger:
            try:
                changed = apply_to_destination(ledger, verb, destination, now=time.time())
            except ControlError as error:
                fail(str(error), Exit.USAGE)
            suspended = ledger.suspended()
            known = destinations(ledger)
        if as_json:
            show_json({"verb": verb, "destination": destination, "suspended": suspended})
        elif not changed:
            click.echo(f"{_safe(destination)} {unchanged}.")
        else:
            no_mail = "" if destination in known else " No mail is bound for it now."
            click.echo(f"{_safe(destination)} {participle}.{no_mail}")
        sys.exit(Exit.OK if changed else Exit.NOTHING)


_add_destination_verb(
    "suspend",
    'Send nothing to a destination such as "mx:example.org". Exit status 1: it was suspended already.',
    "suspended",
    "was suspended already",
)
_add_destination_verb(
    "resume",
    "Send to a destination again. Exit status 1: it was not suspended.",
    "resumed",
    "was not suspended",
)
