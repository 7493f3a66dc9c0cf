"""How the commands show results: tables for people, JSON for programs, foreign text always escaped.

What is shown is each command's business.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

import click

from pillarbox.mail.units import format_duration
from pillarbox.observe import visible

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from pillarbox.cli.outcome import Exit

_MAX_OCTETS = 16 * 1024 * 1024 + 4  # enough for every character that is looked at
_MAX_SENTENCE = 500
_GAP = 2  # between columns of a table
_LEAST_WIDTH = 8  # of a column that is cut
_MIN_WIDTH, _USUAL_WIDTH, _MAX_WIDTH = 40, 80, 100


class Group(click.Group):
    """A command with others below it, each listed with the whole first sentence of its help."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list; click itself cuts each line off."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, command.get_short_help_str(_MAX_SENTENCE)) for name, command in found if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def is_colourful(stream: object = None) -> bool:
    """Whether to colour what goes to standard output."""
    terminal = bool(getattr(stream or sys.stdout, "isatty", bool)())
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fail(text: str, status: Exit) -> NoReturn:
    """End with a message on standard error."""
    click.echo(click.style("pillarbox: ", fg="red") + visible(text), err=True, color=is_colourful(sys.stderr))
    sys.exit(status)


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for "-", for commands that read what people paste."""
    if str(path) == "-":
        return decode(sys.stdin.buffer.read(_MAX_OCTETS))
    try:
        with path.open("rb") as file:
            return decode(file.read(_MAX_OCTETS))
    except OSError as error:
        from pillarbox.cli.outcome import Exit

        fail(f"cannot read {path}: {error.strerror}", Exit.NO_INPUT)


def decode(octets: bytes) -> str:
    """Text from a file; Windows likes to write UTF-16."""
    if octets.startswith((b"\xff\xfe", b"\xfe\xff")):
        return octets.decode("utf-16", "replace")
    return octets.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def ask_password(*, twice: bool = False) -> str:
    """Ask for a password on the terminal; without one it is wrong use."""
    from pillarbox.cli.outcome import Exit

    if not _has_terminal():
        fail("there is no terminal to ask for the password; use --password-file", Exit.USAGE)
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=twice, err=True))


def _has_terminal() -> bool:
    """Whether this process has one, even if its input comes from elsewhere."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def show_json(value: object) -> None:
    """Print a value for programs; in ASCII, so that it survives every pipe."""
    import json

    click.echo(json.dumps(value, indent=2))


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    cut: Sequence[str] = (),
) -> None:
    """Print rows for people; columns named in `right` are numbers.

    Where a terminal has too little room, what is in a column named in `cut` is cut off and the others stay whole; if none is
    named, all are broken into lines.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [[visible(cell) for cell in row] for row in rows]
    # A program that reads the table gets one line a row.
    room = _terminal_columns() if sys.stdout.isatty() else 10_000
    widths = _shares([columns, *shown], {columns.index(name) for name in cut}, room) if cut else {}
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="ellipsis" if cut else "fold",
            no_wrap=bool(cut),
            width=widths.get(place),
        )
    for row in shown:
        table.add_row(*(Text(cell) for cell in row))
    wide = max(room, sum(widths.values()) + _GAP * (len(columns) - 1))
    console = Console(highlight=False, markup=False, no_color=not is_colourful(), width=wide)
    console.print(table)


def _shares(rows: Sequence[Sequence[str]], cut: Collection[int], room: int) -> dict[int, int]:
    """How wide each column is: as wide as its widest cell, but those to be cut share what the others leave over."""
    from rich.cells import cell_len

    widths = {place: max(map(cell_len, cells)) for place, cells in enumerate(zip(*rows, strict=True))}
    room -= _GAP * (len(widths) - 1) + sum(width for place, width in widths.items() if place not in cut)
    for left, place in zip(range(len(cut), 0, -1), sorted(cut, key=widths.__getitem__), strict=True):
        widths[place] = min(widths[place], max(room // left, _LEAST_WIDTH))
        room -= widths[place]
    return widths


def _terminal_columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def page_width() -> int:
    """How wide text for people may be: as the terminal, but not too wide to read."""
    columns = _terminal_columns() if sys.stdout.isatty() else _USUAL_WIDTH
    return max(_MIN_WIDTH, min(columns, _MAX_WIDTH))


def wrapped(text: str, indent: str) -> str:
    """Text for people, foreign characters escaped, in lines that fit and begin with `indent`."""
    return click.wrap_text(visible(text), page_width(), initial_indent=indent, subsequent_indent=indent)


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_when(at: float, now: float) -> str:
    """A moment relative to now: "3m ago", "in 2h5m", "now"."""
    if abs(at - now) < 1:
        return "now"
    return f"{format_duration(now - at)} ago" if at < now else f"in {format_duration(at - now)}"


def format_due(at: float, now: float) -> str:
    """When something is to be done: "in 2h5m", or "now" from its time on."""
    return "now" if at <= now else format_when(at, now)


def format_time(at: float) -> str:
    """A moment as local time and date."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def iso_time(at: float) -> str:
    """A moment for programs (RFC 3339)."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
