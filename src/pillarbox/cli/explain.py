"""`pillarbox explain`: what a reply, a code, an enhanced status or a cause means.

The knowledge is `diagnose.explain`'s.
"""

from __future__ import annotations

import sys

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import is_colourful, show_json
from pillarbox.diagnose.explain import Explanation
from pillarbox.diagnose.explain import explain as look_up
from pillarbox.mail.reply import Who
from pillarbox.observe import visible

_MAX_CHARACTERS = 65_536


@click.command()
@click.argument("words", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(words: tuple[str, ...], *, as_json: bool) -> None:
    """Explain a reply, a code, a status or a cause; from standard input if nothing is given.

    Exit status: 0 if something could be told, 65 if not.
    """
    asked = " ".join(words) if words else sys.stdin.read(_MAX_CHARACTERS)
    found = look_up(asked)
    if as_json:
        show_json(found.to_dict())
    else:
        _show(found)
    sys.exit(Exit.OK if found.known else Exit.DATA)


def _show(found: Explanation) -> None:
    click.echo(click.style(visible(found.title), bold=True), color=is_colourful())
    for text in (found.meaning, found.explanation):
        if text:
            click.echo(click.wrap_text(visible(text), 100))
    facts = [
        ("Whose move", found.who.value if found.who is not Who.NOBODY else ""),
        ("What to do", found.advice),
        ("A client", found.client),
        ("Standard", found.clause),
    ]
    for name, text in facts:
        if text:
            click.echo(click.wrap_text(visible(f"{name}: {text}"), 100, subsequent_indent="  "))
    for note in found.notes:
        click.echo(click.wrap_text(visible(f"Note: {note}"), 100, subsequent_indent="  "))
    if found.causes:
        click.echo("\nThis server says it for:")
        for cause in found.causes:
            setting = f" ({cause.setting})" if cause.setting else ""
            click.echo(visible(f"  {cause.id:36} {cause.code} {cause.status} {cause.meaning}{setting}"))
