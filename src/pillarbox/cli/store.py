"""Find the data folder that a command about the queue means.

What is done with the store in it is `control`'s business.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.places import CONFIG_FILE, CONFIG_VARIABLE, named_file
from pillarbox.cli.show import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pillarbox.config import Config
    from pillarbox.policy.domains import DomainSettings
    from pillarbox.queue.ledger import Ledger

F = TypeVar("F", bound="Callable[..., object]")


def store_options(function: F) -> F:
    """Add --data and --config to a command."""
    data = click.option(
        "--data", type=click.Path(path_type=Path), metavar="DIR", help="The server's data folder."
    )
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Take the data folder from this file. Default: ${CONFIG_VARIABLE}, {CONFIG_FILE}, else the sandbox.",
    )
    return data(config(function))


@contextmanager
def opened(data: Path | None, config: Path | None) -> Iterator[Ledger]:
    """The store that the options mean; what goes wrong with it ends the command."""
    import apsw

    from pillarbox.control import ControlError, open_store

    try:
        with open_store(data or data_folder(config)) as ledger:
            yield ledger
    except ControlError as error:
        fail(str(error), Exit.NO_INPUT)
    except apsw.Error as error:
        fail(f"the store cannot be used now: {error}", Exit.TEMPORARY)


def sandbox_folder() -> Path:
    """Where the sandbox keeps its mail: in the user's state folder (XDG base directories)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "pillarbox/sandbox"


def data_folder(config: Path | None) -> Path:
    """The data folder of a configuration, else of the system's, else of the sandbox."""
    named = config or named_config()
    return sandbox_folder() if named is None else Path(load_config(named).data)


def named_config() -> Path | None:
    """The configuration file that is meant when none is named, if there is one."""
    named = Path(named_file())
    return named if os.environ.get(CONFIG_VARIABLE) or named.exists() else None


def configured_domains(data: Path | None, config: Path | None) -> dict[str, DomainSettings]:
    """The domains of the configuration that is meant, by name."""
    file = config or (None if data else named_config())
    return load_config(file).domains if file is not None else {}


def auth_mechanisms(data: Path | None, config: Path | None) -> tuple[str, ...]:
    """The mechanisms for which a password has to be kept: those of the configuration, else of the defaults."""
    from pillarbox.policy.accounts import AuthSettings

    file = config or (None if data else named_config())
    return (load_config(file).auth if file is not None else AuthSettings()).mechanisms


def load_config(file: Path) -> Config:
    """Read a configuration, or end the command with everything that is wrong with it."""
    from pillarbox.config import ConfigError, load

    try:
        return load(file)
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise SystemExit(Exit.CONFIG) from error
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", Exit.NO_INPUT)
