"""Tell what happened to a message, step by step.

What is known is the business of `control`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, format_time, is_colourful, iso_time, show_json, wrapped
from pillarbox.cli.store import opened, store_options
from pillarbox.mail.spelling import some
from pillarbox.mail.units import format_duration
from pillarbox.observe import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pillarbox.control import Step, Timeline

_INDENT = " " * 31
_SHOWN_RECIPIENTS = 8
_COLOURS = {
    "delivered": "green",
    "failed": "red",
    "bounced": "red",
    "returned": "red",
    "damaged": "red",
    "deferred": "yellow",
}


@click.command()
@click.argument("queue_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def trace(queue_id: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """Tell what happened to a message, each refusal explained. It works for finished messages too.

    Recipients to whom the same happened at the same time are told of together; --json tells of each.
    """
    from pillarbox.control import ControlError
    from pillarbox.control import trace as ask

    with opened(data, config) as ledger:
        try:
            timeline = ask(ledger, queue_id)
        except ControlError as error:
            fail(str(error), Exit.NO_INPUT)
    if as_json:
        show_json(_as_json(timeline))
    else:
        _print(timeline)


def _as_json(timeline: Timeline) -> dict[str, object]:
    from pillarbox.cli.queue import to_json

    steps = [
        {
            "at": iso_time(step.at),
            "kind": step.kind,
            "recipient": step.recipient or None,
            **step.detail,
            "explanation": step.explanation.to_dict() if step.explanation is not None else None,
        }
        for step in timeline.steps
    ]
    return to_json(timeline.message) | {"steps": steps}


def _print(timeline: Timeline) -> None:
    from pillarbox.cli.queue import print_message

    print_message(timeline.message)
    click.echo()
    start = timeline.message.received_at
    told: set[str] = set()
    for group in _alike(timeline.steps):
        _print_group(group, start, told)


def _alike(steps: Iterable[Step]) -> list[list[Step]]:
    """Steps that differ in their recipient alone, together in the place of the first of them."""
    groups: dict[tuple[str, ...], list[Step]] = {}
    for step in steps:
        groups.setdefault((format_time(step.at), step.kind, *_facts(step)), []).append(step)
    return list(groups.values())


def _facts(step: Step) -> tuple[str, str, str, str]:
    """What was said, what was done with the copy, how the session was protected, what comes next; "" for none."""
    reply = str(step.detail.get("reply", ""))
    host = str(step.detail.get("host") or "")
    speaker = f"{host} said" if step.detail.get("origin") == "peer" and host else "this server noted"
    tls, due = str(step.detail.get("tls", "")), step.detail.get("due")
    is_put_off = isinstance(due, int | float) and due > step.at and step.kind == "deferred"
    return (
        f"{speaker}: {reply}" if reply else "",
        str(step.detail.get("note", "")),
        f"protection: {tls}" if tls else "",
        f"next attempt {format_time(float(str(due)))}" if is_put_off else "",
    )


def _print_group(group: Sequence[Step], start: float, told: set[str]) -> None:
    """Print steps that are alike, and what they mean unless it is among what was `told` already."""
    step, colour = group[0], is_colourful()
    after = f"+{format_duration(max(0.0, step.at - start))}"
    kind = click.style(f"{step.kind:10}", fg=_COLOURS.get(step.kind))
    who = some([one.recipient for one in group if one.recipient], _SHOWN_RECIPIENTS)
    to = f" {visible(who)}" if who else ""
    click.echo(f"{format_time(step.at)} {after:>8}  {kind}{to}", color=colour)
    said, note, tls, then = _facts(step)
    _print_line(said)
    _print_line(note)
    _print_line(tls, dim=True)
    found = step.explanation
    for line in (found.meaning, found.advice) if found is not None else ():
        if line not in told:
            told.add(line)
            _print_line(line, dim=True)
    _print_line(then)


def _print_line(line: str, *, dim: bool = False) -> None:
    if line:
        click.echo(click.style(wrapped(line, _INDENT), dim=dim or None), color=is_colourful())
