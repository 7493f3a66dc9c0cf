"""Keep the accounts that may log in: add, change, disable and list them, and their app passwords.

The file is `policy.account_store`'s; how a password is checked is the business of `policy.accounts`. Passwords are
never taken from the command line, where others could read them.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click

from pillarbox.cli.outcome import Exit
from pillarbox.cli.passwd_file import PasswdFileError, read_passwd_file
from pillarbox.cli.show import Group, ask_password, fail, format_time, iso_time, show_json, show_table
from pillarbox.cli.store import auth_mechanisms, data_folder, store_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillarbox.policy.account import Account
    from pillarbox.policy.account_store import AccountStore, StoreFile

S = TypeVar("S", bound="StoreFile")
PASSWORD_VARIABLE = "PILLARBOX_PASSWORD"  # noqa: S105 - its name
_PROGRESS_FROM = 50  # accounts
_password_file = click.option(
    "--password-file", type=click.File("r"), metavar="FILE", help='Read it from here; "-" is standard input.'
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def user() -> None:
    """Keep the accounts that may log in.

    The server need not run, and if it does it need not be told. A password is asked for, or read from
    --password-file or $PILLARBOX_PASSWORD. Exit status: 0 done, 1 there is no such account, or there is one already,
    65 what was given can't be used, 66 the accounts can't be read, 75 not now.
    """


@contextmanager
def _accounts(data: Path | None, config: Path | None, *, makes: bool = False) -> Iterator[AccountStore]:
    """The accounts of a data folder, which only `makes` makes; what goes wrong with them ends the command."""
    from pillarbox.policy.account_store import FILE, AccountStore

    folder = data or data_folder(config)
    if not makes and not (folder / FILE).exists():
        fail(f"there are no accounts in {folder}; `pillarbox user add` makes the first one", Exit.NOTHING)
    with handled(folder / FILE, AccountStore) as store:
        yield store


@contextmanager
def handled(file: Path, store_type: type[S]) -> Iterator[S]:
    """A store in that file; what goes wrong with it ends the command."""
    import apsw

    from pillarbox.policy.account_store import AccountError

    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = store_type(file)
        try:
            yield store
        finally:
            store.close()
    except AccountError as error:
        fail(str(error), Exit.NOTHING)
    except apsw.BusyError:
        fail("somebody else is writing; try again", Exit.TEMPORARY)
    except (apsw.Error, OSError) as error:
        fail(f"{file} cannot be used: {error}", Exit.NO_INPUT)


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A name in the form in which it is kept."""
    name = value.strip().lower()
    if not name or any(letter.isspace() or not letter.isprintable() for letter in name):
        raise click.BadParameter("a name has no spaces or control characters")
    return name


_named = click.argument("name", callback=_name)


def _ask_password(password_file: TextIO | None) -> str:
    if password_file is not None:
        password: str = password_file.readline().rstrip("\r\n")
    elif PASSWORD_VARIABLE in os.environ:
        password = os.environ[PASSWORD_VARIABLE]
    else:
        password = ask_password(twice=True)
    if not password:
        fail("an empty password is none", Exit.DATA)
    return password


def _with_password(
    name: str, password: str, senders: tuple[str, ...], data: Path | None, config: Path | None
) -> Account:
    from pillarbox.policy.account import Account
    from pillarbox.policy.account_store import with_password
    from pillarbox.smtp.scram import ScramError

    try:
        return with_password(Account(name, senders=senders), password, auth_mechanisms(data, config))
    except ScramError as error:
        fail(f"this can be no password: {error}", Exit.DATA)


@user.command("add")
@_named
@click.option(
    "--sender", "senders", multiple=True, help='A sender address it may use, or "@domain". Default: any.'
)
@_password_file
@store_options
def add_command(
    name: str, senders: tuple[str, ...], password_file: TextIO | None, data: Path | None, config: Path | None
) -> None:
    """Add an account."""
    account = _with_password(name, _ask_password(password_file), tuple(map(str.lower, senders)), data, config)
    with _accounts(data, config, makes=True) as store:
        store.add(account)
    click.echo(f"{name} can log in.")


@user.command("passwd")
@_named
@_password_file
@store_options
def passwd_command(name: str, password_file: TextIO | None, data: Path | None, config: Path | None) -> None:
    """Give an account another password."""
    account = _with_password(name, _ask_password(password_file), (), data, config)
    with _accounts(data, config) as store:
        store.set_password(account)
    click.echo(f"{name} has another password.")


@user.command("disable")
@_named
@store_options
def disable_command(name: str, data: Path | None, config: Path | None) -> None:
    """Let an account not log in any more, but keep it."""
    with _accounts(data, config) as store:
        store.enable(name, enabled=False)
    click.echo(f"{name} can't log in any more.")


@user.command("enable")
@_named
@store_options
def enable_command(name: str, data: Path | None, config: Path | None) -> None:
    """Let an account log in again."""
    with _accounts(data, config) as store:
        store.enable(name, enabled=True)
    click.echo(f"{name} can log in.")


@user.command("remove")
@_named
@store_options
def remove_command(name: str, data: Path | None, config: Path | None) -> None:
    """Forget an account."""
    with _accounts(data, config) as store:
        store.remove(name)
    click.echo(f"{name} is removed.")


@user.command("list")
@_as_json
@store_options
def list_command(data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """List the accounts. Those in the configuration file are not among them."""
    from pillarbox.policy.account_store import FILE

    folder, found = data or data_folder(config), []
    if (folder / FILE).exists():  # a look makes none
        with _accounts(folder, config) as store:
            found = store.listed()
    if as_json:
        show_json(
            [
                {
                    "name": one.name,
                    "enabled": one.enabled,
                    "senders": list(one.senders),
                    "scram": list(one.mechanisms),
                    "app_passwords": one.app_passwords,
                    "created": iso_time(one.created),
                }
                for one in found
            ]
        )
    elif not found:
        click.echo("No account.")
    else:
        show_table(
            ("NAME", "STATE", "SENDERS", "SCRAM", "APP PASSWORDS"),
            [
                (
                    one.name,
                    "enabled" if one.enabled else "disabled",
                    " ".join(one.senders) or "any",
                    "yes" if one.mechanisms else "no",
                    str(one.app_passwords),
                )
                for one in found
            ],
            right=("APP PASSWORDS",),
        )


@user.command("import")
@click.argument("file", type=click.File("r"))
@click.option("--replace", is_flag=True, help="Replace accounts that there are already.")
@store_options
def import_command(file: TextIO, data: Path | None, config: Path | None, *, replace: bool) -> None:
    """Add accounts from a file of lines NAME:{SCHEME}SECRET, as Dovecot's passwd-file has them; "-" is standard input.

    The schemes are ARGON2ID, SCRAM-SHA-256, SCRAM-SHA-1 and PLAIN. Nothing is added if a line can't be used.
    """
    from pillarbox.policy.account_store import with_password

    try:
        entries = read_passwd_file(file)
    except PasswdFileError as error:
        fail(str(error), Exit.DATA)
    mechanisms = auth_mechanisms(data, config)
    shown = len(entries) >= _PROGRESS_FROM and sys.stderr.isatty()
    with _accounts(data, config, makes=True) as store:
        with click.progressbar(entries, label="Importing", file=sys.stderr, hidden=not shown) as progress:
            made = [
                with_password(account, password, mechanisms) if password else account
                for account, password in progress
            ]
        store.add_all(made, replace=replace)
    click.echo(f"{len(made)} {'account' if len(made) == 1 else 'accounts'} imported.")


@user.group("app-password", cls=Group)
def app_password() -> None:
    """Passwords for single programs and devices, which can be taken back one by one."""


@app_password.command("add")
@_named
@click.argument("label")
@store_options
def add_app_password(name: str, label: str, data: Path | None, config: Path | None) -> None:
    """Make an app password and print it, this once. LABEL is what it is for, such as "phone"."""
    with _accounts(data, config) as store:
        secret = store.add_app_password(name, label)
    click.echo(secret)


@app_password.command("list")
@_named
@_as_json
@store_options
def list_app_passwords(name: str, data: Path | None, config: Path | None, *, as_json: bool) -> None:
    """List the app passwords of an account, and when each was last used."""
    with _accounts(data, config) as store:
        found = store.app_passwords(name)
    if as_json:
        show_json(
            [
                {
                    "label": one.label,
                    "created": iso_time(one.created),
                    "used": iso_time(one.used) if one.used else None,
                }
                for one in found
            ]
        )
    elif not found:
        click.echo("No app password.")
    else:
        show_table(
            ("LABEL", "CREATED", "LAST USED"),
            [
                (one.label, format_time(one.created), format_time(one.used) if one.used else "never")
                for one in found
            ],
        )


@app_password.command("remove")
@_named
@click.argument("label")
@store_options
def remove_app_password(name: str, label: str, data: Path | None, config: Path | None) -> None:
    """Take an app password back."""
    with _accounts(data, config) as store:
        store.remove_app_password(name, label)
    click.echo(f"{label} can't be used any more.")


@user.command("hash")
@_password_file
@click.option("--scram", "mechanism", is_flag=True, flag_value="SCRAM-SHA-256", help="Make keys for SCRAM.")
def hash_command(password_file: TextIO | None, mechanism: str | None) -> None:
    """Turn a password into the hash that the configuration takes: [account.NAME] password = "...".

    With --scram into one of the keys for: scram = ["..."].
    """
    from pillarbox.policy.passwords import hash_password, scram_keys
    from pillarbox.smtp.scram import format_keys

    password = _ask_password(password_file)
    if mechanism:
        click.echo(format_keys(mechanism, scram_keys(mechanism, password)))
    else:
        click.echo(hash_password(password))
