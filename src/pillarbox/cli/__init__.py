"""The command line: arguments in, one call to `service` or `control`, words or JSON out.

`sendmail` runs once for every message that a program sends, so it starts without everything that others need.
"""

from __future__ import annotations

import errno
import gc
import os
import sys

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_MANY_OBJECTS = 100_000  # what imports make lives on: to look for garbage among it takes a tenth of a start


def main() -> None:
    """Run the command of `sys.argv`; a link called `sendmail`, `mailq` or `newaliases` runs that one."""
    gc.set_threshold(_MANY_OBJECTS)
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in _FULL:
            raise
        from pillarbox.cli.outcome import Exit

        # What is left would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"pillarbox: cannot write: {error.strerror}\n")
        sys.exit(Exit.IO_ERROR)


def _run() -> None:
    called = sys.argv[0].rpartition("/")[2]
    if called in ("sendmail", "mailq", "newaliases"):
        arguments: list[str] | None = [
            *({"mailq": ["-bp"], "newaliases": ["-bi"]}.get(called, [])),
            *sys.argv[1:],
        ]
    else:
        arguments = sys.argv[2:] if sys.argv[1:2] == ["sendmail"] else None
    if arguments is not None and arguments != ["--help"]:
        from pillarbox.cli.sendmail import run

        sys.exit(run(arguments))
    from pillarbox.cli.commands import cli

    cli(arguments and ["sendmail", *arguments], prog_name="pillarbox")
