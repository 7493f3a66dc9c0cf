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
from pillarbox.mail.units import format_duration
from pillarbox.observe import visible

if TYPE_CHECKING:
    from pillarbox.control import Step, Timeline

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
    """Tell what happened to a message, each refusal explained. It works for finished messages too."""
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
    for step in timeline.steps:
        _print_step(step, start)


def _print_step(step: Step, start: float) -> None:
    colour = is_colourful()
    after = f"+{format_duration(max(0.0, step.at - start))}"
    kind = click.style(f"{step.kind:10}", fg=_COLOURS.get(step.kind))
    who = f" {visible(step.recipient)}" if step.recipient else ""
    click.echo(f"{format_time(step.at)} {after:>8}  {kind}{who}", color=colour)
    indent = " " * 31
    reply = str(step.detail.get("reply", ""))
    if reply:
        host = str(step.detail.get("host") or "")
        speaker = f"{host} said" if step.detail.get("origin") == "peer" and host else "this server noted"
        click.echo(wrapped(f"{speaker}: {reply}", indent))
    if note := str(step.detail.get("note", "")):
        click.echo(wrapped(note, indent))
    tls = str(step.detail.get("tls", ""))
    if tls:
        click.echo(click.style(wrapped(f"protection: {tls}", indent), dim=True), color=colour)
    if step.explanation is not None:
        found = step.explanation
        for line in (found.meaning, found.advice):
            if line:
                click.echo(click.style(wrapped(line, indent), dim=True), color=colour)
    due = step.detail.get("due")
    if isinstance(due, int | float) and due > step.at and step.kind == "deferred":
        click.echo(f"{indent}next attempt {format_time(due)}")
