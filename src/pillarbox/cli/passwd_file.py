"""Read accounts from a file of lines NAME:{SCHEME}SECRET, as other mail servers keep them.

Keeping them is the business of `policy.account_store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.policy.account import Account
from pillarbox.smtp.scram import HASHES, parse_keys

if TYPE_CHECKING:
    from collections.abc import Iterable


class PasswdFileError(Exception):
    """A line can't be used; the text says which, and why."""


def read_passwd_file(lines: Iterable[str]) -> list[tuple[Account, str]]:
    """The accounts, each with its password where that is known. Raises PasswdFileError."""
    found: dict[str, tuple[Account, str]] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            account, password = _entry(text)
        except ValueError as error:
            raise PasswdFileError(f"line {number}: {error}") from error
        if account.name in found:
            raise PasswdFileError(f"line {number}: {account.name} is there twice")
        found[account.name] = account, password
    return list(found.values())


def _entry(text: str) -> tuple[Account, str]:
    name, colon, secret = text.partition(":")
    name = name.strip().lower()
    if not colon or not name or any(letter.isspace() for letter in name):
        raise ValueError("not NAME:{SCHEME}SECRET")
    scheme, brace, value = secret.removeprefix("{").partition("}")
    if not secret.startswith("{") or not brace or not value:
        raise ValueError("no {SCHEME} in front of the secret")
    scheme = scheme.upper()
    if scheme in ("PLAIN", "CLEARTEXT"):
        return Account(name), value
    value = value.split(":", 1)[0]  # further fields of the line are about files, which are not ours
    if scheme in ("ARGON2ID", "ARGON2I", "ARGON2") and value.startswith("$argon2"):
        return Account(name, value), ""
    if scheme in HASHES:
        mechanism, keys = parse_keys(_keys(scheme, value))
        return Account(name, keys={mechanism: keys}), ""
    raise ValueError(
        f"the scheme {scheme} can't be used; there are ARGON2ID, SCRAM-SHA-256, SCRAM-SHA-1 and PLAIN"
    )


def _keys(scheme: str, value: str) -> str:
    """Dovecot writes "4096,salt,stored,server"."""
    iterations, salt, stored, server = value.split(",")
    return f"{scheme}${iterations}:{salt}${stored}:{server}"
