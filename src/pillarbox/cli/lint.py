"""Judge the transcript of a session by the standards.

The rules are `diagnose.rules`' business, judging is `diagnose.lint`'s.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail, is_colourful, read_text, show_json
from pillarbox.observe import visible

if TYPE_CHECKING:
    from pillarbox.diagnose.lint import Fault

_FOUND = 1  # as other linters have it: nothing is wrong with the command, but with the transcript


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lint(path: Path, *, as_json: bool) -> None:
    """Judge the transcript of an SMTP or LMTP session: the form of replies, what is said when, the client's faults.

    FILE holds a transcript as `pillarbox explain` takes it; "-" is standard input. One line is printed for each fault:
    where, how bad, which rule, what it is about, and the clause. The rules are listed in docs/reference/lint.md.

    Exit status: 0 no fault, 1 faults, 65 not a transcript, 64, 66 wrong use or input.
    """
    from pillarbox.diagnose.lint import lint as judge

    found = judge(read_text(path))
    if as_json:
        show_json(found.to_dict())
    elif not found.sessions:
        fail("this is no transcript of an SMTP session", Exit.DATA)
    else:
        for fault in found.faults:
            _print(fault, path)
        counts = Counter(fault.rule.severity.value for fault in found.faults)
        told = ", ".join(
            f"{count} {name}{'s' if count > 1 else ''}" for name, count in sorted(counts.items())
        )
        click.echo(
            f"{found.exchanges} commands and replies ({found.notation}): {told or 'no fault'}", err=True
        )
    sys.exit(_FOUND if found.faults else Exit.OK if found.sessions else Exit.DATA)


def _print(fault: Fault, path: Path) -> None:
    rule = fault.rule
    colour = {"error": "red", "warning": "yellow"}[rule.severity.value]
    where = visible(f"{path if str(path) != '-' else 'stdin'}:{fault.line}: ")
    head = click.style(f"{rule.severity.value} {rule.id}", fg=colour)
    text = visible(f" ({rule.side.value}): {rule.says} Here: {fault.detail}. [{rule.clause}]")
    click.echo(where + head + text, color=is_colourful())
