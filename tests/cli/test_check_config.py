"""`pillarbox check-config`: what it finds beyond the form of the file, and what it says the server will do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

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
    assert f'warning: {folder}/pillarbox.toml:5: domain."example.org".{key}: ' in told
    assert "No such file" in told
    (folder / "nothing").write_text("a b c@@: \n")
    assert "line 1" in check(domain(folder, f'users = ["ann"]\n{key} = "{folder}/nothing"'))


def test_what_the_file_names_is_told_with_its_line(check: Any, folder: Path) -> None:
    told = check(f'[tls]\ncertificate = "{folder}/no.pem"\nkey = "{folder}/no.key"\n', status=78)
    assert f"{folder}/pillarbox.toml:3: tls.certificate: {folder}/no.pem cannot be read" in told
    told = check(f'[program."a b"]\nlimit = "1m"\ncommand = ["{folder}/no"]\n', status=78)
    assert f'pillarbox.toml:4: program."a b".command: {folder}/no cannot be run' in told
    told = check('[[listen]]\naddress = "127.0.0.1:0"\n[[listen]]\n\naddress = "192.0.2.1:25"', status=78)
    assert "pillarbox.toml:6: listen[2].address: " in told


def test_a_function_that_python_does_not_find_and_a_route_that_never_applies_are_warned_of(
    check: Any, folder: Path
) -> None:
    file = folder / "pillarbox.toml"
    told = check('[domain."a.example"]\ndeliver = "python:no.such:call"\naliases = { x = "python:os:no" }\n')
    assert (
        f'{file}:3: domain."a.example".deliver: there is no Python module "no.such"; its mail waits' in told
    )
    assert '"os"' not in told
    told = check('[[route]]\nmatch = "*"\nvia = "hold"\n[[route]]\nmatch = "*"\nvia = "discard"\n')
    assert (
        f'warning: {file}:5: route[2]: it never applies, for [[route]] number 1 has match = "*" too' in told
    )


def test_the_file_is_named_alone_or_by_config_and_not_twice(check: Any, folder: Path) -> None:
    check("")
    file = str(folder / "pillarbox.toml")
    for arguments, status in ((["--config", file], 0), ([file, "--config", file], 64)):
        assert CliRunner().invoke(cli, ["check-config", *arguments]).exit_code == status
    assert CliRunner().invoke(cli, ["check-config"], env={"PILLARBOX_CONFIG": file}).exit_code == 0


def test_warnings_are_shaped_like_problems(check: Any, folder: Path) -> None:
    check("limits.hops = 3\n")
    file = str(folder / "pillarbox.toml")
    ran = CliRunner().invoke(cli, ["check-config", file, "--json"])
    warnings = json.loads(ran.stdout)["warnings"]
    assert (file, 2, "limits.hops") in [(one["file"], one["line"], one["key"]) for one in warnings]


def test_more_free_space_than_the_disk_has_is_warned_of(check: Any) -> None:
    told = check('[limits]\nmin_free = "900T"\n')
    assert "pillarbox.toml:3: limits.min_free: the disk of " in told
    assert "so all mail is put off" in told


def test_the_folder_of_the_mailboxes_has_to_exist(check: Any, folder: Path) -> None:
    (folder / "mail").rmdir()
    told = check(domain(folder, 'users = ["ann"]'))
    assert f'pillarbox.toml:3: domain."example.org".deliver: {folder}/mail is no folder' in told


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


def test_a_file_of_accounts_is_read(check: Any, folder: Path) -> None:
    file = folder / "accounts.toml"
    assert f"accounts_file: {file} cannot be read" in check(f'accounts_file = "{file}"\n', 78)
    file.write_text("[account.ann]\n")
    assert f"{file}:1: account.ann: the key 'password' is missing" in check(f'accounts_file = "{file}"\n', 78)
    file.write_text(f'[account.ann]\npassword = "{HASH}"\n')
    told = check(f'accounts_file = "{file}"\n' + domain(folder, 'users_from = ["accounts"]'))
    assert "1 account may log in" in told
    assert "the users from accounts" in told


def test_a_submission_listener_without_accounts_is_warned_of(check: Any, folder: Path) -> None:
    listener = '[[listen]]\naddress = "127.0.0.1:2587"\nrole = "submission"\nlogin_in_clear = true\n'
    assert "no account may log in" in check(listener)
    assert "no account may log in" not in check(f'{listener}[account.zoe]\npassword = "{HASH}"\n')


def test_what_is_missing_for_a_moved_user_is_said(check: Any, folder: Path) -> None:
    told = check(domain(folder, 'users = ["ann"]\nuser.carl.state = "moved"'), 78)
    assert 'a user with state = "moved" needs it' in told


# --- certificates


@pytest.fixture
def issue(folder: Path) -> Any:
    """Write a certificate and its key: `issue("name", key="of another", expires=datetime)`."""
    authority = trustme.CA()

    def issue(name: str, **options: Any) -> str:
        issued = authority.issue_cert("mx.example.org", **options)
        (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        (folder / f"{name}.key").write_bytes(issued.private_key_pem.bytes())
        (folder / f"{name}.key").chmod(0o600)
        return f'[tls]\ncertificate = "{folder}/{name}.pem"\nkey = "{folder}/{name}.key"\n'

    return issue


def test_what_is_wrong_with_a_certificate_is_said_with_its_file(check: Any, issue: Any, folder: Path) -> None:
    text = issue("mx")
    assert "certificate" not in check(text)
    issue("other")
    other = f'[[certificate]]\nchain = "{folder}/mx.pem"\nkey = "{folder}/other.key"\n'
    wrong = (
        f"certificate[1].key: {folder}/other.key does not belong to the first certificate in {folder}/mx.pem"
    )
    assert wrong in check(text + other, status=78)
    (folder / "mx.key").chmod(0o644)
    told = check(text, status=78)
    assert f"tls.key: everybody may read or change the private key in {folder}/mx.key" in told
    assert f"chmod 600 {folder}/mx.key" in told
    (folder / "mx.key").write_text("no key")
    assert f"tls.key: {folder}/mx.key holds no private key in PEM" in check(text, status=78)
    (folder / "mx.key").unlink()
    assert f"tls.key: {folder}/mx.key cannot be read: No such file" in check(text, status=78)


def test_certificates_that_are_not_valid_now_and_keys_with_a_password(
    check: Any, issue: Any, folder: Path
) -> None:
    day = timedelta(days=1)
    old = issue("old", not_before=datetime.now(UTC) - 9 * day, not_after=datetime.now(UTC) - day)
    assert f"tls.certificate: the certificate in {folder}/old.pem ended 20" in check(old, status=78)
    early = issue("early", not_before=datetime.now(UTC) + day, not_after=datetime.now(UTC) + 2 * day)
    assert f"the certificate in {folder}/early.pem begins 20" in check(early, status=78)
    text = issue("locked")
    key = load_pem_private_key((folder / "locked.key").read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    (folder / "locked.key").write_bytes(locked)
    assert "nobody to type its password" in check(text, status=78)
