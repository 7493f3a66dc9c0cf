"""`pillarbox serve`: run the server in the foreground, or without a file the sandbox.

Running it is `supervisor`'s business.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pillarbox.cli.outcome import Exit
from pillarbox.cli.sendmail import CONFIG_VARIABLE
from pillarbox.cli.show import fail
from pillarbox.cli.store import load_config, sandbox_folder

if TYPE_CHECKING:
    from pillarbox.config import Config
    from pillarbox.service import Service


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="The configuration.")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="The data folder.")
@click.option("--smtp", metavar="HOST:PORT", help="Where the sandbox listens; 127.0.0.1:1025 if not given.")
@click.option("--console", metavar="HOST:PORT", help="Where /metrics, /healthz and /readyz are.")
def serve(file: Path | None, data: Path | None, smtp: str | None, console: str | None) -> None:
    """Run the server until it gets SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Without a file it is the sandbox: loopback only, every message is taken and kept, nothing leaves this machine.
    Exit status: 0 stopped, 75 an address or the store can't be used now, 78 the configuration is wrong.
    """
    import apsw

    from pillarbox.queue.schema import StoreError
    from pillarbox.supervisor import run

    named = file or (Path(os.environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in os.environ else None)
    if named is not None and smtp is not None:
        raise click.UsageError("--smtp is for the sandbox; with a configuration write [[listen]]")

    def read() -> Config:
        return _configuration(named, data, smtp, console)

    config = read() if named is None else _with_options(load_config(named), data, console)
    try:
        sys.exit(run(config, read, None if named is not None else _tell))
    except (OSError, StoreError, apsw.Error) as error:
        fail(f"cannot start: {error}", Exit.TEMPORARY)
    except ValueError as error:
        fail(f"cannot start: {error}", Exit.CONFIG)


def _configuration(file: Path | None, data: Path | None, smtp: str | None, console: str | None) -> Config:
    """The configuration as the options have it. Raises ConfigError or OSError."""
    from pillarbox.config import load, sandbox
    from pillarbox.config.settings import SANDBOX_CONSOLE, SANDBOX_SMTP

    if file is not None:
        return _with_options(load(file), data, console)
    folder = data or sandbox_folder()
    return sandbox(data=str(folder.absolute()), smtp=smtp or SANDBOX_SMTP, console=console or SANDBOX_CONSOLE)


def _with_options(config: Config, data: Path | None, console: str | None) -> Config:
    """Options of the command line win over the file."""
    from pillarbox.config import ConsoleSettings

    if data is not None:
        config = msgspec.structs.replace(config, data=str(data.absolute()))
    if console is not None:
        config = msgspec.structs.replace(config, console=ConsoleSettings(address=console))
    return config


def _tell(service: Service) -> None:
    """Say what to try next."""
    host, port = service.addresses[0]
    here = f"{host}:{port}"
    click.echo(f"""
  The sandbox takes mail at {here}. Every message is kept, none leaves this machine.

  Try:   pillarbox send --server {here} --to you@example.org --subject Hello --body 'It works'
         pillarbox queue list --data {service.config.data}
         pillarbox trace QUEUE-ID --data {service.config.data}
         pillarbox explain '550 5.1.1 No such user'
         curl http://{service.config.console.address}/metrics

  Point your application's mail settings at {here}, without TLS or login. Stop with Ctrl-C.
""")
