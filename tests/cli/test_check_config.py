"""`pillarbox check-config`: what it finds beyond the form of the file, and what it says the server will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli
from pillarbox.policy.account import Account
from pillarbox.policy.account_store import FILE, AccountStore

HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "mail").mkdir()
    return tmp_path


@pytest.fixture
def check(folder: Path) -> Any:
    def check(text: str, status: int = 0) -> str:
        file = folder / "pillarbox.toml"
        file.write_text(f'data = "{folder}/data"\n{text}')
        ran = CliRunner().invoke(cli, ["check-config", str(file)])
        assert ran.exit_code == status, ran.output
        return ran.output

    return check


def domain(folder: Path, more: str) -> str:
    return f'[domain."example.org"]\ndeliver = "maildir:{folder}/mail/{{user}}"\n{more}\n'


def test_all_users_are_counted_wherever_they_stand(check: Any, folder: Path) -> None:
    (folder / "users").write_text("dora\nemil\n")
    assert "every user, 0 aliases" in check(domain(folder, ""))
    assert "3 users" in check(domain(folder, 'users = ["ann", "bob"]\nuser.carl.quota = "1G"'))
    told = check(domain(folder, f'users_file = "{folder}/users"'))
    assert f"the users in {folder}/users" in told
    assert "every user" not in told


@pytest.mark.parametrize("key", ["users_file", "aliases_file"])
def test_files_of_a_domain_are_looked_at_and_keep_no_server_from_starting(
    check: Any, folder: Path, key: str
) -> None:
    told = check(domain(folder, f'users = ["ann"]\n{key} = "{folder}/nothing"'))
    assert f'warning: domain."example.org".{key}: ' in told
    assert "No such file" in told
    (folder / "nothing").write_text("a b c@@: \n")
    assert "line 1" in check(domain(folder, f'users = ["ann"]\n{key} = "{folder}/nothing"'))


def test_the_folder_of_the_mailboxes_has_to_exist(check: Any, folder: Path) -> None:
    (folder / "mail").rmdir()
    told = check(domain(folder, 'users = ["ann"]'))
    assert f'warning: domain."example.org".deliver: {folder}/mail is no folder' in told


def test_accounts_of_the_store_are_counted_too(check: Any, folder: Path) -> None:
    assert "0 accounts may log in" in check("")
    assert not (folder / "data" / FILE).exists(), "only a look"
    store = AccountStore(folder / "data" / FILE)
    store.add(Account("ann"))
    store.add(Account("bob"))
    store.enable("bob", enabled=False)
    store.close()
    assert "1 account may log in" in check("")
    assert "2 accounts may log in" in check(f'[account.zoe]\npassword = "{HASH}"\n')


def test_a_submission_listener_without_accounts_is_warned_of(check: Any, folder: Path) -> None:
    listener = '[[listen]]\naddress = "127.0.0.1:2587"\nrole = "submission"\nlogin_in_clear = true\n'
    assert "no account may log in" in check(listener)
    assert "no account may log in" not in check(f'{listener}[account.zoe]\npassword = "{HASH}"\n')


def test_what_is_missing_for_a_moved_user_is_said(check: Any, folder: Path) -> None:
    told = check(domain(folder, 'users = ["ann"]\nuser.carl.state = "moved"'), 78)
    assert 'a user with state = "moved" needs it' in told
