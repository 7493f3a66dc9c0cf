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
@click.option("--scram", "mechanism", is_flag=True, flag_value="SCRAM-SHA-256", help="Make keys for SCRAM.")
def hash_command(password_file: TextIO | None, mechanism: str | None) -> None:
    """Turn a password into the hash that the configuration takes: [account.NAME] password = "...".

    With --scram into one of the keys for: scram = ["..."].
    """
    from pillarbox.policy.passwords import hash_password, scram_keys
    from pillarbox.smtp.scram import format_keys

    if password_file is None:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = password_file.readline().rstrip("\r\n")
    if mechanism:
        click.echo(format_keys(mechanism, scram_keys(mechanism, password)))
    else:
        click.echo(hash_password(password))
