"""Explain a reply, a code, a status or a cause to a person.

What it means is `diagnose.meaning`'s business.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import is_colourful, show_json
from pillarbox.observe import visible

if TYPE_CHECKING:
    from pillarbox.diagnose.meaning import Explanation

_SHOWN_CAUSES = 12
_MAX_CHARACTERS = 65_536
_WIDTH = 100


@click.command()
@click.argument("text", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(text: tuple[str, ...], *, as_json: bool) -> None:
    """Explain a code (550), a status (5.1.1), a cause (envelope.relay_denied) or a whole reply.

    Without TEXT it reads a reply from standard input. Exit status: 0 explained, 65 nothing is known of it.
    """
    from pillarbox.diagnose.meaning import look_up

    asked = " ".join(text) if text else sys.stdin.read(_MAX_CHARACTERS)
    found = look_up(asked)
    if as_json:
        show_json(found.to_dict())
    else:
        _print(found)
    sys.exit(Exit.OK if found.known else Exit.DATA)


def _print(found: Explanation) -> None:
    colour = is_colourful()
    click.echo(click.style(visible(found.title), bold=True), color=colour)
    for line in (found.meaning, found.explanation):
        if line:
            click.echo(_wrapped(line, "  "))
    rows = (
        ("whose move", found.who.value if found.known else ""),
        ("what to do", found.advice),
        ("a sender", found.client),
        ("standard", found.clause),
    )
    for name, value in rows:
        if value:
            label = f"{name:>12}  "
            click.echo(
                click.style(label, dim=True) + _wrapped(value, " " * len(label)).lstrip(), color=colour
            )
    for note in found.notes:
        click.echo(_wrapped(note, " " * 14).replace(" " * 14, "        note  ", 1))
    if found.causes:
        click.echo("This server says it because of:")
    for cause in found.causes[:_SHOWN_CAUSES]:
        click.echo(f"  {cause.id:32} {cause.meaning}")
        if cause.setting:
            click.echo(f"  {'':32} governed by {cause.setting}")
    if len(found.causes) > _SHOWN_CAUSES:
        click.echo(f"  and {len(found.causes) - _SHOWN_CAUSES} more; --json lists all")


def _wrapped(text: str, indent: str) -> str:
    return click.wrap_text(visible(text), _WIDTH, initial_indent=indent, subsequent_indent=indent)
