"""`pillarbox trace`: what happened to one message, step by step, each refusal explained.

The history itself is kept by the store and read by `control`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, format_time, is_colourful, iso_time, show_json
from pillarbox.cli.store import opened, store_options
from pillarbox.control import ControlError
from pillarbox.control import trace as read_trace
from pillarbox.observe import visible

if TYPE_CHECKING:
    from pillarbox.control import Step, Timeline


@click.command()
@click.argument("queue_id")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@store_options
def trace(queue_id: str, *, as_json: bool, data: Path | None, config: Path | None) -> None:
    """Tell what happened to a message, step by step. Exit status: 0, or 66 if no such message is known."""
    with opened(data, config) as ledger:
        try:
            timeline = read_trace(ledger, queue_id)
        except ControlError as error:
            fail(str(error), Exit.NO_INPUT)
    if as_json:
        show_json(_to_dict(timeline))
        return
    message = timeline.message
    sender = message.envelope.sender or "<>" if message.envelope is not None else "(not readable)"
    click.echo(visible(f"{message.queue_id} from {sender}, {message.octets} octets"))
    if message.trace is not None:
        source = message.trace
        click.echo(
            visible(
                f"  came from {source.client} ({source.helo}) by {source.protocol}, session {source.session}"
            )
        )
    for step in timeline.steps:
        _show(step)


def _show(step: Step) -> None:
    colour = {"delivered": "green", "failed": "red", "deferred": "yellow"}.get(step.kind)
    words = [format_time(step.at), click.style(step.kind, fg=colour)]
    if step.recipient:
        words.append(visible(step.recipient))
    reply = step.detail.get("reply")
    if reply:
        host = step.detail.get("host")
        words.append(visible(f"{f'{host} said: ' if host else ''}{reply}"))
    click.echo("  ".join(words), color=is_colourful())
    if step.explanation is not None:
        click.echo(visible(f"    {step.explanation.meaning} {step.explanation.advice}".rstrip()))


def _to_dict(timeline: Timeline) -> dict[str, object]:
    message = timeline.message
    return {
        "id": message.queue_id,
        "sender": message.envelope.sender if message.envelope is not None else None,
        "steps": [
            {
                "at": iso_time(step.at),
                "kind": step.kind,
                "recipient": step.recipient or None,
                "detail": {name: str(value) for name, value in step.detail.items()},
                "explanation": step.explanation.to_dict() if step.explanation is not None else None,
            }
            for step in timeline.steps
        ],
    }
