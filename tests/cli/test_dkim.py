"""`pillarbox dkim`: keys are made, listed and changed, and what is to be published is printed."""

from __future__ import annotations

import json

import dns.zone
import pytest
from click.testing import CliRunner

from pillarbox.cli.commands import cli


@pytest.fixture
def run(tmp_path):
    def run(*arguments, status=0):
        done = CliRunner().invoke(cli, ["dkim", *arguments, "--data", str(tmp_path)])
        assert done.exit_code == status, done.output
        return done.output

    return run


def test_the_records_can_be_pasted_into_a_zone(run):
    text = run("new", "example.org")
    zone = dns.zone.from_text(
        f"$TTL 300\n@ IN SOA a. b. 1 2 3 4 5\n@ IN NS a.\n{text}", "example.org", relativize=False
    )
    listed = json.loads(run("list", "--json"))
    assert {one["kind"] for one in listed} == {"rsa", "ed25519"}
    assert {one["state"] for one in listed} == {"signs"}
    for one in listed:
        strings = zone.get_rdataset(one["name"] + ".", "TXT")[0].strings
        assert b"".join(strings).decode() == one["record"]


def test_keys_are_changed_in_two_steps(run):
    first = json.loads(run("new", "example.org", "--kind", "rsa", "--json"))
    assert "rotate --activate example.org" in run("rotate", "example.org")
    waiting = [one["name"] for one in json.loads(run("list", "--json")) if one["state"] == "waits"]
    assert json.loads(run("rotate", "example.org", "--activate", "--json")) == {
        "signing": waiting, "retired": [first[0]["name"]],
    }  # fmt: skip
    assert "no key of example.org waits" in run("rotate", "example.org", "--activate", status=1)
    assert "retired" in run("list")


def test_what_is_no_domain_gets_no_key(run):
    assert "not a domain name" in run("new", "../example", status=64)


def test_without_a_data_folder_it_says_what_to_do(tmp_path):
    done = CliRunner().invoke(cli, ["dkim", "new", "example.org", "--data", str(tmp_path / "none")])
    assert "start the server once" in done.output
    assert done.exit_code == 64


def test_a_key_that_others_may_read_is_an_error(run, tmp_path):
    run("new", "example.org")
    next(tmp_path.glob("dkim/*/*.key")).chmod(0o644)
    assert "others may read this key" in run("list", status=78)


def test_a_list_without_keys_says_so(run):
    assert run("list") == "No key.\n"
    assert json.loads(run("list", "--json")) == []


def test_what_is_no_domain_is_named(run):
    assert "'nonsense..' is not a domain name" in run("new", "nonsense..", status=64)
