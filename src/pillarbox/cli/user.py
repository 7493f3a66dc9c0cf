"""Make what the configuration needs to know of an account.

How a password is checked is `policy.accounts`' business.
"""

from __future__ import annotations

from typing import TextIO

import click


@click.group()
def user() -> None:
    """Make passwords for accounts."""


@user.command("hash")
@click.option(
    "--password-file", type=click.File("r"), metavar="FILE", help='Read it from here; "-" is standard input.'
)
def hash_command(password_file: TextIO | None) -> None:
    """Turn a password into the hash that the configuration takes: [account.NAME] password = "..."."""
    from pillarbox.policy.accounts import hash_password

    if password_file is None:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = password_file.readline().rstrip("\r\n")
    click.echo(hash_password(password))
