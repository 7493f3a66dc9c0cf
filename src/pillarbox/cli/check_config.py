"""`pillarbox check-config`: read a configuration as the server would, and say what it means or what is wrong.

Reading it is `config`'s business.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.sendmail import CONFIG_FILE
from pillarbox.cli.show import fail, show_json
from pillarbox.observe import visible


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), default=CONFIG_FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check_config(file: Path, *, as_json: bool) -> None:
    """Check a configuration FILE. Exit status: 0 good, 66 not readable, 78 wrong."""
    from pillarbox.config import ConfigError, load

    try:
        config = load(file)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", Exit.NO_INPUT)
    except ConfigError as error:
        if as_json:
            show_json({"good": False, "problems": [str(problem) for problem in error.problems]})
        else:
            click.echo(visible(str(error)) if "\n" not in str(error) else str(error), err=True)
        sys.exit(Exit.CONFIG)
    summary = {
        "hostname": config.hostname,
        "data": config.data,
        "workers": config.workers,
        "listens": [f"{one.address} ({one.role.value}, TLS {one.tls})" for one in config.listen],
        "domains": sorted(config.domains),
        "routes": [f"{one.match} via {one.via}" for one in config.routes] or ["* via mx"],
        "accounts": sorted(config.accounts),
    }
    if as_json:
        show_json({"good": True, **summary})
        return
    click.echo(f"{file} is good.")
    for name, value in summary.items():
        click.echo(visible(f"  {name}: {', '.join(value) if isinstance(value, list) else value}"))
