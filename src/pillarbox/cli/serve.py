"""Run the server in the foreground, and tell a newcomer to the sandbox what to try next.

Building and running it is the business of `service` and `supervisor`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.show import fail
from pillarbox.cli.store import sandbox_folder

if TYPE_CHECKING:
    from pillarbox.config import Config
    from pillarbox.service import Service

_SANDBOX_WELCOME = """\
Pillarbox sandbox: it takes every message, keeps it, and sends nothing on.

  SMTP       {smtp}
  metrics    {console}
  mail in    {data}

Try next, in another terminal:
  pillarbox send --to someone@example.org --server {smtp}
  pillarbox queue list{option}
  pillarbox explain 550
End with Ctrl-C."""


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration. Without it: a sandbox for this machine.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="The data folder, instead of the file's."
)
@click.option("--smtp", metavar="HOST:PORT", help="The first address to listen on, instead of the file's.")
@click.option("--console", metavar="HOST:PORT", help="Where metrics are shown, instead of the file's.")
def serve(config: Path | None, data: Path | None, smtp: str | None, console: str | None) -> None:
    """Run the server until SIGTERM or Ctrl-C; SIGHUP reads the file again without dropping a session.

    Without --config it is a sandbox: only this machine can connect, every message is kept, nothing leaves.
    Exit status: 0 ended as asked, 71 an address cannot be used, 78 the configuration is wrong.
    """
    import apsw

    from pillarbox.config import ConfigError
    from pillarbox.queue.schema import StoreError
    from pillarbox.queue.spool import SpoolError
    from pillarbox.supervisor import run

    try:
        settings = _settings(config, data, smtp, console)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(Exit.CONFIG)
    except OSError as error:
        fail(f"cannot read {config}: {error.strerror}", Exit.NO_INPUT)
    reload = None if config is None else lambda: _settings(config, data, smtp, console)
    try:
        sys.exit(run(settings, reload, _welcome if config is None else None))
    except (StoreError, SpoolError, apsw.Error) as error:
        fail(f"the store in {settings.data} cannot be opened: {error}", Exit.OS)
    except (OSError, ImportError) as error:
        fail(f"cannot start: {error}", Exit.OS)


def _settings(file: Path | None, data: Path | None, smtp: str | None, console: str | None) -> Config:
    """The file's settings, or the sandbox's, and those of the command line instead. Raises ConfigError or OSError."""
    import msgspec

    from pillarbox.config import ConfigError, ListenSettings, load, sandbox
    from pillarbox.config.checks import check
    from pillarbox.config.strict import locate

    if file is None:
        settings = sandbox(data=str(data.absolute() if data is not None else sandbox_folder()))
    else:
        settings = load(file)
    changes: dict[str, object] = {}
    if data is not None:
        changes["data"] = str(data.absolute())
    if smtp is not None:
        first, *others = settings.listen or (ListenSettings(address=smtp),)
        changes["listen"] = (msgspec.structs.replace(first, address=smtp), *others)
    if console is not None:
        changes["console"] = msgspec.structs.replace(settings.console, address=console)
    changed: Config = msgspec.structs.replace(settings, **changes)
    problems = [locate(finding, {}, "command line") for finding in check(changed)]
    if problems:
        raise ConfigError(problems)
    return changed


def _welcome(service: Service) -> None:
    """Say what the sandbox is for."""
    settings = service.config
    host, port = service.addresses[0]
    click.echo(
        _SANDBOX_WELCOME.format(
            smtp=f"{host}:{port}",
            console=f"http://{settings.console.address}/metrics",
            data=settings.data,
            option="" if settings.data == str(sandbox_folder()) else f" --data {settings.data}",
        )
    )
