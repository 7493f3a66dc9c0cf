"""Run the server in the foreground, and tell a newcomer to the sandbox what to try next.

Building and running it is the business of `service` and `supervisor`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.places import CONFIG_VARIABLE, own_command
from pillarbox.cli.show import fail
from pillarbox.cli.store import named_config, sandbox_folder

if TYPE_CHECKING:
    from pillarbox.config import Config
    from pillarbox.service import Service

_WELCOME = """
Pillarbox sandbox: it takes every message, keeps it, and lets none leave this machine.

  SMTP       {smtp}
{encrypted}{console}  mail in    {data}

Point your application's mail settings at {smtp}, without TLS or login, or try in another terminal:
  {command} send --server {smtp} --to someone@example.org
  {command} queue list{option}
  {command} queue show --message ID{option}
  {command} explain 550 5.1.1 No such user
End with Ctrl-C.
"""
_CONSOLE = "  metrics    {0}/metrics\n  replies    {0}/reference/ explains each one\n"


class Place(click.ParamType[str]):
    """Where to listen, such as "127.0.0.1:1025"; "" is nowhere."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from pillarbox.config.checks import split_address

        try:
            if value:
                split_address(value)
        except ValueError:
            port = "a port from 1 to 65535, 0 for a free one"
            self.fail(f"{value!r}: write HOST:PORT, such as 127.0.0.1:2025, with {port}", param, ctx)
        return str(value)


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar=CONFIG_VARIABLE,
    metavar="FILE",
    help=f"The configuration. Default: ${CONFIG_VARIABLE}, else a sandbox for this machine.",
)
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="The data folder.")
@click.option(
    "--smtp",
    type=Place(),
    metavar="HOST:PORT",
    help="Where the sandbox listens, alone. Default: 127.0.0.1:1025, and :1587 with STARTTLS, :1465 with TLS.",
)
@click.option(
    "--console",
    type=Place(),
    metavar="HOST:PORT",
    help='Where /metrics, /healthz, /readyz and /reference/ are; "" for nowhere.',
)
def serve(config: Path | None, data: Path | None, smtp: str | None, console: str | None) -> None:
    """Run the server until SIGTERM or Ctrl-C; SIGHUP reads the configuration again without dropping a session.

    Without one it is the sandbox: only this machine can connect, every message is kept, none leaves; SIGHUP ends it.
    Exit status: 0 ended as asked; 66 the configuration cannot be read; 75 an address or the store cannot be used now;
    78 the configuration is wrong.
    """
    from functools import partial

    from pillarbox.config import ConfigError, warnings
    from pillarbox.supervisor import StartError, run

    if config is not None and smtp is not None:
        raise click.UsageError("--smtp is for the sandbox; with a configuration write [[listen]]")

    def read() -> Config:
        return _settings(config, data, smtp, console)

    try:
        settings = read()
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(Exit.CONFIG)
    except OSError as error:
        fail(f"cannot read {config}: {error.strerror}", Exit.NO_INPUT)
    try:
        warn = partial(warnings, file=config)
        if config is None:
            sys.exit(run(settings, warn, ready=_welcome))
        sys.exit(run(settings, warn, reload=read))
    except StartError as error:
        advice = "" if config is not None else "; --smtp, --console and --data choose other places"
        fail(f"cannot start: {error}{advice}", Exit.CONFIG if error.lasting else Exit.TEMPORARY)


def _settings(file: Path | None, data: Path | None, smtp: str | None, console: str | None) -> Config:
    """The file's settings, or the sandbox's, with what the command line says. Raises ConfigError or OSError."""
    import msgspec

    from pillarbox.config import ConfigError, load, sandbox
    from pillarbox.config.checks import check
    from pillarbox.config.strict import locate

    settings = sandbox(data=str(sandbox_folder()), smtp=smtp or "") if file is None else load(file)
    if data is not None:
        settings = msgspec.structs.replace(settings, data=str(data.absolute()))
    if console is not None:
        place = msgspec.structs.replace(settings.console, address=console)
        settings = msgspec.structs.replace(settings, console=place)
    problems = [locate(finding, {}, "command line") for finding in check(settings)]
    if problems:
        raise ConfigError(problems)
    return settings


def _welcome(service: Service) -> None:
    """Say what the sandbox is for."""
    data = service.config.data
    found = data == str(sandbox_folder()) and named_config() is None  # by a command that is told no folder
    option = "" if found else f" --data {shlex.quote(data)}"
    smtp = "{}:{}".format(*service.addresses[0])
    console = ""
    if service.console_address is not None:
        console = _CONSOLE.format("http://{}:{}".format(*service.console_address))
    encrypted = "".join(
        f"  {'STARTTLS' if listener.tls == 'starttls' else 'TLS':9}  {host}:{port}\n"
        for listener, (host, port) in zip(service.config.listen, service.addresses, strict=True)
        if listener.tls != "none"
    )
    facts = {"smtp": smtp, "encrypted": encrypted, "console": console, "data": data, "option": option}
    click.echo(_WELCOME.format(command=own_command(), **facts))
