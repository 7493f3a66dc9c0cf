"""Read the configuration file: strict TOML in, one frozen `Config` out, or every error with its line.

Nothing but `service` and `cli` imports it; the parts get their own settings and know of no file.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pillarbox.config.checks import check
from pillarbox.config.settings import Config, ConsoleSettings, ListenSettings, sandbox
from pillarbox.config.source import find_lines
from pillarbox.config.strict import ConfigError, Problem, locate, read_settings

__all__ = [
    "Config",
    "ConfigError",
    "ConsoleSettings",
    "ListenSettings",
    "Problem",
    "load",
    "parse",
    "sandbox",
]

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def load(path: str | Path) -> Config:
    """Read a file. Raises ConfigError, which names everything that is wrong, or OSError."""
    octets = Path(path).read_bytes()
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), line, "", "not UTF-8", "save the file as UTF-8")]) from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Config:
    """Read a configuration; `file` is named in errors. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(error, text, file)]) from error
    config = read_settings(document, Config)
    findings = config if isinstance(config, list) else check(config)
    if isinstance(config, list) or findings:
        lines = find_lines(text)
        problems = [locate(finding, lines, file) for finding in findings]
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    return config


def _syntax(error: tomllib.TOMLDecodeError, text: str, file: str) -> Problem:
    """Say where the text stops being TOML."""
    found = _POSITION.search(str(error))
    line = int(found[1]) if found is not None and found[1] else len(text.rstrip().splitlines())
    problem = str(error)[: found.start()] if found is not None else str(error)
    return Problem(file, line, "", f"not TOML: {problem[:1].lower()}{problem[1:]}")
