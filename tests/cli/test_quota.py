"""How full mailboxes are, as an operator sees it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "mail").mkdir()
    file = tmp_path / "pillarbox.toml"
    file.write_text(
        f"""
        [domain."example.org"]
        deliver = "maildir:{tmp_path}/mail/{{user}}"
        users = ["ann", "bob", "postmaster"]
        quota.size = "1K"
        user.eve.quota = 0
        """
    )
    return lambda *arguments: CliRunner().invoke(cli, ["quota", *arguments, "--config", str(file)])


def test_how_full_mailboxes_are(run, tmp_path: Path) -> None:
    for name in ("tmp", "new", "cur"):
        (tmp_path / "mail" / "ann" / name).mkdir(parents=True)
    (tmp_path / "mail/ann/new/1.a").write_bytes(b"x" * 100)
    shown = run("Ann@example.org", "bob@example.org", "--json")
    assert shown.exit_code == 0, shown.output
    assert [
        (one["address"], one["octets"], one["messages"], one["size"]) for one in json.loads(shown.stdout)
    ] == [
        ("ann@example.org", 100, 1, 1024),
        ("bob@example.org", 0, 0, 1024),
    ]
    (tmp_path / "mail/ann/new/1.a").unlink()
    assert " 100 " in run("ann@example.org").stdout
    assert " 100 " not in run("ann@example.org", "--recount").stdout


@pytest.mark.parametrize(
    "address", ["eve@example.org", "nobody@example.org", "x@elsewhere.example", "no address"]
)
def test_what_has_no_quota(run, address: str) -> None:
    shown = run(address)
    assert shown.exit_code == 67
    assert "no mailbox with a quota" in shown.stderr


def test_an_empty_mailbox_holds_nothing_and_no_limit_is_a_dash(run) -> None:
    assert run("bob@example.org").stdout.splitlines()[1].split() == ["bob@example.org", "0", "1024", "0", "-"]


def test_without_addresses_all_mailboxes_with_a_quota_are_listed(run) -> None:
    listed = json.loads(run("--json").stdout)
    assert [one["address"] for one in listed] == [
        "ann@example.org",
        "bob@example.org",
        "postmaster@example.org",
    ]


def test_an_unreadable_configuration_is_said_to_be_so(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["quota", "ann@example.org", "--config", str(tmp_path / "nothing")])
    assert (shown.exit_code, "cannot read" in shown.stderr) == (66, True)
