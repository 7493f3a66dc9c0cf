"""Read the configuration file: strict TOML in, one frozen `Config` out, or every error with its line.

Nothing but `service` and `cli` imports it; the parts get their own settings and know of no file.
"""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pillarbox.config.advice import unwise
from pillarbox.config.checks import check, check_accounts
from pillarbox.config.machine import doubtful
from pillarbox.config.settings import AccountsFile, Config, ConsoleSettings, ListenSettings, sandbox
from pillarbox.config.source import Path as Place
from pillarbox.config.source import find_lines
from pillarbox.config.strict import ConfigError, Finding, Problem, locate, read_settings
from pillarbox.config.syntax import explain_syntax
from pillarbox.mail.units import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillarbox.policy.accounts import AccountSettings

S = TypeVar("S", bound=Settings)

__all__ = [
    "Config",
    "ConfigError",
    "ConsoleSettings",
    "ListenSettings",
    "Problem",
    "load",
    "load_accounts",
    "parse",
    "sandbox",
    "warnings",
]


def load(path: str | Path) -> Config:
    """Read a file. Raises ConfigError, which names everything that is wrong, or OSError."""
    return parse(_read(path), str(path))


def load_accounts(path: str | Path) -> dict[str, AccountSettings]:
    """Read a file of accounts, which has nothing but tables [account.NAME]. Raises ConfigError or OSError."""
    return _parse(
        _read(path), str(path), AccountsFile, lambda file: list(check_accounts(file.accounts))
    ).accounts


def parse(text: str, file: str) -> Config:
    """Read a configuration; `file` is named in errors. Raises ConfigError."""
    return _parse(text, file, Config, check)


def warnings(config: Config, file: str | Path | None = None) -> list[Problem]:
    """What is allowed and yet seldom meant, in the order of the file that the configuration was read from.

    Of one that comes from no file nothing is looked at on this machine. Whoever may not read the file gets no lines.
    """
    if file is None:
        return [locate(finding, {}, "command line") for finding in unwise(config)]
    lines: dict[Place, int] = {}
    with contextlib.suppress(PermissionError):
        lines = find_lines(_read(file))
    found = [*unwise(config), *doubtful(config, Path(file))]
    return sorted((locate(one, lines, str(file)) for one in found), key=lambda problem: problem.line)


def _read(path: str | Path) -> str:
    octets = Path(path).read_bytes()
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), line, "", "not UTF-8", "save the file as UTF-8")]) from error


def _parse(text: str, file: str, kind: type[S], check_all: Callable[[S], list[Finding]]) -> S:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([explain_syntax(error, text, file)]) from error
    settings = read_settings(document, kind)
    findings = settings if isinstance(settings, list) else check_all(settings)
    if isinstance(settings, list) or findings:
        lines = find_lines(text)
        problems = [locate(finding, lines, file) for finding in findings]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return settings
